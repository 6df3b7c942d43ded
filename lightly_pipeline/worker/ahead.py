"""Loading what the second half of a run needs while the first one decodes.

Its own modules, Parquet's library and the compiled template of the report take half a second to load, as long as some
hundred frames take to decode, and on a new machine the selection's kernels have to be compiled. libav leaves the
interpreter alone meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module


@contextmanager
def loading_ahead() -> Iterator[Callable[[], None]]:
    """Load in a thread beside the block, from the first call of what is yielded on: before that it would be in the way.

    What fails to load fails again, with its own words, where it is used.
    """

    def load() -> None:
        with suppress(Exception):
            import_module("lightly_pipeline.worker.result")
            import_module("pyarrow.parquet")
            import_module("yaml")
            import_module("PIL.Image").preinit()
            import_module("lightly_pipeline.worker.report.page").report_template()
            import_module("lightly_pipeline.worker.select.compiled").kernels()

    thread = threading.Thread(target=load, name="ahead", daemon=True)

    def begin() -> None:
        if thread.ident is None:
            thread.start()

    try:
        yield begin
    finally:
        if thread.ident is not None:
            thread.join()
