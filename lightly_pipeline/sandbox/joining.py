"""Joining a sandbox that another process serves, so that a second shell sees the same bucket and runs.

The serving process leaves its environment in the state folder for as long as it lives. Its lock on that folder, which
the kernel drops with the process, tells a live one from what a killed one left; who takes the lock removes that first.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightly_pipeline.sandbox.errors import SandboxInUse
from lightly_pipeline.sandbox.home import dagster_home

_ANNOUNCEMENT = "serving.json"


@dataclass(frozen=True)
class JoinedSandbox:
    """A sandbox that another process serves; leaving the `with` block leaves it as it is."""

    environment: dict[str, str]

    def __enter__(self) -> "JoinedSandbox":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def announced(state: Path, environment: Mapping[str, str], videos: Path | None) -> Iterator[None]:
    """Tell others in the same folder how to reach this sandbox, until the block ends."""
    file, arriving = state / _ANNOUNCEMENT, state / f".{_ANNOUNCEMENT}.arriving"
    content = {"pid": os.getpid(), "environment": dict(environment), "videos": _place(videos)}
    arriving.touch(mode=0o600)
    arriving.write_text(json.dumps(content))
    arriving.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def forget_announcement(state: Path) -> None:
    """Remove what a killed process left; the caller holds the folder's lock."""
    (state / _ANNOUNCEMENT).unlink(missing_ok=True)


def join(state: Path, videos: Path | None, refusal: SandboxInUse) -> JoinedSandbox:
    """The sandbox that serves `state`; raises `refusal` where it does not say how to reach it (it is just starting).

    `videos`, where given, must be the folder that it offers: one Pexels cannot serve two.
    """
    try:
        content = json.loads((state / _ANNOUNCEMENT).read_text())
        pid, environment, offered = content["pid"], content["environment"], content["videos"]
    except (OSError, ValueError, KeyError):
        raise refusal from None
    if videos is not None and _place(videos) != offered:
        raise SandboxInUse(
            f"The sandbox in {state}, served by process {pid}, offers {offered or 'its own footage'}, not {videos}: "
            f"end that process first, or use another folder with --state."
        )
    # One that serves with a DAGSTER_HOME of its user's says nothing of it.
    environment = {"DAGSTER_HOME": str(dagster_home(state)), **environment}
    return JoinedSandbox({name: value for name, value in environment.items() if not _is_set_by_user(name)})


def _is_set_by_user(name: str) -> bool:
    return name == "DAGSTER_HOME" and bool(os.environ.get(name))


def _place(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())
