"""Whole runs on top of a datapool: what it knows is not selected again, and nothing is lost or told twice."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from lightly_pipeline.worker import choosing, select_frames
from lightly_pipeline.worker.datapool import Datapool
from lightly_pipeline.worker.errors import DatapoolUnusable
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scanning import Scanner
from lightly_pipeline_tests.worker.spine.conftest import At, sampled, tree_of, write_clip, write_given


def test_the_datapool_only_grows_and_a_repetition_replaces_its_own_part(clips, tmp_path):
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "stopping_condition.n_samples": 6}
    write_clip(tmp_path / "second/x.mp4", seed=7)
    one = select_frames(clips, tmp_path / "one", pool).manifest
    two = select_frames(tmp_path / "second", tmp_path / "two", pool).manifest
    assert (one.counts.pool_before, one.counts.pool_after) == (0, 6)
    assert (two.counts.pool_before, two.counts.pool_after) == (6, 12)
    again = select_frames(tmp_path / "second", tmp_path / "elsewhere", pool).manifest
    assert (again.counts.pool_before, again.counts.pool_after) == (6, 12)
    assert len(list((tmp_path / "pool/pool").glob("*.npz"))) == 2


def test_an_input_of_other_content_adds_to_the_pool_and_the_same_replaces_its_part(tmp_path):
    """A folder into which new videos are put took the place of what it had held before."""
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "stopping_condition.n_samples": 4}
    day, counts = tmp_path / "watched", []
    for seed in (1, 2):
        shutil.rmtree(day, ignore_errors=True)
        write_clip(day / "latest.mp4", seed=seed)
        for again in ("", "again"):
            made = select_frames(day, tmp_path / f"out{seed}{again}", pool).manifest
            counts.append((made.counts.pool_before, made.counts.pool_after))
    assert counts == [(0, 4), (0, 4), (4, 8), (4, 8)]
    assert select_frames(day, tmp_path / "out2", pool).already_done
    named = {**pool, "datapool.part": "watched"}
    for seed in (3, 4):
        write_clip(day / "latest.mp4", seed=seed)
        made = select_frames(day, tmp_path / f"out{seed}", named).manifest
        assert (made.counts.pool_before, made.counts.pool_after) == (8, 12)


def test_what_an_earlier_version_put_there_is_replaced_by_the_same_content(clips, tmp_path):
    """Its parts had no content in their names."""
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "stopping_condition.n_samples": 4}
    select_frames(clips, tmp_path / "one", pool)
    [part] = (tmp_path / "pool/pool").glob("*.npz")
    part.rename(part.with_name(f"{part.stem.rpartition('-')[0]}.npz"))
    made = select_frames(clips, tmp_path / "two", pool).manifest
    assert (made.counts.pool_before, made.counts.pool_after) == (0, 4)
    assert len(list((tmp_path / "pool/pool").glob("*.npz"))) == 1


def test_a_datapool_without_a_name_is_told(clips, tmp_path, caplog):
    select_frames(clips, tmp_path / "out", {"datapool.uri": str(tmp_path / "pool"), "stopping_condition.n_samples": 1})
    assert "No datapool is used" in caplog.text


def test_what_the_pool_knows_is_not_selected_again(clips, tmp_path):
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    select_frames(clips, tmp_path / "one", pool)
    shutil.copytree(clips, tmp_path / "copy")
    result = select_frames(tmp_path / "copy", tmp_path / "two", {**pool, "stopping_condition.min_distance": 0.01})
    assert result.manifest.counts.selected == 0
    assert (tmp_path / "two/report.html").exists()


@pytest.mark.parametrize("sequences", [True, False])
def test_neither_sequences_nor_copies_of_what_the_pool_knows_are_selected(tmp_path, sequences):
    write_clip(tmp_path / "one" / "a.mp4", frames=40, seed=1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    write_clip(tmp_path / "two" / "b.mp4", frames=20, seed=2)
    options = {
        "datapool.name": "pool",
        "datapool.uri": str(tmp_path / "pool"),
        "stopping_condition.n_samples": -1,
        "remove_exact_duplicates": False,
        "selected_sequence_length": 5 if sequences else 1,
    }
    assert select_frames(tmp_path / "one", tmp_path / "first", options).manifest.counts.selected == 40
    assert select_frames(tmp_path / "two", tmp_path / "second", options).manifest.counts.selected == 20
    assert {name[0] for name in sampled(tmp_path / "second")} == {"b"}


def test_the_pictures_that_are_at_hand_are_not_taken_where_the_pool_knows_them(tmp_path):
    """The same clip under another name: what is selected of it is new, though likely frames are those of the first."""
    options = {
        "datapool.name": "pool",
        "datapool.uri": str(tmp_path / "pool"),
        "stopping_condition.n_samples": 0.2,
        "dump_dataset": True,
    }
    for name in ("one", "two", "three"):
        write_clip(tmp_path / name / f"{name}.mp4", frames=200, seed=5, repeat=2)
        result = select_frames(tmp_path / name, tmp_path / "out" / name, options)
        assert result.manifest.counts.selected > 10
        if name != "one":
            assert result.manifest.distances.nearest_to_pool > 0.001


def test_a_pool_that_cannot_be_written_is_told_before_the_work_begins(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Scanner, "scan", lambda *_args, **_named: pytest.fail("it began"))
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        options = {"datapool.name": "pool", "datapool.uri": str(tmp_path / place)}
        with pytest.raises(DatapoolUnusable, match="is a file"):
            select_frames(clips, tmp_path / "out", options)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_pool_that_fails_at_the_end_leaves_output_as_it_was(clips, tmp_path, earlier):
    out = tmp_path / "out/deep"
    if earlier:
        select_frames(clips, out, {"stopping_condition.n_samples": 4, "dump_dataset": True})
    before = {name: (out / name).read_bytes() for name in tree_of(out)}
    options = {"stopping_condition.n_samples": 6, "datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    (tmp_path / "pool/pool/mine.npz").mkdir(parents=True)
    with pytest.raises(DatapoolUnusable, match=r"The datapool at .*mine\.npz cannot be used: Is a directory"):
        select_frames(clips, out, {**options, "datapool.part": "mine"})
    assert {name: (out / name).read_bytes() for name in tree_of(out)} == before
    assert (tmp_path / "out").exists() == earlier


def test_a_kill_when_the_pool_is_told_makes_the_next_run_tell_it_again(clips, tmp_path):
    """Else OUTPUT would say done, and the pool hold what another run selected."""
    first, out = {"stopping_condition.n_samples": 3}, tmp_path / "out"
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    select_frames(clips, out, {**pool, **first})
    killed = (
        "import os, sys; from lightly_pipeline.worker import select_frames; "
        "from lightly_pipeline.worker.datapool import Datapool; Datapool.replace = lambda *_: os._exit(9); "
        "select_frames(*sys.argv[1:3], {'datapool.name': 'pool', 'datapool.uri': sys.argv[3]})"
    )
    command = [sys.executable, "-c", killed, str(clips), str(out), str(tmp_path / "pool")]
    assert subprocess.run(command, check=False).returncode == 9
    assert not (out / "manifest.json").exists()
    again = select_frames(clips, out, {**pool, **first})
    assert not again.already_done
    assert tree_of(out) == {file.path for file in again.manifest.files} | {"manifest.json"}


def test_a_broken_part_of_its_own_is_replaced(clips, tmp_path):
    options = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "datapool.part": "mine"}
    part = tmp_path / "pool/pool/mine.npz"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"torn")
    result = select_frames(clips, tmp_path / "out", {**options, "stopping_condition.n_samples": 6})
    assert result.manifest.counts.pool_after == 6
    assert len(Datapool(options["datapool.uri"], "pool").read("mine").filenames) == 6
    [kept] = (tmp_path / "pool/pool/history").iterdir()
    assert kept.read_bytes() == b"torn"


def test_what_matters_of_a_large_pool_gives_the_selection_that_all_of_it_gives(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for seed in range(3):
        write_clip(folder / f"{seed}.mp4", frames=200, seed=seed)
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    write_clip(tmp_path / "before" / "1.mp4", frames=300, seed=1, repeat=2)
    select_frames(tmp_path / "before", tmp_path / "first", pool)
    options = {**pool, "stopping_condition.n_samples": 0.2, "datasource.enable_datapool_update": False}
    used = []
    select = choosing.select

    def noted(embeddings, **arguments):
        used.append(len(arguments["pool"]))
        return select(embeddings, **arguments)

    monkeypatch.setattr(choosing, "select", noted)
    results = []
    for large in (0, 10**9):
        monkeypatch.setattr(choosing, "_LARGE_POOL", large)
        used.clear()
        select_frames(folder, tmp_path / f"{large}", options)
        results.append((used[0], sampled(tmp_path / f"{large}")))
    (few, one), (all_of_it, other) = results
    assert one == other
    assert few < all_of_it


def test_what_a_part_was_before_is_kept_in_the_history_unless_told_otherwise(clips, tmp_path):
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    for count, keep in ((4, True), (5, True), (6, False)):
        options = {**pool, "stopping_condition.n_samples": count, "datapool.keep_history": keep}
        select_frames(clips, tmp_path / "out", options)
    [kept] = (tmp_path / "pool/pool/history").iterdir()
    with np.load(kept) as part:
        assert len(part["embeddings"]) == 4
    write_clip(tmp_path / "second/x.mp4", seed=7)
    assert select_frames(tmp_path / "second", tmp_path / "two", pool).manifest.counts.pool_before == 6


def test_a_dry_run_leaves_the_pool_as_it_is(clips, tmp_path):
    pool = {
        "datapool.name": "pool",
        "datapool.uri": str(tmp_path / "pool"),
        "datasource.enable_datapool_update": False,
    }
    select_frames(clips, tmp_path / "one", pool)
    assert not (tmp_path / "pool").exists()


def test_a_pool_of_another_embedder_is_refused_before_anything_is_decoded(clips, tmp_path, model):
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "stopping_condition.n_samples": 5}
    select_frames(clips, tmp_path / "one", pool)
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)])
    for other in ({"embeddings": str(given)}, {"embedder": str(model)}):
        begun = Progress(At("scan", lambda: pytest.fail("The videos are being decoded.")))
        with pytest.raises(DatapoolUnusable, match="distances between them mean nothing"):
            select_frames(clips, tmp_path / "two", {**pool, **other, "datapool.part": "other"}, progress=begun)
    assert not (tmp_path / "two").exists()
    # In place of what it added itself anything goes.
    part = select_frames(clips, tmp_path / "two", {**pool, "embeddings": str(given)}).manifest.datapool.part
    with np.load(tmp_path / f"pool/pool/{part}.npz") as stored:
        assert stored["embeddings"].shape == (5, 2)


@pytest.mark.parametrize("update", [True, False])
def test_a_pool_that_cannot_be_read_is_told_before_anything_is_decoded(clips, tmp_path, update):
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    (tmp_path / "pool/pool").mkdir(parents=True)
    (tmp_path / "pool/pool/other.npz").write_bytes(b"torn")
    begun = Progress(At("scan", lambda: pytest.fail("The videos are being decoded.")))
    options = {**pool, "datasource.enable_datapool_update": update}
    with pytest.raises(DatapoolUnusable, match=r"other\.npz is not a readable part"):
        select_frames(clips, tmp_path / "out", options, progress=begun)
