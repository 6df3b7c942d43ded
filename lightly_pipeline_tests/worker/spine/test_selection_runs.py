"""Whole runs between folders: what is left out, what is kept, and what a repetition does."""

import csv
import json
import os
import random
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightly_pipeline.worker import choosing, select_frames
from lightly_pipeline.worker.budget import share_of
from lightly_pipeline.worker.duplicates import first_of_equal
from lightly_pipeline.worker.errors import NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.progress import Listener, Progress
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline.worker.scanning import Scanner
from lightly_pipeline_tests.worker.spine.conftest import (
    At,
    run_worker,
    sampled,
    tree_of,
    vectors_in,
    write_clip,
)


def test_one_bad_file_never_stops_the_others_and_is_listed_with_its_reason(clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    (folder / "empty.mp4").touch()
    (folder / "text.mov").write_text("this is no video")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    result = select_frames(folder, tmp_path / "out", {"stopping_condition.n_samples": 0.1})
    assert result.manifest.counts.frames == 56
    assert result.manifest.counts.unreadable == 3
    listed = (tmp_path / "out/filenames/corrupt_filenames.txt").read_text().splitlines()
    assert {"empty.mp4", "text.mov", "gone.mp4"} <= set(listed)
    reasons = json.loads((tmp_path / "out/corruptness_check_information.json").read_text())["corrupt_videos"]
    assert all(len(reasons[name]) > 10 for name in ("empty.mp4", "text.mov", "gone.mp4"))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no video and no image"),
        (lambda folder: folder.write_text("x"), "is a file"),
        (lambda folder: (folder.mkdir(), (folder / "a.mp4").touch()), "None of the 1 videos"),
    ],
    ids=["missing", "empty", "file", "unreadable"],
)
def test_no_readable_video_is_one_sentence_and_an_exit_code_of_its_own(tmp_path, prepare, words):
    prepare(tmp_path / "in")
    ended = run_worker(tmp_path / "in", tmp_path / "out")
    assert ended.returncode == NothingToSelect.exit_code
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_the_same_job_again_says_done_and_does_nothing(clips, tmp_path):
    arguments = (clips, tmp_path / "out", "stopping_condition.n_samples=5", "dump_dataset=True", "datapool.name=p")
    assert run_worker(*arguments).returncode == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree_of(tmp_path / "out")}
    again = run_worker(*arguments)
    assert again.returncode == 0
    assert "Already done" in again.stdout
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree_of(tmp_path / "out")} == before


@pytest.mark.parametrize("lost", ["out/data/sampled", "out/report.html", "datapool", "cut"])
def test_a_result_that_is_no_longer_whole_is_made_again(clips, tmp_path, lost):
    """The manifest alone was looked at: who had removed the frames was told that all is done."""
    options = {"stopping_condition.n_samples": 5, "dump_dataset": True}
    options |= {"datapool.name": "p", "datapool.keep_history": False}
    first = select_frames(clips, tmp_path / "out", options)
    before = tree_of(tmp_path)
    if lost == "cut":
        (tmp_path / "out/data/embeddings.csv").write_text("cut")
    elif (tmp_path / lost).is_dir():
        shutil.rmtree(tmp_path / lost)
    else:
        (tmp_path / lost).unlink()
    again = select_frames(clips, tmp_path / "out", options)
    assert not again.already_done
    assert tree_of(tmp_path) == before
    assert again.manifest.content_hash == first.manifest.content_hash
    assert select_frames(clips, tmp_path / "out", options).already_done


def test_another_selection_leaves_nothing_of_the_one_before_it(clips, tmp_path):
    out = tmp_path / "out"
    select_frames(clips, out, {"stopping_condition.n_samples": 20, "dump_dataset": True})
    (out / "notes of the user.txt").write_text("mine")
    (out / "data/also mine.txt").write_text("mine")
    select_frames(clips, out, {"stopping_condition.n_samples": 3, "dump_dataset": True})
    manifest = json.loads((out / "manifest.json").read_text())
    assert tree_of(out) - {"manifest.json", "notes of the user.txt", "data/also mine.txt"} == {
        file["path"] for file in manifest["files"]
    }
    assert len(list((out / "data/sampled").rglob("*.png"))) == 3


def test_how_many_frames_there_will_be_is_known_when_the_last_video_is_opened(clips, tmp_path):
    class Totals(Listener):
        def begin(self, stage, total, unit):
            self.stage = stage

        def advance(self, done, total, seconds):
            if self.stage == "scan":
                self.last = (done, total)

        def end(self, done, seconds):
            pass

    totals = Totals()
    result = select_frames(clips, tmp_path / "out", {"stopping_condition.n_samples": 3}, progress=Progress(totals))
    frames = result.manifest.counts.frames
    assert totals.last == (frames, frames)


def test_a_frame_of_a_damaged_file_that_decodes_once_is_left_out_and_another_takes_its_place(
    clips, tmp_path, monkeypatch
):
    """libvpx made other pixels of a damaged picture the second time: the whole run ended with an error."""
    options = {"stopping_condition.n_samples": 5, "dump_dataset": True, "exact_frames": True}
    whole = select_frames(clips, tmp_path / "whole", options)
    first = sampled(tmp_path / "whole")[0]
    hashes = []
    true_hash = Meter.hash

    def unsteady(self, frame):
        digest = true_hash(self, frame)
        hashes.append(digest)
        return bytes(16) if digest == hashes[0] else digest

    monkeypatch.setattr(Meter, "hash", unsteady)
    result = select_frames(clips, tmp_path / "out", {**options, "num_threads": 1})
    assert result.manifest.counts.selected == whole.manifest.counts.selected == 5
    assert result.manifest.counts.corrupt == 1
    assert len(list((tmp_path / "out/data/sampled").rglob("*.png"))) == 5
    information = json.loads((tmp_path / "out/corruptness_check_information.json").read_text())
    [(name, reason)] = information["corrupt_samples"].items()
    assert name == first
    assert "decodes to other pixels" in reason
    assert name not in sampled(tmp_path / "out")


def test_a_file_that_is_changed_under_the_worker_is_an_error_that_says_so(clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    progress = Progress(At("write", lambda: write_clip(folder / "a.mp4", seed=9)))
    options = {"stopping_condition.n_samples": 9, "dump_dataset": True, "exact_frames": True}
    with pytest.raises(StorageError, match=r"a\.mp4 was changed while the worker ran"):
        select_frames(folder, tmp_path / "out", options, progress=progress)
    assert not (tmp_path / "out/manifest.json").exists()


def test_changed_input_is_another_job(clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    options = {"stopping_condition.n_samples": 0.5}
    assert select_frames(folder, tmp_path / "out", options).manifest.counts.frames == 56
    write_clip(folder / "c.mp4", frames=10, seed=9)
    result = select_frames(folder, tmp_path / "out", options)
    assert not result.already_done
    assert result.manifest.counts.frames == 66


def test_a_folder_of_somebody_else_is_not_written_into(clips, tmp_path):
    theirs = tmp_path / "project/data/results.csv"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(StorageError, match="run_directory"):
        select_frames(clips, tmp_path / "project", {})
    select_frames(clips, tmp_path / "project", {"run_directory": "frames/today", "stopping_condition.n_samples": 1})
    assert (tmp_path / "project/frames/today/manifest.json").exists()
    assert theirs.read_text() == "precious"


def test_output_inside_input_is_never_taken_for_input(clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    options = {"stopping_condition.n_samples": 4, "dump_dataset": True}
    select_frames(folder, folder / "selected", options)
    assert select_frames(folder, folder / "selected", options).already_done
    assert select_frames(folder, folder / "selected", {**options, "seed": 1}).manifest.kind == "videos"


def test_exact_duplicates_are_found_within_and_across_videos(tmp_path):
    folder = tmp_path / "in"
    # A lossless codec, so that a repeated picture is the same picture.
    write_clip(folder / "a.avi", frames=12, repeat=3, seed=4, codec="ffv1")
    write_clip(folder / "b.avi", frames=4, seed=4, codec="ffv1")
    result = select_frames(folder, tmp_path / "out", {})
    assert result.manifest.counts.frames == 16
    assert result.manifest.counts.duplicates == 12
    assert sampled(tmp_path / "out") == ["a-00-avi.png", "a-03-avi.png", "a-06-avi.png", "a-09-avi.png"]
    gone = list(csv.DictReader((tmp_path / "out/removed_samples.csv").open()))
    assert {row["duplicate_of"] for row in gone if row["filename"] == "b-2-avi.png"} == {"a-06-avi.png"}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_the_first_of_equal_frames_is_the_original(frames):
    hashes = np.array([bytes([value]) * 16 for value, _ in frames], dtype="V16")
    usable = np.array([good for _, good in frames], dtype=bool)
    first = first_of_equal(hashes, usable)
    for row, (value, good) in enumerate(frames):
        expected = next(i for i, other in enumerate(frames) if other == (value, True)) if good else row
        assert first[row] == expected


@given(st.decimals(0, 1, places=4), st.integers(0, 100_000))
def test_a_fraction_is_never_more_than_that_and_never_nothing(fraction, frames):
    share = share_of(float(fraction), frames)
    assert share <= max(fraction * frames, 1)
    assert share > fraction * frames - 1
    assert (share > 0) == (fraction > 0 and frames > 0)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_samples=st.one_of(st.integers(0, 70), st.floats(0, 1, width=16)),
    min_distance=st.sampled_from([-1.0, 0.0, 0.05, 0.3, 1.9]),
    method=st.sampled_from(["coreset", "balanced", "random"]),
)
def test_the_budget_is_never_exceeded_and_no_two_frames_are_too_near(
    clips, tmp_path_factory, n_samples, min_distance, method
):
    out = tmp_path_factory.mktemp("run")
    options = {
        "stopping_condition.n_samples": n_samples,
        "stopping_condition.min_distance": min_distance,
        "method": method,
        "n_example_images": 0,
    }
    manifest = select_frames(clips, out, options).manifest
    names = sampled(out)
    allowed = share_of(n_samples, 56) if isinstance(n_samples, float) else n_samples
    assert len(names) == len(set(names)) == manifest.counts.selected <= allowed
    assert manifest.checks.budget_kept
    assert manifest.checks.min_distance_kept
    assert manifest.checks.no_exact_duplicates
    vectors = vectors_in(out / "data/selected_embeddings.csv")
    if len(vectors) > 1:
        gaps = np.linalg.norm(vectors[:, None] - vectors, axis=2) + 9 * np.eye(len(vectors))
        assert gaps.min() >= max(min_distance, 0.0) - 1e-3


def test_the_order_in_which_files_are_found_does_not_matter(clips, tmp_path, monkeypatch):
    options = {"stopping_condition.n_samples": 9}
    select_frames(clips, tmp_path / "one", options)
    walk = os.walk

    def shuffled(*arguments, **named):
        for folder, subfolders, names in walk(*arguments, **named):
            random.Random(3).shuffle(subfolders)
            yield folder, subfolders, names[::-1]

    monkeypatch.setattr(os, "walk", shuffled)
    select_frames(clips, tmp_path / "other", options)
    assert sampled(tmp_path / "one") == sampled(tmp_path / "other")


def test_the_result_is_the_same_for_any_number_of_threads(clips, tmp_path):
    options = {"stopping_condition.n_samples": 9, "dump_dataset": True}
    hashes = {
        select_frames(clips, tmp_path / str(threads), {**options, "num_threads": threads}).manifest.content_hash
        for threads in (1, 2, 5, 100_000)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("method", ["balanced", "coreset", "random"])
def test_copies_that_are_not_to_be_removed_are_selected_when_nothing_else_is_left(tmp_path, method):
    write_clip(tmp_path / "in" / "a.mp4", frames=40, seed=1)
    shutil.copy(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4")
    options = {"method": method, "remove_exact_duplicates": False}
    enough = select_frames(tmp_path / "in", tmp_path / "few", {**options, "stopping_condition.n_samples": 30})
    assert enough.manifest.counts.selected == 30
    assert len({name[1:] for name in sampled(tmp_path / "few")}) == 30, "no copy while others are left"
    for wanted, expected in ((60, 60), (-1, 80), (100, 80)):
        options["stopping_condition.n_samples"] = wanted
        result = select_frames(tmp_path / "in", tmp_path / f"{wanted}", options)
        assert (result.manifest.counts.selected, result.manifest.counts.duplicates) == (expected, 0)
    assert len(set(sampled(tmp_path / "-1"))) == 80


@pytest.mark.parametrize(("exact", "fetches"), [(False, 0), (True, 3)])
def test_a_video_is_fetched_again_only_where_frames_of_it_must_be_decoded_and_then_once(
    clips, tmp_path, monkeypatch, exact, fetches
):
    fetched = []
    fetch = Scanner.fetch
    monkeypatch.setattr(Scanner, "fetch", lambda self, files: fetched.append(files) or fetch(self, files))
    options = {"stopping_condition.n_samples": 0.2, "dump_dataset": True, "output_image_format": "jpg"}
    select_frames(clips, tmp_path / "out", options | {"exact_frames": exact})
    assert (tmp_path / "out/plots/filter_decision_0.png").exists()
    assert len(fetched) == fetches


def test_a_folder_whose_name_is_no_text_is_one_sentence(clips, tmp_path):
    folder = os.fsencode(tmp_path) + b"/in\xff"
    shutil.copytree(os.fsencode(clips), folder)
    ended = run_worker(os.fsdecode(folder), tmp_path / "out")
    assert ended.returncode == OptionError.exit_code
    assert "not UTF-8" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("strength", [1e9, 200.0, 8.0, -7.0, -1e9])
@pytest.mark.parametrize("diversity", [True, False])
def test_no_strength_of_weights_shortens_the_selection(clips, tmp_path, strength, diversity):
    weights = {
        "input": {"type": "METADATA", "key": "lightly.sharpness"},
        "strategy": {"type": "WEIGHTS", "strength": strength},
    }
    others = [{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}}] if diversity else []
    config = {"n_samples": 20, "strategies": [weights, *others]}
    result = select_frames(clips, tmp_path / "out", {"selection_config": config})
    assert result.manifest.counts.selected == 20
    rows = parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()
    chosen = [row["sharpness"] for row in rows if row["status"] == "selected"]
    others = [row["sharpness"] for row in rows if row["status"] != "selected"]
    assert (np.mean(chosen) > np.mean(others)) == (strength > 0)


def test_copies_that_are_kept_by_design_are_no_broken_promise(tmp_path):
    write_clip(tmp_path / "in" / "a.mp4", frames=60, seed=1, repeat=4)
    options = {"selected_sequence_length": 3, "stopping_condition.n_samples": 30}
    result = select_frames(tmp_path / "in", tmp_path / "sequences", options)
    assert result.manifest.checks.no_exact_duplicates
    assert "exact duplicates among them" not in (tmp_path / "sequences/report.html").read_text()
    shutil.copy(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4")
    result = select_frames(tmp_path / "in", tmp_path / "copies", {"remove_exact_duplicates": False})
    assert "exact duplicates among them" not in (tmp_path / "copies/report.html").read_text()
    result = select_frames(tmp_path / "in", tmp_path / "plain", {"stopping_condition.n_samples": 10})
    assert "no exact duplicates among them" in (tmp_path / "plain/report.html").read_text()


def test_sequences_are_selected_whole_and_described_for_ffmpeg(clips, tmp_path):
    options = {"selected_sequence_length": 5, "stopping_condition.n_samples": 15, "dump_dataset": True}
    manifest = select_frames(clips, tmp_path / "out", options).manifest
    assert manifest.counts.selected == 15
    sequences = json.loads((tmp_path / "out/data/sequence_information.json").read_text())
    assert len(sequences) == 3
    for sequence in sequences:
        first = sequence["frame_indices"][0]
        assert first % 5 == 0
        assert sequence["frame_indices"] == list(range(first, first + 5))
        assert sequence["frame_timestamps_sec"] == sorted(sequence["frame_timestamps_sec"])
        assert set(sequence["frame_names"]) <= set(sampled(tmp_path / "out"))
        assert len(sequence["frame_timestamps_pts"]) == 5


@pytest.mark.parametrize("length", [25, 10**9])
def test_sequences_longer_than_any_video_are_told(clips, tmp_path, caplog, length):
    """It said that 0 frames were selected, and not why."""
    result = select_frames(clips, tmp_path / "out", {"selected_sequence_length": length})
    assert result.manifest.counts.selected == 0
    assert f"No video has {length} frames" in caplog.text


def test_a_fraction_of_sequences_is_rounded_up_to_the_next_whole_one(clips, tmp_path):
    options = {"selected_sequence_length": 4, "stopping_condition.n_samples": 0.1}
    assert select_frames(clips, tmp_path / "out", options).manifest.counts.selected == 8


def test_images_are_selected_where_there_is_no_video(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        picture = Image.new("RGB", (40, 30), (number * 40, 255 - number * 30, 90))
        picture.save(folder / f"{number}.png")
        picture.save(folder / "sub" / f"{number}.jpg", quality=95)
    Image.new("RGB", (40, 30)).save(folder / "same.bmp")
    Image.new("RGB", (40, 30), (1, 2, 3)).save(folder / "same.tif")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    result = select_frames(folder, tmp_path / "out", {"dump_dataset": True})
    assert result.manifest.kind == "images"
    assert "broken.png" in (tmp_path / "out/filenames/corrupt_filenames.txt").read_text()
    written = {
        path.relative_to(tmp_path / "out/data/sampled").as_posix()
        for path in (tmp_path / "out/data/sampled").rglob("*.*")
    }
    assert len(written) == result.manifest.counts.selected
    assert {"0.png", "sub/0.png"} <= written
    assert {"same.bmp.png", "same.tif.png"} <= written | {"same.bmp.png", "same.tif.png"}


def test_images_are_selected_from_the_whole_folder(tmp_path):
    """Each was a shot of its own, of which half of the budget went to the first ones."""
    rng = np.random.default_rng(0)
    for kind in range(20):
        (tmp_path / "in" / f"{kind:02}").mkdir(parents=True)
        shown = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1)))
        for number in range(20):
            picture = np.clip(shown + rng.normal(size=shown.shape) * 10, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "in" / f"{kind:02}" / f"{number:02}.png")
    select_frames(tmp_path / "in", tmp_path / "out", {"stopping_condition.n_samples": 40})
    each = Counter(name.split("/")[0] for name in sampled(tmp_path / "out"))
    assert len(each) == 20
    assert max(each.values()) <= 10


@pytest.mark.parametrize("measured", [True, False])
def test_the_distance_of_a_moved_pick_is_measured_or_not_told(tmp_path, monkeypatch, measured):
    """That of the frame in whose place it is was told."""
    monkeypatch.setattr(choosing, "_REMEASURED", 100 if measured else 1)
    write_clip(tmp_path / "in" / "a.mp4", frames=120, seed=1, pan=True)
    select_frames(tmp_path / "in", tmp_path / "out", {"stopping_condition.n_samples": 0.1, "dump_dataset": True})
    rows = parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()
    chosen = sorted((row for row in rows if row["status"] == "selected"), key=lambda row: row["pick"])
    assert len(chosen) == 12
    if not measured:
        assert {row["distance"] for row in chosen} == {None}
        return
    named = np.loadtxt(tmp_path / "out/data/embeddings.csv", str, delimiter=",", skiprows=1)
    vectors = {row[0]: row[1:-1].astype(float) for row in named}
    taken = np.array([vectors[row["filename"]] for row in chosen])
    for place in range(1, 12):
        nearest = np.linalg.norm(taken[:place] - taken[place], axis=1).min()
        assert chosen[place]["distance"] == pytest.approx(nearest, abs=1e-4)


def test_every_image_has_a_size_of_its_own(tmp_path):
    """All had that of the first image: a threshold on the width took all or none."""
    (tmp_path / "in").mkdir()
    sizes = {"a.png": (40, 30), "b.png": (400, 200), "c.png": (90, 300)}
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (number * 80, 90, 30)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "d.png").write_bytes(b"\x89PNG nothing")
    wide = {
        "input": {"type": "METADATA", "key": "lightly.width"},
        "strategy": {"type": "THRESHOLD", "threshold": 100, "operation": "BIGGER"},
    }
    diverse = {"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}}
    config = {"n_samples": 3, "strategies": [wide, diverse]}
    select_frames(tmp_path / "in", tmp_path / "out", {"selection_config": config})
    assert sampled(tmp_path / "out") == ["b.png"]
    rows = parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()
    assert {row["filename"]: (row["width"], row["height"]) for row in rows} == {**sizes, "d.png": (0, 0)}


def test_a_picture_as_thin_as_a_line_stops_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in (("panorama", (4000, 4)), ("line", (1, 9000)), ("small", (40, 40))):
        Image.new("RGB", size, (len(name) * 20, 90, 30)).save(tmp_path / "in" / f"{name}.png")
    options = {"dump_dataset": True, "output_image_format": "jpg"}
    result = select_frames(tmp_path / "in", tmp_path / "out", options)
    assert result.manifest.counts.selected == 3
    with pytest.raises(OptionError, match="Give another output_image_size or output_image_format"):
        select_frames(tmp_path / "in", tmp_path / "large", {**options, "output_image_size": 500})
    assert not (tmp_path / "large").exists()


def test_videos_win_over_images(clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    Image.new("RGB", (40, 30)).save(folder / "picture.png")
    assert select_frames(folder, tmp_path / "out", {}).manifest.kind == "videos"


def test_thresholds_and_weights_of_the_later_selection_config(clips, tmp_path):
    brightest = {
        "n_samples": 4,
        "strategies": [
            {"input": {"type": "METADATA", "key": "lightly.brightness"}, "strategy": {"type": "WEIGHTS"}},
            {
                "input": {"type": "METADATA", "key": "lightly.frame_index"},
                "strategy": {"type": "THRESHOLD", "threshold": 10, "operation": "SMALLER"},
            },
        ],
    }
    select_frames(clips, tmp_path / "out", {"selection_config": brightest})

    rows = parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()
    allowed = sorted((row["brightness"] for row in rows if row["frame_index"] < 10), reverse=True)
    chosen = sorted((row["brightness"] for row in rows if row["status"] == "selected"), reverse=True)
    assert chosen == allowed[:4]
    assert {row["status"] for row in rows if row["frame_index"] >= 10} <= {"threshold", "duplicate", "corrupt"}


def test_random_follows_its_seed(clips, tmp_path):
    def chosen(seed, name):
        config = {
            "n_samples": 8,
            "strategies": [{"input": {"type": "RANDOM", "random_seed": seed}, "strategy": {"type": "WEIGHTS"}}],
        }
        select_frames(clips, tmp_path / name, {"selection_config": config})
        return sampled(tmp_path / name)

    assert chosen(1, "a") == chosen(1, "b") != chosen(2, "c")


def test_two_random_weights_are_two(clips, tmp_path):
    """One seed was used for both, so that they were the same weight twice."""

    def chosen(*seeds):
        parts = [{"input": {"type": "RANDOM", "random_seed": seed}, "strategy": {"type": "WEIGHTS"}} for seed in seeds]
        select_frames(clips, tmp_path / "out", {"selection_config": {"n_samples": 8, "strategies": parts}})
        return sampled(tmp_path / "out")

    assert chosen(1, 1) == chosen(1)
    assert chosen(1, 2) not in (chosen(1), chosen(2))


def test_sanity_check_says_lightlys_words():
    ended = run_worker("sanity_check=True")
    assert ended.returncode == 0
    assert "Congratulations! It looks like the Lightly container is running!" in ended.stdout
