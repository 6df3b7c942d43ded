"""`lightly-worker INPUT OUTPUT [key=value …]`: the command.

It parses, decides who listens, runs the selection in a thread of its own so that a signal is answered at once, and
turns errors into one line and an exit code. What a selection is, is in `pipeline`. The grammar of `key=value` is
Lightly's and lives in `arguments`; no argument parser knows it, and the rest is two words.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from lightly_pipeline.worker.errors import EXIT_CODES, Interrupted, OptionError, WorkerError

if TYPE_CHECKING:
    from lightly_pipeline.worker.options import Options
    from lightly_pipeline.worker.pipeline import SelectionResult
    from lightly_pipeline.worker.progress import Progress

log = logging.getLogger("lightly_pipeline.worker")

#: Seconds that a run has to end by itself after a signal, before the process ends without it.
_GRACE = 0.7

_USAGE = """\
usage: lightly-worker INPUT OUTPUT [key=value ...]
       lightly-worker datapool ...
       lightly-worker --help | --version

INPUT and OUTPUT are folders or s3:// prefixes. From all frames of the videos (or from the images) below INPUT the
worker selects few that are clean and different, and writes them, lists, embeddings and a report to OUTPUT.

example: lightly-worker videos/ selected/ stopping_condition.n_samples=0.1 dump_dataset=True
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point; ends the process."""
    # Before NumPy is imported. OpenBLAS's threads wait by spinning: two workers on two cores stood still for minutes
    # over small products, and what is large here has its own threads (libav).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Before pydantic is imported, which else looks through every installed package for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Before Arrow is, whose own allocator keeps what it freed.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["datapool"]:
        from importlib import import_module

        sys.exit(import_module("lightly_pipeline.worker.datapool.cli").main(given[1:]))
    if not given or given[0] == "help" or {"--help", "-h"} & set(given):
        # `lightly-worker --help | head` is no error.
        with suppress(BrokenPipeError):
            print(_help(), flush=True)
        sys.exit(0 if given else OptionError.exit_code)
    if given[0] == "--version":
        from lightly_pipeline.worker.manifest import worker_version

        print(f"lightly-worker {worker_version()}")
        sys.exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_before_the_run)
    _leave(run(given))


def run(arguments: Sequence[str]) -> int:
    """One selection from the command line; the exit code. Errors are one line on stderr."""
    _log_to_stdout()
    gc.disable()
    try:
        from lightly_pipeline.worker.arguments import parse_arguments

        places = [
            argument
            for argument in arguments
            if "=" not in argument or argument.startswith(("s3://", "/", "./", "../"))
        ]
        try:
            options = parse_arguments([argument for argument in arguments if argument not in places])
        except OptionError as error:
            raise OptionError(f"{error}{_hint(arguments, places)}") from None
        if options.sanity_check:
            from lightly_pipeline.worker.sanity import sanity_check

            sanity_check()
            return 0
        if len(places) != 2:
            raise OptionError(
                f"INPUT and OUTPUT are needed, and got {places}: see lightly-worker --help.{_hint(arguments, places)}"
            )
        return _select(places[0], places[1], options)
    except Interrupted as error:
        # Transfers that are under way would be waited for at a normal end.
        _end_now(error)
    except WorkerError as error:
        print(f"lightly-worker: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _hint(arguments: Sequence[str], places: Sequence[str]) -> str:
    """What to write where INPUT or OUTPUT has a `=` in its name, and was taken for an option."""
    taken = [argument for argument in arguments[:2] if "=" in argument and argument not in places]
    meant = [argument for argument in taken if len(places) == 1 or os.path.exists(argument)]
    return f" If {meant[0]!r} is a folder, write ./{meant[0]}." if meant and len(places) < 2 else ""


def _select(source: str, target: str, options: "Options") -> int:
    """Run the selection in a thread, and answer signals in this one."""
    from lightly_pipeline.worker.memory import allocate_sparingly
    from lightly_pipeline.worker.pipeline import SelectionResult, select_frames
    from lightly_pipeline.worker.progress import Bar, Lines, Listener, Progress, on_terminal
    from lightly_pipeline.worker.scan.cores import usable_cores

    # What was imported is no garbage: looking through it again and again took a tenth of a short run.
    gc.freeze()
    gc.enable()
    allocate_sparingly(usable_cores())

    with ExitStack() as stack:
        listeners: list[Listener] = [Bar() if on_terminal() else Lines()]
        session = None
        if _started_by_dagster():
            from lightly_pipeline.worker import pipes

            session = stack.enter_context(pipes.pipes_session())
            handler = session.handler()
            log.addHandler(handler)
            stack.callback(log.removeHandler, handler)
            listeners.append(session)
        progress = Progress(*listeners)
        outcome: list[SelectionResult | BaseException] = []

        def work() -> None:
            try:
                outcome.append(select_frames(source, target, options, progress=progress))
            except BaseException as error:
                outcome.append(error)

        worker = threading.Thread(target=work, name="selection", daemon=True)
        _run_until_signal(worker, progress)
        [result] = outcome or [Interrupted(signal.SIGTERM)]
        if isinstance(result, BaseException):
            raise result
        if session is not None:
            session.report(result)
        # Whoever has had enough of the log, as `head` has, or no room for it, has the result all the same.
        with suppress(OSError):
            _tell(result)
        return 0


def _started_by_dagster() -> bool:
    """Whether Dagster waits for messages from this process."""
    return all(f"DAGSTER_PIPES_{part}" in os.environ for part in ("CONTEXT", "MESSAGES"))


def _run_until_signal(worker: threading.Thread, progress: "Progress") -> None:
    """Start the thread and wait for it; after SIGINT or SIGTERM only for a moment, then end the process."""
    received: list[int] = []
    woken = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        del frame
        received.append(number)
        progress.interrupt(number)
        woken.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        worker.start()
        while worker.is_alive() and not received:
            worker.join(0.1)
        if received:
            worker.join(_GRACE)
            if worker.is_alive():
                _end_now(Interrupted(received[0]))
    finally:
        # What is left is to tell the result: nothing has to be answered any more.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def _leave(code: int) -> NoReturn:
    """End at once: nothing is left to be done, and taking the interpreter apart takes 50 ms."""
    logging.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _end_now(interrupted: Interrupted) -> NoReturn:
    """End whatever is still under way; what that leaves in the scratch folder the next run clears."""
    print(f"lightly-worker: {interrupted}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(interrupted.exit_code)


def _end_before_the_run(number: int, frame: object) -> NoReturn:
    """While modules are being imported: none of them is needed here, and one may be half there."""
    del frame
    interrupted = Interrupted(number)
    os.write(2, f"lightly-worker: {interrupted}\n".encode())
    os._exit(interrupted.exit_code)


def _tell(result: "SelectionResult") -> None:
    """The last words: what came out, and where it is."""
    from lightly_pipeline.worker.output import layout

    counts = result.manifest.counts
    what = result.manifest.kind
    print(
        f"Selected {counts.selected:,} of {counts.frames:,} frames from {counts.videos or counts.images:,} {what} "
        f"({counts.corrupt:,} corrupt, {counts.duplicates:,} duplicates"
        + (f", {counts.unreadable:,} unreadable files" if counts.unreadable else "")
        + ")."
    )
    options = result.manifest.options
    if not options.get("dump_dataset") and not options.get("webdataset_shard_size_in_MB"):
        print("The frames themselves were not written: add dump_dataset=True for that.")
    base = result.uri.rstrip("/")
    print(f"Result: {base}/  (report: {base}/{layout.REPORT_HTML})", flush=True)


class _Lines(logging.StreamHandler[TextIO]):
    """A log that stops nothing: where nobody reads it any more, its lines are lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line; the standard would print a traceback for each."""


def _log_to_stdout() -> None:
    """Our own log lines, plain; other libraries keep to warnings on stderr."""
    if not log.handlers:
        handler = _Lines(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _help() -> str:
    from lightly_pipeline.worker.arguments import describe_options

    lines = [_USAGE, "options (with their defaults; * is not one of Lightly's):"]
    unsupported = []
    for option in describe_options():
        if option.remedy is not None:
            unsupported.append(option)
            continue
        mark = "*" if option.own else " "
        lines.append(f" {mark}{option.key}={option.default}  ({option.type})")
        lines.append(f"      {option.meaning}")
    lines += ["", "accepted for compatibility, not supported by this worker:"]
    lines += [f"  {option.key}={option.default}  ({option.type})  {option.remedy}" for option in unsupported]
    lines += ["", "exit codes:"]
    lines += [f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines)
