"""The child process of `mundig.py`: reads a task from standard input, writes picks, says what went wrong.

Run as a file, so that starting it imports nothing but NumPy and lightly-mundig.
"""

import ctypes
import json
import signal
import sys

import numpy as np
from lightly_mundig import Selection


def _die_with_the_parent() -> None:
    """A parent that is killed cannot end its child; on Linux the kernel does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> int:
    """Make the selection that the task describes."""
    _die_with_the_parent()
    task = json.load(sys.stdin)
    embeddings = np.load(task["embeddings"], mmap_mode="r")
    try:
        selection = Selection()
        selection.add_diversifying_strategy(embeddings, 1.0, task["min_distance"])
        picks = selection.run_selection(list(range(task["preselected"])), len(embeddings), task["select"])
    except BaseException as error:  # a Rust panic is not an Exception
        sys.stderr.write(f"\n{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    np.save(task["picks"], np.array(picks, dtype=np.int64))
    return 0


if __name__ == "__main__":
    sys.exit(main())
