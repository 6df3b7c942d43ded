"""The text of a command: bash that runs one program with given arguments, and nothing else.

SSM hands the text to root's shell on the instance. Arguments are data, whatever they contain: they are quoted
for bash, and SSM's own `{{ssm:parameter}}` references are broken up so that a file name cannot make SSM paste
a secret. No secret belongs in here: the text of every command can be read in SSM's history.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

# Exit codes that SSM's agent takes for something else, and what stands in for them here: 137 would be
# reported as a timeout, 194 would reboot the instance and run the command again.
KILLED, KILLED_REMAPPED = 137, 237
REBOOT, REBOOT_REMAPPED = 194, 238

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PREAMBLE = """\
#!/bin/bash
set -euo pipefail
export HOME="${HOME:-/root}"
"""
_RUN = """\
code=0
%s || code=$?
case "$code" in
137) echo "killed on the instance (exit code 137), as the kernel does when memory runs out" >&2; exit 237 ;;
194) echo "exit code 194 is passed on as 238: it would reboot the instance" >&2; exit 238 ;;
esac
exit "$code"
"""
_KILL_CONTAINER = """\
#!/bin/bash
if command -v docker >/dev/null; then docker kill %s >/dev/null 2>&1 || true; fi
"""


def quoted(argument: str) -> str:
    """The argument as one word of bash that stays what it is.

    ValueError for a NUL, which no argument can hold.
    """
    if "\0" in argument:
        raise ValueError(f"The argument {argument!r} contains a NUL character, which none can.")
    word = shlex.quote(argument)
    # Inside single quotes: end the quotes between two braces, and begin them again.
    return re.sub(r"\{(?=\{)", "{''", word)


def command_text(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Bash that exports `environment`, runs `argv`, and ends with its exit code, 137 and 194 excepted."""
    if not argv:
        raise ValueError("There is no command to run: argv is empty.")
    lines = [_PREAMBLE]
    for name, value in sorted((environment or {}).items()):
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is no name of an environment variable.")
        lines.append(f"export {name}={quoted(value)}\n")
    lines.append(_RUN % " ".join(quoted(argument) for argument in argv))
    return "".join(lines)


def kill_container_text(command_id: str) -> str:
    """Bash that ends the container which a cancelled command has left behind: the docker daemon owns it."""
    return _KILL_CONTAINER % quoted(f"lightly-{command_id}")
