"""Reporting to Dagster through Pipes, when Dagster started this run; without it, nothing here is used.

Log lines, progress as custom messages, and at the end one materialization with metadata, data version and check
results. `dagster_pipes` is a small library of its own: Dagster is not needed on the instance.
"""

import base64
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from threading import Event
from typing import Any

import dagster_pipes as dp

from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.contact_sheet import jpeg
from lightly_pipeline.worker.pipeline import SelectionResult
from lightly_pipeline.worker.s3 import s3_client

_CONTEXT, _MESSAGES = "DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"
#: Seconds between progress messages: each becomes a row in Dagster's event log.
_EVERY = 2.0
#: Dagster keeps metadata in its event log: a picture in it stays small.
_PICTURE_BYTES = 72_000


class _PromptChannel(dp.PipesS3MessageWriterChannel):
    """The S3 channel, whose last chunk leaves as soon as the session closes instead of at the next full second."""

    def _upload_loop(self, is_session_closed: Event) -> None:
        while True:
            closed = is_session_closed.wait(self._interval)
            if messages := self.flush_messages():
                self.upload_messages_chunk(StringIO("\n".join(map(_as_json, messages))), self._counter)
                self._counter += 1
            if closed and self._buffer.empty():
                return


class _PromptS3Writer(dp.PipesS3MessageWriter):
    def make_channel(self, params: dp.PipesParams) -> dp.PipesS3MessageWriterChannel:
        return _PromptChannel(
            client=self._client, bucket=params["bucket"], key_prefix=params.get("key_prefix"), interval=self.interval
        )


@contextmanager
def pipes_session() -> Iterator["PipesSession"]:
    """The session with the Dagster step that started this process."""
    parameters: dp.PipesParamsLoader = dp.PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    context_loader = dp.PipesS3ContextLoader(s3_client()) if "bucket" in _parameter(_CONTEXT) else None
    message_writer = _PromptS3Writer(s3_client(), interval=1) if "bucket" in _parameter(_MESSAGES) else None
    with dp.open_dagster_pipes(
        context_loader=context_loader, message_writer=message_writer, params_loader=parameters
    ) as context:
        yield PipesSession(context)


class PipesSession:
    """An open session: a log handler, a progress listener, and the final report."""

    def __init__(self, context: dp.PipesContext) -> None:
        self._context = context
        self._stage, self._told = "", 0.0
        self._total: int | None = None

    def handler(self) -> logging.Handler:
        """A handler that sends log lines into the run's event log."""
        return _LogHandler(self._context.log)

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        """Progress: a stage begins."""
        del unit
        self._stage, self._total, self._told = stage, total, time.monotonic()

    def advance(self, done: int, total: int | None, seconds: float) -> None:
        """Progress: told every few seconds."""
        self._total = total
        if time.monotonic() - self._told >= _EVERY:
            self._tell(done, seconds)

    def end(self, done: int, seconds: float) -> None:
        """Progress: what the stage came to."""
        if done:
            self._tell(done, seconds)

    def _tell(self, done: int, seconds: float) -> None:
        self._told = time.monotonic()
        self._context.report_custom_message(
            {
                "event": "progress",
                "stage": self._stage,
                "done": done,
                "total": self._total,
                "frames_per_second": round(done / max(seconds, 1e-3), 1),
            }
        )

    def report(self, result: SelectionResult) -> None:
        """The materialization and its checks."""
        manifest = result.manifest
        self._context.report_asset_materialization(metadata=_metadata(result), data_version=manifest.content_hash)
        counts, selection = manifest.counts, manifest.selection
        figures: dict[str, Mapping[str, Any]] = {
            "budget_kept": {"selected": counts.selected, "budget": selection.budget},
            "no_exact_duplicates": {"selected": counts.selected, "duplicates_removed": counts.duplicates},
            "min_distance_kept": {
                "nearest": _spread(manifest.distances.after, "nearest_min"),
                "min_distance": selection.min_distance if selection.min_distance is not None else 0.0,
            },
        }
        for name, metadata in figures.items():
            self._context.report_asset_check(name, passed=bool(getattr(manifest.checks, name)), metadata=dict(metadata))


class _LogHandler(logging.Handler):
    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, self.format(record))


def _metadata(result: SelectionResult) -> dict[str, Any]:
    manifest = result.manifest
    counts, distances = manifest.counts, manifest.distances
    metadata: dict[str, Any] = {f"count/{name}": value for name, value in counts.model_dump().items()}
    metadata["selected_ratio"] = round(counts.selected / max(1, counts.frames), 6)
    for when, spread in (("before", distances.before), ("after", distances.after)):
        if spread is not None:
            metadata[f"distance/{when}"] = {"raw_value": spread.model_dump(), "type": "json"}
    metadata["seconds"] = {"raw_value": manifest.seconds, "type": "json"}
    metadata["already_done"] = result.already_done
    base = result.uri.rstrip("/")
    metadata["report"] = {"raw_value": f"{base}/{layout.REPORT_HTML}", "type": "url"}
    metadata["manifest"] = {"raw_value": f"{base}/{layout.MANIFEST}", "type": "url"}
    if result.contact_sheet is not None:
        metadata["contact_sheet"] = {"raw_value": _picture(result.contact_sheet), "type": "md"}
    return metadata


def _picture(sheet: bytes) -> str:
    """The contact sheet as inline Markdown."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(sheet)) as picture:
        small = jpeg(picture.convert("RGB"), at_most=_PICTURE_BYTES)
    return f"![selected frames](data:image/jpeg;base64,{base64.b64encode(small).decode()})"


def _spread(spread: Any, figure: str) -> float:
    return 0.0 if spread is None else float(getattr(spread, figure))


def _parameter(name: str) -> Mapping[str, Any]:
    value = dp.decode_param(os.environ[name])
    return value if isinstance(value, dict) else {}


def _as_json(message: Any) -> str:
    import json

    return json.dumps(message)
