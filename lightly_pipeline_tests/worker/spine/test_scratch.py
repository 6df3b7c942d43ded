"""The folder for work in progress: this user's alone, bounded, shared by runs, and never more than that."""

import os
import shutil
import threading

import pytest

from lightly_pipeline.worker import result, select_frames
from lightly_pipeline.worker.errors import Interrupted, StorageError
from lightly_pipeline.worker.s3 import s3_client
from lightly_pipeline.worker.scratch import open_scratch
from lightly_pipeline.worker.sources import InputFile, open_source
from lightly_pipeline_tests.worker.spine.conftest import run_worker, write_clip

ONE = {"stopping_condition.n_samples": 1}


def own_folder(place):
    return place / f"lightly-worker-{os.getuid()}"


def left_by_a_killed_run(root, number, size=1_000_000):
    folder = root / f"{number:020x}"
    folder.mkdir(parents=True)
    (folder / "video").write_bytes(bytes(size))
    os.utime(folder, (1000 + number, 1000 + number))
    return folder


def interrupt_after_scanning(clips, target, monkeypatch, **options):
    """A run that ends after all was scanned, as a signal ends it."""

    def stop(*arguments):
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(result, "choose", stop)
        with pytest.raises(Interrupted):
            select_frames(clips, target, {**ONE, **options})


def test_what_interrupted_runs_keep_is_bounded(clips, tmp_path, scratch):
    root = own_folder(scratch)
    for number in range(5):
        left_by_a_killed_run(root, number)
    select_frames(clips, tmp_path / "out", {**ONE, "scratch_size_in_GB": 0.002})
    assert sorted(int(path.name, 16) for path in root.iterdir()) == [3, 4]


def test_folders_of_the_user_in_the_scratch_folder_are_left_alone(clips, tmp_path):
    """They were taken for what killed runs had left."""
    place = tmp_path / "data"
    mine = place / "thesis" / "chapter"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(bytes(3_000_000))
    left_by_a_killed_run(own_folder(place), 1, size=2_000_000)
    select_frames(clips, tmp_path / "out", {**ONE, "scratch": str(place), "scratch_size_in_GB": 0.001})
    assert mine.stat().st_size == 3_000_000
    assert list(own_folder(place).iterdir()) == []


@pytest.mark.parametrize("kind", ["writable by others", "a link"])
def test_a_scratch_folder_that_somebody_else_prepared_is_refused(clips, tmp_path, scratch, kind):
    """What lies in it is unpickled."""
    if kind == "a link":
        (tmp_path / "theirs").mkdir()
        own_folder(scratch).symlink_to(tmp_path / "theirs")
    else:
        own_folder(scratch).mkdir()
        own_folder(scratch).chmod(0o777)
    ended = run_worker(clips, tmp_path / "out")
    assert ended.returncode == StorageError.exit_code
    assert "scratch=FOLDER" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_scratch_folder_that_cannot_be_used_is_one_sentence(clips, tmp_path):
    (tmp_path / "file").write_text("in the way")
    ended = run_worker(clips, tmp_path / "out", f"scratch={tmp_path / 'file'}")
    assert ended.returncode == StorageError.exit_code
    assert "scratch=FOLDER" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_scan_that_is_torn_is_made_again(clips, tmp_path, scratch, monkeypatch):
    """A power cut may leave a file empty; every later run of the job ended in a traceback."""
    interrupt_after_scanning(clips, tmp_path / "out", monkeypatch)
    stored = sorted(scratch.rglob("scan.pickle"))
    assert len(stored) == 3
    stored[0].write_bytes(b"")
    stored[1].write_bytes(stored[1].read_bytes()[:-40])
    found = select_frames(clips, tmp_path / "out", ONE).manifest
    assert found.content_hash == select_frames(clips, tmp_path / "other", ONE).manifest.content_hash


def test_many_videos_need_no_more_open_files_than_few(tmp_path, monkeypatch):
    """Each kept one open to the end: beyond a thousand the usual limit was reached."""
    first = write_clip(tmp_path / "in" / "0.mp4", frames=3)
    for number in range(1, 60):
        shutil.copy(first, first.with_name(f"{number}.mp4"))
    counts = []
    choose = result.choose

    def counted(*arguments):
        counts.append(len(os.listdir("/proc/self/fd")))
        return choose(*arguments)

    monkeypatch.setattr(result, "choose", counted)
    before = len(os.listdir("/proc/self/fd"))
    select_frames(tmp_path / "in", tmp_path / "out", ONE)
    assert counts[0] - before < 20


def test_runs_side_by_side_do_not_trip_over_each_other(scratch):
    """Each looks at the folders of all, which come and go."""
    failed = []

    def work(own):
        try:
            for number in range(60):
                with open_scratch("", f"{own}-{number}", 1) as folder:
                    (folder.work / "file").write_bytes(b"some")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(own_folder(scratch).iterdir()) == []


def test_a_copy_of_an_object_that_was_replaced_is_not_used(bucket, tmp_path):
    """A killed run may have left one, of the same size."""
    source = open_source(f"s3://{bucket}/in")
    for content, version in ((b"OLD!", "one"), (b"new.", "two")):
        s3_client().put_object(Bucket=bucket, Key="in/x.mp4", Body=content)
        path = source.fetch(InputFile("x.mp4", 4, version, "in/x.mp4"), tmp_path)
        assert path.read_bytes() == content
