"""Signals and kills between folders: the command ends at once, OUTPUT is untouched, the next run continues."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from lightly_pipeline.worker import frames, pipeline, scanning, select_frames, writing
from lightly_pipeline.worker.errors import Interrupted, StorageError
from lightly_pipeline.worker.output import targets
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import ScanSettings, identity_of, scan_video
from lightly_pipeline.worker.scan_store import ScanStore
from lightly_pipeline.worker.sources import FolderSource
from lightly_pipeline_tests.worker.spine.conftest import run_worker, tree_of, write_clip


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    """Four clips that take some seconds to scan."""
    folder = tmp_path_factory.mktemp("long")
    for number in range(4):
        write_clip(folder / f"{number}.mp4", frames=900, seed=number)
    return folder


def start(source, target, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "lightly_pipeline.worker", source, target, "dump_dataset=True", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        start_new_session=True,
    )


def wait_until_scanning(process, scratch):
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/*/scans/scan-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_within_a_second_and_leaves_no_output(long_clips, tmp_path, scratch, number):
    process = start(long_clips, tmp_path / "out")
    wait_until_scanning(process, scratch)
    # As a terminal sends it: to the whole process group.
    began = time.monotonic()
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    # On a busy machine the processor may not come round sooner.
    assert time.monotonic() - began < 1.0 + os.getloadavg()[0] / 2
    assert said.count("\n") == 1
    assert "nothing was completed" in said
    assert not (tmp_path / "out").exists()
    assert not list(scratch.glob("*/*/tree"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["yaml", "pydantic", "numpy", "av"])
def test_a_signal_while_modules_are_imported_is_one_line(clips, tmp_path, number, module):
    """In the first half second Ctrl-C ended in a traceback of whatever was being imported."""
    code = f"""
import os, sys
class Ctrl:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Ctrl())
from lightly_pipeline.worker.cli import main
main([{str(clips)!r}, {str(tmp_path / "out")!r}, "selection_config="])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 128 + number
    assert ended.stderr.count("\n") == 1
    assert f"Stopped by {number.name}" in ended.stderr


def test_a_killed_run_leaves_no_output_and_the_next_one_has_the_same_result(long_clips, tmp_path, scratch):
    process = start(long_clips, tmp_path / "out", "stopping_condition.n_samples=20")
    wait_until_scanning(process, scratch)
    process.kill()
    process.wait()
    process.communicate()
    assert not (tmp_path / "out").exists()
    again = run_worker(long_clips, tmp_path / "out", "dump_dataset=True", "stopping_condition.n_samples=20")
    assert again.returncode == 0
    fresh = tmp_path / "fresh"
    select_frames(long_clips, fresh, {"stopping_condition.n_samples": 20, "dump_dataset": True})
    for path in tree_of(fresh / "filenames") | {"../data/selected_embeddings.csv"}:
        assert (fresh / "filenames" / path).read_bytes() == (tmp_path / "out/filenames" / path).read_bytes()


def test_a_run_that_was_ended_continues_with_the_next_video(clips, tmp_path, monkeypatch):
    decoded = []
    scan_videos = scanning.scan_videos

    def noted(paths, **settings):
        for path, scan in zip(paths, scan_videos(paths, **settings), strict=True):
            decoded.append(path)
            yield scan

    monkeypatch.setattr(scanning, "scan_videos", noted)
    keep = scanning.ScanStore.keep
    progress = Progress()

    def interrupted_after_two(*arguments):
        kept = keep(*arguments)
        if len(decoded) == 2:
            progress.interrupt(signal.SIGTERM)
            progress.check()
        return kept

    monkeypatch.setattr(scanning.ScanStore, "keep", interrupted_after_two)
    options = {"stopping_condition.n_samples": 6, "dump_dataset": True}
    with pytest.raises(Interrupted):
        select_frames(clips, tmp_path / "out", options, progress=progress)
    decoded.clear()
    monkeypatch.setattr(scanning.ScanStore, "keep", keep)
    progress = Progress()
    result = select_frames(clips, tmp_path / "out", options, progress=progress)
    assert [path.name for path in decoded] == ["b.avi"]
    undisturbed = select_frames(clips, tmp_path / "other", options)
    assert result.manifest.content_hash == undisturbed.manifest.content_hash


def test_scans_of_another_version_make_room(clips, tmp_path, scratch):
    """What they hold cannot be known: their pictures would stay as long as the job is interrupted."""
    store = ScanStore(tmp_path / "scans", ScanSettings(), identity_of(None))
    [file] = [file for file in FolderSource(clips).files("") if file.name == "a.mp4"]
    store.folder.mkdir()
    own = store.keep(file, "digest", scan_video(clips / "a.mp4", scratch=store.folder, settings=store.settings))
    for name in ("done-2f00", "scan-old"):
        (store.folder / name).mkdir()
        (store.folder / name / "scan.pickle").write_bytes(b"of another version")
    store.clear_unfinished()
    assert {path.name.partition("-")[0] for path in store.folder.iterdir()} == {"done", "scan"}
    assert len(list(store.folder.iterdir())) == 2
    found = store.load(file)
    assert found is not None
    assert np.array_equal(found.scan.frames, own.frames)
    assert found.scan.pictures.read(int(own.kept[0])) == own.pictures.read(int(own.kept[0]))


def zero(path, start=0, length=None):
    """What a file may hold after the power was lost: its size, and zeros."""
    content = bytearray(path.read_bytes())
    length = len(content) - start if length is None else length
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


@pytest.mark.parametrize("lost", ["embeddings", "end of the embeddings", "pictures", "page of a picture", "class"])
def test_a_scan_of_which_the_disk_lost_a_part_is_made_again(clips, tmp_path, lost):
    store = ScanStore(tmp_path / "scans", ScanSettings(), identity_of(None))
    [file] = [file for file in FolderSource(clips).files("") if file.name == "a.mp4"]
    store.folder.mkdir()
    store.keep(file, "digest", scan_video(clips / "a.mp4", scratch=store.folder, settings=store.settings))
    assert store.load(file) is not None
    assert replace(store, settings=ScanSettings(threads=3)).load(file) is not None, "threads make no other scan"
    [embeddings] = store.folder.rglob("embeddings.npy")
    [pack, *_] = store.folder.rglob("*.pictures")
    if lost == "embeddings":
        zero(embeddings)
    elif lost == "end of the embeddings":
        os.truncate(embeddings, 1000)
    elif lost == "pictures":
        zero(pack)
    elif lost == "page of a picture":
        assert pack.stat().st_size > 8192
        zero(pack, 4096, 4096)
    else:
        [stored] = store.folder.rglob("scan.pickle")
        content = stored.read_bytes()[:-32].replace(b"VideoScan", b"OtherScan")
        stored.write_bytes(content + hashlib.sha256(content).digest())
    assert store.load(file) is None


def test_a_killed_run_continues_from_whatever_folder_it_is_started_in(clips, tmp_path, monkeypatch):
    """Its scans were found by the folder that it was in, and again and again not found."""
    options = {"stopping_condition.n_samples": 6, "dump_dataset": True}
    (tmp_path / "here" / "below").mkdir(parents=True)
    keep = scanning.ScanStore.keep
    progress = Progress()

    def interrupted(*arguments):
        kept = keep(*arguments)
        progress.interrupt(signal.SIGTERM)
        progress.check()
        return kept

    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(scanning.ScanStore, "keep", interrupted)
    given = os.path.relpath(clips)
    with pytest.raises(Interrupted):
        select_frames(given, "../out", {**options, "scratch": "../own"}, progress=progress)
    monkeypatch.setattr(scanning.ScanStore, "keep", keep)
    monkeypatch.chdir(tmp_path / "here" / "below")
    said = []
    monkeypatch.setattr(scanning.log, "info", lambda text, *values: said.append(text % values))
    result = select_frames(clips, tmp_path / "out", {**options, "scratch": "../../own"})
    assert "1 of 3 videos were scanned by an earlier run." in said
    assert result.manifest.content_hash == select_frames(clips, tmp_path / "fresh", options).manifest.content_hash


def test_two_runs_of_the_same_job_do_the_work_once(long_clips, tmp_path, scratch):
    options = ("stopping_condition.n_samples=5",)
    processes = [start(long_clips, tmp_path / "out", *options) for _ in range(2)]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("Already done" in text for text in said) == 1
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_told_as_one_wherever_embeddings_are_written(clips, tmp_path, monkeypatch):
    """NumPy's error on a full disk had no number, so that it was a defect with a traceback."""
    store = ScanStore(tmp_path / "scans", ScanSettings(), identity_of(None))
    [file] = [file for file in FolderSource(clips).files("") if file.name == "a.mp4"]
    store.folder.mkdir()
    scan = scan_video(clips / "a.mp4", scratch=store.folder, settings=store.settings)
    scan = replace(scan, embeddings=np.zeros((40_000, 8), np.float32))
    store.keep(file, "digest", scan)
    [home] = store.folder.glob("done-*")
    (home / "embeddings.npy").unlink()
    (home / "embeddings.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        store.keep(file, "digest", scan)
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.setattr(frames, "_IN_MEMORY", 0)
    (tmp_path / "embeddings.float32").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        frames.make_frame_table([frames.ScannedFiles((file,), scan, ("digest",), images=False)] * 2, tmp_path)
    assert raised.value.errno == errno.ENOSPC


def test_a_disk_that_is_full_while_frames_are_written_is_named_with_the_remedy(clips, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_frames", full)
    with pytest.raises(StorageError, match=r"The scratch folder .* free some space .*scratch=FOLDER"):
        select_frames(clips, tmp_path / "out", {"dump_dataset": True, "exact_frames": True})


def test_an_output_that_is_full_is_one_sentence(clips, tmp_path, monkeypatch):
    """It was the representation of a list of hundreds of files and their errors."""

    def elsewhere(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    open_file = targets.Path.open

    def full(path, mode="r", **more):
        if "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return open_file(path, mode, **more)

    monkeypatch.setattr(targets.Path, "rename", elsewhere)
    monkeypatch.setattr(targets.Path, "open", full)
    with pytest.raises(StorageError) as raised:
        targets.FolderTarget(tmp_path / "out").publish(clips, lambda: None, lambda done: None)
    assert str(raised.value) == (
        f"OUTPUT {tmp_path / 'out'} could not be written: No space left on device: free some space there, or give "
        "another OUTPUT."
    )


def test_a_log_file_that_cannot_be_written_stops_nothing(clips, tmp_path, monkeypatch, capsys):
    """Each line was a traceback, before the sentence that says what to do."""
    open_file = pipeline._LogFile.__init__

    def on_a_full_disk(handler, path, **more):
        path.touch()
        open_file(handler, "/dev/full", **more)

    monkeypatch.setattr(pipeline._LogFile, "__init__", on_a_full_disk)
    select_frames(clips, tmp_path / "out", {"stopping_condition.n_samples": 1})
    assert capsys.readouterr().err == ""
