"""A small process that kills a sandbox's jobs when the sandbox is gone, however it went.

Runs as a plain script (`python -I -S reaper.py MARK`), so that it starts in milliseconds and imports nothing of ours.
Its standard input is a pipe that the sandbox holds: lines `+PGID` and `-PGID` tell which process groups are jobs, and
its end, which also a SIGKILL of the sandbox brings about, means: kill them all. On Linux every process that carries
MARK in its environment is killed as well, so that one that left its group, or was started in the very last moment,
does not survive. Elsewhere the process groups are what is known.
"""

import contextlib
import os
import select
import signal
import sys
import time

_PARENT_CHECK_SECONDS = 1.0


def marked_processes(mark: bytes) -> "list[int]":
    """Ids of the processes whose environment contains `mark`, this one excepted; empty where there is no /proc."""
    found: list[int] = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/" + name + "/environ", "rb") as file:
                environment = file.read()
        except OSError:
            # Ended in between, or another user's.
            continue
        if mark in environment.split(b"\0"):
            found.append(int(name))
    return found


def kill_marked(mark: bytes) -> None:
    """SIGKILL every process that carries `mark`, again until none is left: one may fork while it is looked for."""
    for _ in range(50):
        found = marked_processes(mark)
        if not found:
            return
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def kill_group(group: int) -> None:
    """SIGKILL a process group; one that is gone already is fine."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Follow the pipe until it ends or the parent is another one, then kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = os.fsencode(sys.argv[1])
    parent = os.getppid()
    groups: set[int] = set()
    rest = b""
    while True:
        # A forked child of the sandbox could hold the pipe open: the parent's id tells as well.
        ready, _, _ = select.select([0], [], [], _PARENT_CHECK_SECONDS)
        if not ready:
            if os.getppid() != parent:
                break
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group)
    kill_marked(mark)


if __name__ == "__main__":
    main()
