"""The open frame-selection worker: of all frames of a folder of videos, a clean and diverse few.

It runs on the instance and stands alone: nothing here imports Dagster or the rest of the package. From Python:
`from lightly_pipeline.worker import select_frames`; names are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightly_pipeline.worker.errors import WorkerError
    from lightly_pipeline.worker.options import Options
    from lightly_pipeline.worker.pipeline import SelectionResult, select_frames

__all__ = ["Options", "SelectionResult", "WorkerError", "select_frames"]

_HOMES = {
    "Options": "options",
    "SelectionResult": "pipeline",
    "WorkerError": "errors",
    "select_frames": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
