"""`Sandbox`: opens the embedded AWS and Pexels together and says by which environment they are found."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from lightly_pipeline.sandbox.errors import SandboxError, SandboxInUse
from lightly_pipeline.sandbox.home import dagster_home
from lightly_pipeline.sandbox.joining import announced, forget_announcement
from lightly_pipeline.sandbox.timings import SandboxTimings

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.calls import CallLog
    from lightly_pipeline.sandbox.aws.cloud import Cloud
    from lightly_pipeline.sandbox.aws.faults import Faults
    from lightly_pipeline.sandbox.pexels import PexelsStandIn

BUCKET = "lightly-sandbox"
DEFAULT_PORT = 5847
_FOLDERS = ("s3", "instances", "image", "dagster", "videos", "footage")


@contextmanager
def _only_user_of(state: Path) -> Iterator[None]:
    """Hold the sandbox's folder: two processes that save into one would undo each other's work."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise SandboxInUse(
                f"The sandbox in {state} is in use by process {file.read().strip() or 'unknown'}: end that one first, "
                f"or use another folder."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def reset_sandbox(state: Path) -> None:
    """Remove what a sandbox keeps in its `state` folder, and nothing else that may be there.

    Raises SandboxError while a sandbox uses it, and where something cannot be removed.
    """
    if not state.is_dir():
        return
    with _only_user_of(state):
        for folder in [state / name for name in _FOLDERS]:
            try:
                if folder.is_symlink():
                    folder.unlink()
                elif folder.exists():
                    shutil.rmtree(folder)
            except OSError as error:
                raise SandboxError(
                    f"{error.filename or folder} could not be removed ({error.strerror}): remove it yourself, "
                    f"and reset again."
                ) from error


class Sandbox:
    """An AWS account with a bucket and stopped instances, and a Pexels, in this process; a context manager.

    `state_dir` keeps what must survive: the bucket's objects, the instances' disks, DAGSTER_HOME, the video cache.
    `videos` is a folder whose videos the stand-in offers; without one it offers footage that it renders itself.
    `footage` is the folder in which rendered footage is cached; without one, a folder of `state_dir`.
    `instances` is how many instances there are, all stopped at first, with the same ids in every run.
    `max_bytes` bounds what is kept of the buckets from one run to the next; the oldest is dropped, as `notices` says.
    `port` is where AWS answers; without one a fixed port if it is free, else another. SandboxError if it is taken.

    When it closes, and also when its process is killed, every process that runs on its instances is killed.
    """

    def __init__(
        self,
        state_dir: Path,
        videos: Path | None = None,
        timings: SandboxTimings | None = None,
        *,
        footage: Path | None = None,
        instances: int = 1,
        port: int | None = None,
        max_bytes: int = 20 * 1024**3,
    ) -> None:
        self.state_dir = Path(state_dir).resolve()
        self.videos = videos
        self._footage = footage or self.state_dir / "footage"
        self.timings = timings or SandboxTimings()
        self._instances = instances
        self._port = port
        self._max_bytes = max_bytes
        self._stack: ExitStack | None = None
        self._cloud: Cloud | None = None
        self._pexels: PexelsStandIn | None = None

    def __enter__(self) -> "Sandbox":
        # moto takes a second to import: only who opens a sandbox pays for it.
        from lightly_pipeline.sandbox.aws.cloud import Cloud
        from lightly_pipeline.sandbox.pexels import PexelsStandIn

        if self._stack is not None:
            raise SandboxError("This sandbox is open already.")
        with ExitStack() as stack:
            stack.enter_context(_only_user_of(self.state_dir))
            forget_announcement(self.state_dir)
            (self.state_dir / "videos").mkdir(exist_ok=True)
            pexels = stack.enter_context(PexelsStandIn(self.videos, cache=self._footage))
            image = self._write_image()
            watchdog = image / "watchdog.sh"
            cloud = Cloud(
                self.state_dir,
                timings=self.timings,
                instances=self._instances,
                port=self._port,
                default_port=DEFAULT_PORT,
                bucket=BUCKET,
                watchdog=watchdog if watchdog.is_file() else None,
                max_bytes=self._max_bytes,
            )
            stack.callback(cloud.close)
            cloud.open()
            stack.callback(self._forget)
            self._cloud, self._pexels = cloud, pexels
            stack.enter_context(announced(self.state_dir, self.environment, self.videos))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    @property
    def endpoint_url(self) -> str:
        """Where S3, EC2, SSM and the rest of AWS answer."""
        return self._opened().endpoint_url

    @property
    def bucket(self) -> str:
        """The bucket that is there from the beginning."""
        return BUCKET

    @property
    def instance_ids(self) -> list[str]:
        """The instances that are there from the beginning."""
        return list(self._opened().instance_ids)

    @property
    def faults(self) -> "Faults":
        """Faults to inject; from another process, `RemoteFaults(endpoint_url)`."""
        return self._opened().faults

    @property
    def pexels(self) -> "PexelsStandIn":
        """The Pexels stand-in, with its own faults and the requests it has seen."""
        self._opened()
        return cast("PexelsStandIn", self._pexels)

    @property
    def pexels_root(self) -> str:
        """What stands for https://api.pexels.com."""
        return self.pexels.root

    @property
    def calls(self) -> "CallLog":
        """All AWS calls that were made."""
        return self._opened().calls

    @property
    def run_script(self) -> Path:
        """run.sh as the instances find it."""
        return self.state_dir / "image" / "run.sh"

    @property
    def notices(self) -> list[str]:
        """Sentences about stored objects that could not be kept."""
        return list(self._opened().notices)

    def processes(self) -> list[int]:
        """Ids of the processes that run on the instances now (known on Linux only)."""
        return self._opened().jobs.running()

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which boto3, the AWS CLI, Dagster and the pipeline find this sandbox."""
        from lightly_pipeline.sandbox.aws.cloud import connection_environment

        environment = {
            **connection_environment(self.endpoint_url),
            "PEXELS_API_ROOT": self.pexels.root,
            "PEXELS_API_KEY": self.pexels.api_key,
            "PEXELS_FILE_HOSTS": self.pexels.file_hosts,
            "LIGHTLY_BUCKET": self.bucket,
            "LIGHTLY_INSTANCES": ",".join(self.instance_ids),
            "LIGHTLY_RUN_SCRIPT": str(self.run_script),
            "LIGHTLY_VIDEO_CACHE": str(self.state_dir / "videos"),
        }
        for name in ("NO_PROXY", "no_proxy"):
            if os.environ.get(name):
                environment[name] = f"{os.environ[name]},{environment[name]}"
        if not os.environ.get("DAGSTER_HOME"):
            environment["DAGSTER_HOME"] = str(dagster_home(self.state_dir))
        return environment

    def _forget(self) -> None:
        self._cloud = self._pexels = None

    def _opened(self) -> "Cloud":
        if self._cloud is None:
            raise SandboxError("The sandbox is not open: use it in a `with` block.")
        return self._cloud

    def _write_image(self) -> Path:
        """The files that an instance's image brings along, fresh at each start: those of deploy/ec2."""
        image = self.state_dir / "image"
        source = _instance_files()
        image.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, image / file.name)
                if file.suffix == ".sh":
                    (image / file.name).chmod(0o755)
        return image


def _instance_files() -> Path:
    """deploy/ec2: inside the package when it was installed from a wheel, beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "instance", here.parents[1] / "deploy" / "ec2"):
        if (folder / "run.sh").is_file():
            return folder
    raise SandboxError(
        "run.sh, which instances run, was not found: reinstall lightly-pipeline, or use a full checkout."
    )
