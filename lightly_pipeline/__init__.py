"""Turn collected video into a clean, diverse set of frames, on machines that run only while they work.

The package is a Dagster code location: `-m lightly_pipeline` finds `defs`. It is made on first access, so that
importing a module of the package (the worker on an instance, say) neither needs nor loads Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

    defs: dg.Definitions


def __getattr__(name: str) -> Any:
    if name == "defs":
        from lightly_pipeline.definitions import defs

        return defs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "defs"]
