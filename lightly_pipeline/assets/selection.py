"""The selection's options as Dagster config, made from the worker's own model: one place for every option.

Names, types and meanings are the worker's; the defaults here are the tutorial's. What the pipeline sets itself
(where the datapool lies, which part is this video's) and what only makes sense on a shell is left out.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field, create_model

from lightly_pipeline.worker.arguments import make_options, to_arguments
from lightly_pipeline.worker.errors import OptionError
from lightly_pipeline.worker.options import UNSUPPORTED, Options

TUTORIAL = {
    "stopping_condition.n_samples": 0.1,
    "enable_corruptness_check": True,
    "remove_exact_duplicates": True,
    "datapool.name": "lightly-datapool",
    "dump_dataset": True,
}
_NOT_CONFIGURED_HERE = {
    "config",
    "datapool.part",
    "datapool.uri",
    "run_directory",
    "sanity_check",
    "scratch",
    "scratch_size_in_GB",
    "token",
}


def _dagster_config(model: type[BaseModel], prefix: str = "") -> type[dg.Config]:
    """A dg.Config with the fields of `model`; types that Dagster cannot say become Any, and the worker checks them."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        key = f"{prefix}{name}"
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if key in _NOT_CONFIGURED_HERE or UNSUPPORTED in extra:
            continue
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            group = _dagster_config(kind, f"{key}.")
            if group.model_fields:
                fields[name] = (group, Field(default_factory=group, description=kind.__doc__))
            continue
        default = TUTORIAL.get(key, info.get_default(call_default_factory=True))
        plain = kind if kind in (bool, int, float, str) else Any
        fields[name] = (plain, Field(default, description=info.description))
    return create_model(model.__name__, __base__=dg.Config, __doc__=model.__doc__, **fields)


class SelectionConfig(_dagster_config(Options)):  # type: ignore[misc]
    """How frames are selected, under Lightly's option names, with the tutorial's defaults."""

    def arguments(self, given: Mapping[str, Any]) -> list[str]:
        """The worker's `key=value` arguments for this config and the options in `given`, by dotted name.

        Raises dg.Failure with the worker's own sentence where a value is none of the option's.
        """
        try:
            return to_arguments(make_options({**self.model_dump(), **given}))
        except OptionError as error:
            raise dg.Failure(
                f"The selection's configuration is wrong: {error}",
                metadata={"error": type(error).__name__},
                allow_retries=False,
            ) from error
