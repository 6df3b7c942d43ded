"""What can go wrong in a selection, each with its sentence and the exit code of `lightly-worker`.

A step raises one of these where the user can do something about it; anything else is a defect and keeps its
traceback. The codes are part of the command's interface: `lightly-worker --help` lists them.
"""

import signal


class WorkerError(Exception):
    """A selection ended without a result; the message says what happened, to which thing, and what to do."""

    exit_code = 1


class OptionError(WorkerError):
    """An option is unknown, has a wrong value, or asks for what this worker does not do."""

    exit_code = 2


class NothingToSelect(WorkerError):
    """INPUT does not exist, holds no video and no image, or none of them could be read."""

    exit_code = 3


class StorageError(WorkerError):
    """INPUT could not be read or OUTPUT could not be written: missing bucket, no permission, full disk."""

    exit_code = 4


class DatapoolUnusable(WorkerError):
    """The datapool cannot be used: made by another embedder, damaged, or out of reach."""

    exit_code = 5


class Interrupted(WorkerError):
    """A signal asked the selection to end; there is no new result."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        name = signal.Signals(signal_number).name
        super().__init__(
            f"Stopped by {name}: nothing was completed; start the same command again and it continues "
            f"with the next video."
        )


EXIT_CODES = {
    0: "done, or already done",
    1: "a defect of the worker (with its traceback)",
    2: "an option is unknown, wrong or not supported",
    3: "no readable video or image in INPUT",
    4: "INPUT could not be read or OUTPUT could not be written",
    5: "the datapool cannot be used",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}
