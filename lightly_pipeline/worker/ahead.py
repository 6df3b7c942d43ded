"""Loading what the end of a run needs while the scan decodes.

Parquet's library and the compiled template of the report take a third of a second to load, as long as some hundred
frames take to decode, and on a new machine the selection's kernels have to be compiled. libav leaves the interpreter
alone meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from PIL import Image

from lightly_pipeline.worker.report.page import report_template
from lightly_pipeline.worker.select.compiled import kernels


@contextmanager
def loading_ahead() -> Iterator[Callable[[], None]]:
    """Load in a thread beside the block, from the first call of what is yielded on: before that it would be in the way.

    What fails to load fails again, with its own words, where it is used.
    """

    def load() -> None:
        for step in (lambda: import_module("pyarrow.parquet"), report_template, Image.preinit, kernels):
            with suppress(Exception):
                step()

    thread = threading.Thread(target=load, name="ahead", daemon=True)

    def begin() -> None:
        if thread.ident is None:
            thread.start()

    try:
        yield begin
    finally:
        if thread.ident is not None:
            thread.join()
