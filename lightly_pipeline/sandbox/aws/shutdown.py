"""`shutdown`, `poweroff`, `halt` and `reboot` of a sandbox instance: found first in the PATH of what runs there.

Runs as a plain script (`shutdown.py ENDPOINT INSTANCE NAME [OPTION…] [TIME]`) and tells the sandbox, as the hypervisor
would notice it: no AWS call and no credentials.
"""

import json
import sys
import urllib.request


def minutes_of(time: str) -> float:
    """`now`, `+5` or `5` as minutes; SystemExit for a time of day, which the sandbox does not know."""
    if time == "now":
        return 0
    try:
        return float(time)
    except ValueError:
        sys.exit(f"shutdown: the sandbox understands now and +MINUTES, not {time}")


def main() -> None:
    """Read the options that scripts use (-h, -P, -H, -r, -c, now, +N) and pass the wish on."""
    endpoint, instance, name, *rest = sys.argv[1:]
    options = "".join(argument[1:] for argument in rest if argument.startswith("-"))
    times = [argument for argument in rest if not argument.startswith("-")]
    if "c" in options and name == "shutdown":
        wish: dict[str, object] = {"action": "cancel"}
    elif name == "reboot" or (name == "shutdown" and "r" in options):
        wish = {"action": "reboot"}
    else:
        # As systemd's: shutdown without a time means in one minute, the others at once.
        minutes = minutes_of(times[0]) if times else (1 if name == "shutdown" else 0)
        wish = {"action": "shutdown", "minutes": minutes}
    request = urllib.request.Request(  # noqa: S310 (the sandbox's own http endpoint)
        f"{endpoint}/_sandbox/instances/{instance}/power",
        data=json.dumps(wish).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        answer.read()


if __name__ == "__main__":
    main()
