"""ENGINE=lightly: the same job by Lightly's closed docker image (worker 2.2/2.3), for those who have a token.

`run.sh` starts it as `lightly_engine.py INPUT OUTPUT key=value…`. It copies the input here, runs the image with the
tutorial's options, copies what it wrote to OUTPUT, and writes `manifest.json` last; reports through Dagster Pipes when
Dagster started it. The rest of the pipeline cannot tell it from the open worker. It needs boto3 and dagster-pipes,
which the open worker brings along, and imports nothing of the package.

The token never leaves this instance: it is read from SSM Parameter Store (LIGHTLY_TOKEN_PARAMETER, by default
/lightly/token) or Secrets Manager (LIGHTLY_TOKEN_SECRET), and given to the container as an environment variable, so
that it is in no command line, and blotted out of what the container prints.

    LIGHTLY_IMAGE            image and tag: lightly/worker:2.3
    LIGHTLY_SHARED_DIR       where the image keeps its datapool: /home/ubuntu/shared_dir
    LIGHTLY_SCRATCH          where input and output lie meanwhile: /var/lib/lightly
    LIGHTLY_DOCKER_OPTIONS   further options of `docker run`; by default `--gpus all` where there is a GPU
"""

import csv
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import dagster_pipes as dp

# What the tutorial's run.sh passes; an argument of the same name replaces it.
TUTORIAL = {
    "lightly.loader.num_workers": "0",
    "enable_corruptness_check": "True",
    "remove_exact_duplicates": "True",
    "enable_training": "False",
    "pretagging": "False",
    "append_weak_labels": "False",
    "stopping_condition.n_samples": "0.1",
    "dump_dataset": "True",
    "datapool.name": "lightly-datapool",
}
# The open worker's own: this engine keeps its datapool on the instance, as the tutorial does.
NOT_LIGHTLYS = ("datapool.uri", "datapool.part", "token", "run_directory")
RUN_DIRECTORY = "run"


def main(arguments: list[str]) -> int:
    """Run the job; the container's exit code, 137 included, is this program's."""
    source, target, *rest = arguments
    given = dict(argument.split("=", 1) for argument in rest)
    options = {name: value for name, value in {**TUTORIAL, **given}.items() if name not in NOT_LIGHTLYS}
    with ExitStack() as stack:
        pipes = _pipes(stack)
        job = _fingerprint(source, options)
        if (done := _manifest_of(target, job)) is not None:
            _say(pipes, f"{target} has the result of this very job: nothing to do.")
            _report(pipes, done, target)
            return 0
        base = Path(os.environ.get("LIGHTLY_SCRATCH", "/var/lib/lightly"))
        base.mkdir(parents=True, exist_ok=True)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base, prefix="job-")))
        (scratch / "in").mkdir()
        (scratch / "out").mkdir()
        inputs = [_fetched(name, source, scratch / "in") for name in _names(source)]
        if not inputs:
            raise SystemExit(f"lightly_engine: there is no file under {source}")
        begun = time.monotonic()
        code = _run_image(pipes, scratch, options)
        if code != 0:
            return code
        tree = scratch / "out" / RUN_DIRECTORY
        manifest = _manifest(tree, job, options, inputs, time.monotonic() - begun)
        _publish(tree, target, manifest)
        _report(pipes, manifest, target)
    return 0


def _run_image(pipes: dp.PipesContext | None, scratch: Path, options: dict[str, str]) -> int:
    name = f"lightly-{os.environ.get('SSM_COMMAND_ID') or os.getpid()}"
    shared = os.environ.get("LIGHTLY_SHARED_DIR", "/home/ubuntu/shared_dir")
    gpus = "--gpus all" if shutil.which("nvidia-smi") else ""
    token = _token()
    command = [
        *["docker", "run", "--name", name, "--init", "--rm", "--shm-size=1024m", "--ulimit", "nofile=90000:90000"],
        *shlex.split(os.environ.get("LIGHTLY_DOCKER_OPTIONS", gpus)),
        *["-e", "LIGHTLY_TOKEN"],
        *["-v", f"{scratch / 'in'}:/home/input_dir:ro"],
        *["-v", f"{shared}:/home/shared_dir"],
        *["-v", f"{scratch / 'out'}:/home/output_dir"],
        os.environ.get("LIGHTLY_IMAGE", "lightly/worker:2.3"),
        *(f"{option}={value}" for option, value in options.items()),
        f"run_directory={RUN_DIRECTORY}",
    ]
    container = subprocess.Popen(
        command,
        env={**os.environ, "LIGHTLY_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def end(number: int, _frame: Any) -> None:
        # The docker daemon owns the container: ending this process would leave it running.
        subprocess.run(["docker", "kill", name], capture_output=True, check=False)
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    assert container.stdout is not None  # noqa: S101 (it is a pipe)
    for line in container.stdout:
        _say(pipes, line.rstrip("\n").replace(token, "[token]"))
    code = container.wait()
    if code == 137:
        print("lightly_engine: the container was killed, as the kernel does when memory runs out", file=sys.stderr)
    return code


def _token() -> str:
    """Lightly's token, from where the instance's role may read it."""
    if secret := os.environ.get("LIGHTLY_TOKEN_SECRET"):
        return str(boto3.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
    name = os.environ.get("LIGHTLY_TOKEN_PARAMETER", "/lightly/token")
    return str(boto3.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def _place(uri: str) -> tuple[str, str] | None:
    """Bucket and prefix of an s3:// address; None for a folder."""
    if not uri.startswith("s3://"):
        return None
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""


def _names(uri: str) -> list[tuple[str, str]]:
    """Name and version of every file below an address."""
    place = _place(uri)
    if place is None:
        root = Path(uri)
        found = (path for path in root.rglob("*") if path.is_file())
        return sorted((path.relative_to(root).as_posix(), str(path.stat().st_mtime_ns)) for path in found)
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=place[0], Prefix=place[1])
    entries = (entry for page in pages for entry in page.get("Contents", []))
    names = sorted((entry["Key"].removeprefix(place[1]), entry["ETag"]) for entry in entries)
    return [(name, version) for name, version in names if name and not name.endswith("/")]


def _fetched(named: tuple[str, str], uri: str, folder: Path) -> dict[str, Any]:
    name, place = named[0], _place(uri)
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SystemExit(f"lightly_engine: {name!r} under {uri} points out of its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if place is None:
        shutil.copyfile(Path(uri) / name, path)
    else:
        boto3.client("s3").download_file(place[0], place[1] + name, str(path))
    return {"name": name, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _fingerprint(source: str, options: dict[str, str]) -> str:
    said = json.dumps(["lightly", _names(source), sorted(options.items())])
    return hashlib.sha256(said.encode()).hexdigest()


def _manifest_of(target: str, job: str) -> dict[str, Any] | None:
    """The manifest under OUTPUT if it is of this very job."""
    place = _place(target)
    try:
        if place is None:
            text = (Path(target) / "manifest.json").read_bytes()
        else:
            client = boto3.client("s3")
            text = client.get_object(Bucket=place[0], Key=f"{place[1]}manifest.json")["Body"].read()
    except FileNotFoundError:
        return None
    except Exception as error:
        if "NoSuchKey" not in str(error):
            raise
        return None
    found = json.loads(text)
    return found if found.get("job") == job else None


def _manifest(
    tree: Path, job: str, options: dict[str, str], inputs: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    files = [
        {"path": path.relative_to(tree).as_posix(), "bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    ]
    lists = {name: _lines(tree / f"filenames/{name}_filenames.txt") for name in ("corrupt", "duplicate", "sampled")}
    frames = sum(len(_lines(path)) for path in (tree / "filenames").glob("*_filenames.txt"))
    return {
        "schema": 1,
        "worker": os.environ.get("LIGHTLY_IMAGE", "lightly/worker:2.3"),
        "job": job,
        "options": options,
        "counts": {
            "videos": len(inputs),
            "frames": frames,
            "corrupt": len(lists["corrupt"]),
            "duplicates": len(lists["duplicate"]),
            "selected": len(lists["sampled"]),
        },
        "checks": _checks(tree, options, frames, len(lists["sampled"])),
        "input": inputs,
        "files": files,
        "seconds": {"total": seconds},
    }


def _checks(tree: Path, options: dict[str, str], frames: int, selected: int) -> dict[str, bool]:
    asked = float(options["stopping_condition.n_samples"])
    budget = frames if asked < 0 else asked * frames + 1 if asked <= 1 and "." in str(asked) else asked
    pictures = [_sha256(path) for path in (tree / "data/sampled").rglob("*") if path.is_file()]
    wanted = float(options.get("stopping_condition.min_distance", "-1"))
    return {
        "budget_kept": selected <= budget,
        "no_exact_duplicates": len(pictures) == len(set(pictures)),
        "min_distance_kept": wanted <= 0 or _nearest(tree / "data/selected_embeddings.csv") >= wanted,
    }


def _nearest(path: Path) -> float:
    """The smallest distance between two selected embeddings; 0 where the image has not written them."""
    if not path.is_file():
        return 0.0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = [[float(row[name]) for name in row if name.startswith("embedding_")] for row in rows]
    pairs = ((a, b) for i, a in enumerate(points) for b in points[:i])
    return min((sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 for a, b in pairs), default=float("inf"))


def _publish(tree: Path, target: str, manifest: dict[str, Any]) -> None:
    """Every file, and the manifest when all of them are there; files of an earlier result go away."""
    place = _place(target)
    text = json.dumps(manifest, indent=1).encode()
    names = {file["path"] for file in manifest["files"]}
    if place is None:
        Path(target).mkdir(parents=True, exist_ok=True)
        (Path(target) / "manifest.json").unlink(missing_ok=True)
        shutil.copytree(tree, target, dirs_exist_ok=True)
        (Path(target) / "manifest.json").write_bytes(text)
        return
    client = boto3.client("s3")
    bucket, prefix = place
    client.delete_object(Bucket=bucket, Key=f"{prefix}manifest.json")
    for name, _ in _names(target):
        if name not in names:
            client.delete_object(Bucket=bucket, Key=prefix + name)
    for name in sorted(names):
        client.upload_file(str(tree / name), bucket, prefix + name)
    client.put_object(Bucket=bucket, Key=f"{prefix}manifest.json", Body=text, ContentType="application/json")


def _pipes(stack: ExitStack) -> dp.PipesContext | None:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return None
    client = boto3.client("s3")
    writer, loader = dp.PipesS3MessageWriter(client, interval=1), dp.PipesS3ContextLoader(client)
    return stack.enter_context(dp.open_dagster_pipes(context_loader=loader, message_writer=writer))


def _say(pipes: dp.PipesContext | None, line: str) -> None:
    print(line, flush=True)
    if pipes is not None and line.strip():
        pipes.log.info(line)


def _report(pipes: dp.PipesContext | None, manifest: dict[str, Any], target: str) -> None:
    if pipes is None:
        return
    counts = manifest["counts"]
    version = hashlib.sha256(json.dumps([(file["path"], file["sha256"]) for file in manifest["files"]]).encode())
    pipes.report_asset_materialization(
        metadata={
            **{f"count/{name}": value for name, value in counts.items()},
            "selected_ratio": counts["selected"] / max(1, counts["frames"]),
            "manifest": {"raw_value": f"{target.rstrip('/')}/manifest.json", "type": "url"},
        },
        data_version=version.hexdigest(),
    )
    for name, passed in manifest["checks"].items():
        pipes.report_asset_check(name, passed=passed)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            yield block


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
