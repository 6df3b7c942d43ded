"""`make bench`: every benchmark in turn, each in a process of its own, with the machine's size on top.

`python -m lightly_pipeline_tests.benchmarks [NAME …]` runs only those named. A benchmark is a module of this folder
that runs by itself; it prints a table and ends with 0 when its figures meet their targets.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

_SHARED = {"__init__", "__main__", "corruption", "costs", "descriptors", "judged", "judges"}
BENCHMARKS = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lightly_pipeline_tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; by default all")
    names = parser.parse_args().names or BENCHMARKS
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    memory = psutil.virtual_memory().total / 1024**3
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}")
    ended = {}
    for name in names:
        print(f"\n== {name}", flush=True)
        ended[name] = subprocess.run([sys.executable, "-m", f"{__package__}.{name}"]).returncode
    print()
    for name, code in ended.items():
        print(f"{name}: {'ok' if code == 0 else f'ended with {code}'}")
    return int(any(ended.values()))


if __name__ == "__main__":
    sys.exit(main())
