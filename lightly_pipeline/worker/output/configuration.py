"""The config folder: which options were given and what they came to, as Hydra left it beside Lightly's results."""

from pathlib import Path
from typing import Any

from lightly_pipeline.worker.arguments import to_arguments
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output import layout


def write_configuration(tree: Path, options: Options) -> None:
    """config.yaml (every option), overrides.yaml (those that differ from their defaults), hydra.yaml; no token."""
    import yaml

    def write(name: str, content: Any) -> None:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    shown = options.model_dump(mode="json", exclude={"token"})
    write(layout.CONFIG, shown)
    overrides = [argument for argument in to_arguments(options) if not argument.startswith("token=")]
    write(layout.CONFIG_OVERRIDES, overrides)
    write(layout.CONFIG_HYDRA, {"run": {"dir": options.run_directory or "."}, "overrides": {"task": overrides}})
