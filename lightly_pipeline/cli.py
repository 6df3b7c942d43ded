"""`lightly-pipeline`: the sandbox, the demo, discovery and the instances, from a shell.

Everything that takes time to import is imported by the command that needs it. Errors that a user can act on are one
sentence without a traceback.
"""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from lightly_pipeline.cli_instances import instances

if TYPE_CHECKING:
    import dagster as dg

    from lightly_pipeline.sandbox import JoinedSandbox, Sandbox

_STATE = Path(".sandbox")
# A sandbox that another process is opening or resetting just now is waited for.
_SETTLES_WITHIN_SECONDS = 15.0
_OF_THE_DISK = {errno.EACCES, errno.EEXIST, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}


class _Sentences(click.Group):
    """A group whose commands end with a sentence where they raise one of the package's own errors."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the package's errors become click's."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if _is_ours(error):
                raise click.ClickException(str(error)) from error
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK and error.filename:
                raise click.ClickException(
                    f"{error.filename} cannot be used ({error.strerror}): grant access or free space there, or choose "
                    f"another folder with --state or --output."
                ) from error
            raise


def _is_ours(error: Exception) -> bool:
    """Whether `error` is of a class of this package: those carry a sentence for the user."""
    return any(kind.__module__.startswith("lightly_pipeline.") for kind in type(error).__mro__)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lightly-pipeline")
def main() -> None:
    """Turn collected video into a clean, diverse set of frames."""


class _Folder(click.Path):
    """A folder; `~` is the user's home also where the shell has left it as it is, as zsh does in `VIDEOS=~/holiday`."""

    def convert(self, value: "str | os.PathLike[str]", param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The folder's path; click's own refusal where there is none."""
        return super().convert(Path(value).expanduser(), param, ctx)


_videos = click.option(
    "--videos",
    type=_Folder(exists=True, file_okay=False, path_type=Path),
    help="Folder of videos that the sandbox's Pexels offers; without it, footage that the sandbox renders.",
)
_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=_STATE,
    show_default=True,
    help="Folder in which the sandbox keeps its bucket, its instance's disk and Dagster's runs.",
)


@main.command(context_settings={"allow_interspersed_args": False})
@_videos
@_state
@click.option("--reset", is_flag=True, help="Forget everything that the sandbox has stored, then go on.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sandbox(videos: Path | None, state: Path, reset: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND inside the sandbox: S3, EC2, SSM and Pexels without an account.

    Without COMMAND the sandbox stays up until Ctrl-C and prints the environment that leads to it.
    """
    from lightly_pipeline.sandbox import reset_sandbox

    if reset:
        reset_sandbox(state)
        click.echo(f"Everything that the sandbox stored in {state} is gone.", err=True)
        if not command:
            return
    users = _forget_aws()
    with _opened(state, videos) as opened:
        environment = {**os.environ, **opened.environment}
        if not command:
            for name in sorted(users - opened.environment.keys()):
                click.echo(f"unset {name}")
            for name, value in sorted(opened.environment.items()):
                click.echo(f"export {name}={shlex.quote(value)}")
            _wait_for_a_signal()
            return
        code, _ = _run(command, environment)
    sys.exit(code)


@main.command()
@_videos
@_state
@click.option("--count", type=click.IntRange(min=1), help="How many videos; by default one, or all of --videos.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo_output"),
    show_default=True,
    help="Folder for the results.",
)
def demo(videos: Path | None, state: Path, count: int | None, output: Path) -> None:
    """Run the whole pipeline in the sandbox and put the selected frames into a folder."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _forget_aws()
    with _opened(state, videos) as opened:
        os.environ.update(opened.environment)
        from lightly_pipeline import demo as pipeline
        from lightly_pipeline.resources.pexels import PexelsResource

        with _dagster_instance() as instance:
            offered = list(pipeline.offered_videos(PexelsResource()))
            if not offered:
                raise click.ClickException(f"There is no video in {videos}: put some there, or leave --videos out.")
            chosen = pipeline.choose(instance, offered, count or (len(offered) if videos else 1))
            outcomes = []
            for video in chosen:
                click.secho(f"\n{pipeline.title(video)}  {video.url}", bold=True)
                outcomes.append(pipeline.run_one(instance, video, output))
        _summarize(outcomes, output)
    if not any(outcome.folder for outcome in outcomes):
        sys.exit(1)


@main.command()
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True, help="How many videos.")
@click.option("--run", is_flag=True, help="Also run the pipeline for each of them.")
def collect(count: int, run: bool) -> None:
    """Discover random popular videos on Pexels, register their partitions and print the keys."""
    from lightly_pipeline.automation.collect_pexels_videos import discover_videos
    from lightly_pipeline.resources.pexels import PexelsResource
    from lightly_pipeline.videos import pexels_key

    _require_dagster_home()
    failed = 0
    with _dagster_instance() as instance:
        found = discover_videos(instance, PexelsResource(), count)
        for video in found:
            click.echo(pexels_key(video.id))
        if not found:
            raise click.ClickException("Every popular video that Pexels answered with is a partition already.")
        if run:
            from lightly_pipeline.demo import DAGSTER_JOB_EXECUTE

            for video in found:
                tags = json.dumps({"dagster/partition": pexels_key(video.id)})
                code, interrupted = _run((*DAGSTER_JOB_EXECUTE, "--tags", tags), dict(os.environ))
                if interrupted:
                    raise click.Abort
                failed += code != 0
    if failed:
        raise click.ClickException(f"{failed} of {len(found)} runs failed; `dagster dev` shows why.")


main.add_command(instances)


@contextmanager
def _opened(state: Path, videos: Path | None) -> "Iterator[Sandbox | JoinedSandbox]":
    """The sandbox in `state`: opened, or joined where another process serves it."""
    from lightly_pipeline.sandbox import Sandbox, SandboxInUse, join

    def open_or_join() -> "Sandbox | JoinedSandbox":
        deadline = time.monotonic() + _SETTLES_WITHIN_SECONDS
        while True:
            try:
                return stack.enter_context(Sandbox(state, videos))
            except SandboxInUse as refusal:
                try:
                    return stack.enter_context(join(state, videos, refusal))
                except SandboxInUse as reason:
                    if reason is not refusal or time.monotonic() > deadline:
                        raise
            time.sleep(0.2)

    with ExitStack() as stack:
        yield open_or_join()


def _forget_aws() -> set[str]:
    """Drop what the user has set for boto3, and say which variables that were.

    Inside the sandbox none of it holds: the endpoint of a single service would lead out of it, to somebody's real
    account, and a profile into files that are not read there.
    """
    names = {name for name in os.environ if name.startswith("AWS_")}
    for name in names:
        del os.environ[name]
    return names


def _require_dagster_home() -> None:
    """Without DAGSTER_HOME Dagster keeps what it does in a temporary folder, and partitions would be gone at once."""
    if os.environ.get("DAGSTER_HOME"):
        return
    from lightly_pipeline.sandbox import dagster_home

    os.environ["DAGSTER_HOME"] = str(dagster_home(_STATE))


@contextmanager
def _dagster_instance() -> "Iterator[dg.DagsterInstance]":
    """The instance in DAGSTER_HOME."""
    import dagster as dg

    try:
        opened = dg.DagsterInstance.get()
    except dg.DagsterError as error:
        raise click.ClickException(f"Dagster's instance cannot be opened: {error}") from error
    with opened as instance:
        yield instance


def _run(command: tuple[str, ...], environment: dict[str, str]) -> tuple[int, bool]:
    """Run `command` to its end; its exit code, and whether this process was told to stop meanwhile.

    Ctrl-C reaches the command by itself, as it is of the same process group: this process only waits for it to end, so
    that nothing is taken away from under it. SIGTERM is passed on.
    """
    process: subprocess.Popen[bytes] | None = None
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        if process is not None and number == signal.SIGTERM:
            process.send_signal(number)

    # Before the command is started, as it may be interrupted in its first moment; it does not inherit the handlers.
    previous = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, env=environment)
        for number in heard:
            process.send_signal(number)
        code = process.wait()
    except OSError as error:
        raise click.ClickException(f"{command[0]} could not be started: {error.strerror}.") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code, bool(heard)


def _wait_for_a_signal() -> None:
    click.echo("# The sandbox is up; Ctrl-C ends it.", err=True)
    # Both are blocked while they are waited for, so that neither is lost in between.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _summarize(outcomes: list[Any], output: Path) -> None:
    click.echo()
    for outcome in outcomes:
        if outcome.folder is None:
            click.secho(f"✗ {outcome.key} ({outcome.title})  {outcome.failure}", fg="red")
        else:
            counts = outcome.counts or {}
            click.secho(
                f"✓ {outcome.key} ({outcome.title})  "
                f"{counts.get('selected')} of {counts.get('frames')} frames selected, {counts.get('corrupt')} corrupt, "
                f"{counts.get('duplicates')} duplicates, {outcome.seconds:.1f} s",
                fg="green",
            )
            click.echo(f"  {outcome.folder}/")
    done = [outcome for outcome in outcomes if outcome.folder is not None]
    if done:
        folder = done[-1].folder
        click.echo(
            f"\nLook at    {folder}/contact_sheet.jpg, report.html, manifest.json and data/sampled/ beside it\n"
            f"In the UI  make dev, then open http://localhost:3000/assets/lightly_frames"
        )
