"""Whole runs with embeddings that the user gives, in a file or by a model."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from lightly_pipeline.worker import scanning, select_frames
from lightly_pipeline.worker.errors import DatapoolUnusable, NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import NeuralEmbedder
from lightly_pipeline_tests.worker.spine.conftest import (
    At,
    run_worker,
    sampled,
    vectors_in,
    write_clip,
    write_given,
)


def test_embeddings_at_unit_length_and_as_given_do_not_share_a_pool(clips, tmp_path):
    """Nothing told them apart: vectors of length 5 were compared with vectors of length 1."""
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)])
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "embeddings": str(given)}
    select_frames(clips, tmp_path / "one", pool | {"stopping_condition.n_samples": 5})
    with pytest.raises(DatapoolUnusable, match="as given"):
        select_frames(clips, tmp_path / "two", pool | {"normalize_embeddings": False, "datapool.part": "other"})
    assert select_frames(clips, tmp_path / "three", pool | {"datapool.part": "other"}).manifest.counts.pool_before == 5


def test_given_embeddings_replace_the_embedder(clips, tmp_path):
    names = [f"a-{i:02}-mp4.png" for i in range(24)]
    given = write_given(tmp_path, names)
    options = {"embeddings": str(given), "stopping_condition.n_samples": 3, "method": "coreset"}
    select_frames(clips, tmp_path / "out", options)
    # Farthest first from frame 0: the other end, then the middle.
    assert sampled(tmp_path / "out") == [names[0], names[11], names[23]] or sampled(tmp_path / "out") == [
        names[0],
        names[12],
        names[23],
    ]
    raw, unit = (vectors_in(tmp_path / f"out/data/{kind}embeddings.csv") for kind in ("", "normalized_"))
    assert len(raw) == 24
    assert np.allclose(np.linalg.norm(raw, axis=1), 5.0, atol=1e-3)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-4)


def test_what_only_the_given_embeddings_tell_apart_is_selected(tmp_path):
    """The pictures kept while decoding are those that the built-in descriptor tells apart: picks were moved to them."""
    write_clip(tmp_path / "in" / "a.mp4", frames=200, seed=1, pan=True)
    alone = [13, 50, 51, 120, 171, 199]
    vectors = np.zeros((200, 8))
    vectors[:, 0], vectors[:, 1] = 1, np.arange(200) / 1e3
    vectors[alone] = np.eye(8)[2:]
    path = tmp_path / "given.csv"
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["filenames", *(f"embedding_{column}" for column in range(8)), "labels"])
        writer.writerows([f"a-{number:03}-mp4.png", *vector, 0] for number, vector in enumerate(vectors))
    options = {"embeddings": str(path), "stopping_condition.n_samples": 0.1, "dump_dataset": True}
    select_frames(tmp_path / "in", tmp_path / "out", options)
    assert {f"a-{number:03}-mp4.png" for number in alone} <= set(sampled(tmp_path / "out"))


def test_embeddings_that_are_compared_as_given_are_still_listed_at_unit_length(clips, tmp_path):
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)])
    select_frames(clips, tmp_path / "out", {"embeddings": str(given), "normalize_embeddings": False})
    raw, unit = (vectors_in(tmp_path / f"out/data/{kind}embeddings.csv") for kind in ("", "normalized_"))
    assert np.allclose(np.linalg.norm(raw, axis=1), 5.0, atol=1e-3)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-4)


def test_masked_frames_are_left_out_and_preselected_ones_count(clips, tmp_path):
    names = [f"a-{i:02}-mp4.png" for i in range(24)]
    given = write_given(tmp_path, names, masked=[i == 23 for i in range(24)], selected=[i in (3, 4) for i in range(24)])
    text = given.read_text().replace("True", "1").replace("False", "0")
    given.write_text(text)
    select_frames(clips, tmp_path / "out", {"embeddings": str(given), "stopping_condition.n_samples": 3})
    chosen = sampled(tmp_path / "out")
    assert len(chosen) == 3
    assert {names[3], names[4]} < set(chosen)
    assert names[23] not in chosen


def test_an_empty_cell_neither_masks_nor_selects(clips, tmp_path):
    """An empty cell was taken for a 1: whoever marked one frame had marked all."""
    names = [f"a-{i:02}-mp4.png" for i in range(24)]
    masked, chosen = ([1 if i == marked else "" for i in range(24)] for marked in (23, 3))
    given = write_given(tmp_path, names, masked=masked, selected=chosen)
    result = select_frames(clips, tmp_path / "out", {"embeddings": str(given), "stopping_condition.n_samples": 2})
    assert names[3] in sampled(tmp_path / "out")
    assert names[23] not in sampled(tmp_path / "out")
    assert (result.manifest.counts.candidates, result.manifest.counts.selected) == (23, 2)


def test_frames_without_an_embedding_count_nowhere_and_are_told_apart(clips, tmp_path):
    """They were zero vectors, farther from everything than any frame, and had failed a threshold of nobody's."""
    names = [f"a-{i:02}-mp4.png" for i in range(24)]
    given = write_given(tmp_path, names[:22], masked=[i == 3 for i in range(22)])
    given.write_text(given.read_text().replace("True", "1").replace("False", "0"))
    result = select_frames(clips, tmp_path / "out", {"embeddings": str(given), "stopping_condition.n_samples": 4})
    for kind in ("", "normalized_"):
        assert np.linalg.norm(vectors_in(tmp_path / f"out/data/{kind}embeddings.csv"), axis=1).min() > 0.99
    assert result.manifest.distances.before.samples == result.manifest.counts.candidates == 21
    rows = {row["filename"]: row for row in parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()}
    gone = {row["filename"]: row for row in csv.DictReader((tmp_path / "out/removed_samples.csv").open())}
    for name, reason in ((names[3], "masked"), (names[22], "no embedding"), (names[4], "not selected")):
        if name in gone:
            assert rows[name]["status"] == gone[name]["reason"] == reason
        assert (rows[name]["nearest_distance"] is None) == (reason in ("masked", "no embedding"))
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert max(figure["worst"] for figure in report["coverage"]) < 1.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n", "expected are filenames"),
        ("", "cannot be read"),
        ("filenames,embedding_0,embedding_2,labels\na-00-mp4.png,1,1,0\n", "not one embedding_1"),
        ("filenames,embedding_0,embedding_0,labels\na-00-mp4.png,1,1,0\n", "not one embedding_0"),
    ],
)
def test_embeddings_in_another_format_are_refused_before_anything_is_decoded(clips, tmp_path, content, words):
    (tmp_path / "given.csv").write_text(content)
    begun = Progress(At("scan", lambda: pytest.fail("The videos are being decoded.")))
    with pytest.raises(OptionError, match=words):
        select_frames(clips, tmp_path / "out", {"embeddings": str(tmp_path / "given.csv")}, progress=begun)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a-00-mp4.png,1,0", "a-01-mp4.png,2,0", "a-00-mp4.png,3,0"], "names a-00-mp4.png 2 times"),
        (["a-00-mp4.png,1,0", "a-01-mp4.png,1e30,0"], "a-01-mp4.png has values too large"),
        (["a-00-mp4.png,1,0", "a-01-mp4.png,1e300,0"], "a-01-mp4.png has values too large"),
        (["a-00-mp4.png,1,0", "a-01-mp4.png,much,0"], "something else than numbers"),
    ],
)
def test_embeddings_that_mean_nothing_are_refused(clips, tmp_path, rows, words):
    (tmp_path / "given.csv").write_text("\n".join(["filenames,embedding_0,labels", *rows]) + "\n")
    with pytest.raises(OptionError, match=words):
        select_frames(clips, tmp_path / "out", {"embeddings": str(tmp_path / "given.csv")})


def test_embeddings_of_other_files_are_nothing_to_select_from(clips, tmp_path):
    (tmp_path / "given.csv").write_text("filenames,embedding_0,labels\nnowhere.png,1.0,0\n")
    with pytest.raises(NothingToSelect, match="None of the 1 file names"):
        select_frames(clips, tmp_path / "out", {"embeddings": str(tmp_path / "given.csv")})


def test_a_model_given_by_path_is_the_embedder_of_a_whole_run(clips, tmp_path, model):
    options = {"embedder": str(model), "stopping_condition.n_samples": 6, "dump_dataset": True}
    result = select_frames(clips, tmp_path / "out", options)
    assert (result.manifest.embedder.name, result.manifest.embedder.dimensions) == ("quarters", 12)
    assert len(list((tmp_path / "out/data/sampled").rglob("*.png"))) == 6
    # Another model is another job.
    model.with_suffix(".json").write_text('{"name": "quarters", "version": "3"}')
    assert not select_frames(clips, tmp_path / "out", options).already_done


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: model.unlink(), "There is no model"),
        (lambda model: model.write_bytes(b"nothing"), "does not load"),
        (lambda model: model.with_suffix(".json").unlink(), "has no sidecar"),
        (lambda model: model.with_suffix(".json").write_text('{"size": [1, 8]}'), "does not run"),
        (lambda model: model.with_suffix(".json").write_text('{"scale": 1e39}'), "not finite"),
    ],
    ids=["missing", "no model", "no sidecar", "other shape", "overflow"],
)
def test_a_model_that_does_not_fit_is_one_sentence(clips, tmp_path, model, spoil, words):
    spoil(model)
    ended = run_worker(clips, tmp_path / "out", f"embedder={model}")
    assert ended.returncode == OptionError.exit_code
    assert ended.stderr.startswith("lightly-worker: Option embedder=")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_copy_that_the_user_selected_stands_for_its_original(tmp_path):
    for number in range(6):
        Image.new("RGB", (40, 30), (number * 40, 90, 200 - number * 30)).save(tmp_path / f"{number}.png")
    folder = tmp_path / "in"
    folder.mkdir()
    for number, shown in enumerate([0, 1, 2, 1, 3, 1]):
        shutil.copy(tmp_path / f"{shown}.png", folder / f"{number}.png")
    given = write_given(tmp_path, [f"{number}.png" for number in range(6)], selected=[0, 0, 0, 1, 0, 1])
    select_frames(folder, tmp_path / "out", {"embeddings": str(given), "stopping_condition.n_samples": 2})
    assert "3.png" in sampled(tmp_path / "out")
    assert not {"1.png", "5.png"} & set(sampled(tmp_path / "out"))
    assert (tmp_path / "out/filenames/duplicate_filenames.txt").read_text().split() == ["1.png", "5.png"]


def test_frames_that_the_user_selected_need_no_distance_from_each_other(clips, tmp_path):
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)], selected=[1, 1, *[0] * 22])
    options = {"embeddings": str(given), "stopping_condition.min_distance": 0.3, "normalize_embeddings": False}
    result = select_frames(clips, tmp_path / "out", options)
    assert result.manifest.counts.selected > 4
    assert result.manifest.checks.min_distance_kept


def test_sequences_and_selected_frames_do_not_go_together(clips, tmp_path):
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)], selected=[1] + [0] * 23)
    with pytest.raises(OptionError, match="leave out its column 'selected'"):
        select_frames(clips, tmp_path / "out", {"embeddings": str(given), "selected_sequence_length": 3})


def test_embeddings_of_different_models_do_not_share_a_pool(clips, tmp_path):
    """Files do not say what made their vectors; who names the model is kept from comparing those of another."""
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)])
    pool = {"datapool.name": "pool", "datapool.uri": str(tmp_path / "pool"), "embeddings": str(given)}
    options = pool | {"stopping_condition.n_samples": 5, "embeddings_model": "dino"}
    assert select_frames(clips, tmp_path / "one", options).manifest.embedder.name == "given:dino"
    for model in ("clip", ""):
        with pytest.raises(DatapoolUnusable, match="holds embeddings of given:dino 1, at unit length"):
            select_frames(clips, tmp_path / "two", options | {"embeddings_model": model, "datapool.part": "other"})
    result = select_frames(clips, tmp_path / "three", options | {"datapool.part": "other"})
    assert result.manifest.counts.pool_before == 5
    with pytest.raises(OptionError, match="give embeddings, too"):
        select_frames(clips, tmp_path / "four", {"embeddings_model": "dino"})


def test_embeddings_that_are_changed_under_the_worker_are_an_error_that_says_so(clips, tmp_path):
    given = write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(24)])
    progress = Progress(At("scan", lambda: write_given(tmp_path, [f"a-{i:02}-mp4.png" for i in range(23)])))
    with pytest.raises(StorageError, match=r"given\.csv was changed while the worker ran"):
        select_frames(clips, tmp_path / "out", {"embeddings": str(given)}, progress=progress)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masked", [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]])
def test_a_frame_that_may_not_be_selected_does_not_stand_for_its_copies(tmp_path, masked):
    """Of a, b, c and d the first three are one picture: as long as one of them may be selected, it is."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, colour in (("a", 40), ("b", 40), ("c", 40), ("d", 200)):
        Image.new("RGB", (40, 30), (colour, 90, 60)).save(folder / f"{name}.png")
    given = write_given(tmp_path, [f"{name}.png" for name in "abcd"], masked=masked)
    select_frames(folder, tmp_path / "out", {"embeddings": str(given)})
    assert sampled(tmp_path / "out") == [f"{'abc'[masked.index(0)]}.png", "d.png"]


def test_a_model_is_loaded_once_however_many_batches_there_are(tmp_path, model, monkeypatch):
    loaded = []
    load = NeuralEmbedder.__init__

    def counted(self, path, **more):
        loaded.append(path)
        load(self, path, **more)

    monkeypatch.setattr(NeuralEmbedder, "__init__", counted)
    monkeypatch.setattr(scanning, "_IMAGES", 2)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (number * 40, 90, 60)).save(folder / f"{number}.png")
    result = select_frames(folder, tmp_path / "out", {"embedder": str(model)})
    assert (result.manifest.counts.selected, loaded) == (5, [model])


def test_the_vectors_of_a_model_can_be_compared_as_it_gives_them(clips, tmp_path, model):
    """normalize_embeddings=False did nothing."""
    options = {"embedder": str(model), "datapool.name": "pool", "datapool.uri": str(tmp_path / "pool")}
    select_frames(clips, tmp_path / "out", options | {"normalize_embeddings": False, "stopping_condition.n_samples": 5})
    raw, unit = (vectors_in(tmp_path / f"out/data/{kind}embeddings.csv") for kind in ("", "normalized_"))
    lengths = np.linalg.norm(raw, axis=1)
    assert lengths.max() - lengths.min() > 0.01
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-4)
    assert np.allclose(raw / lengths[:, None], unit, atol=1e-4)
    with pytest.raises(DatapoolUnusable, match="as given"):
        select_frames(clips, tmp_path / "other", options | {"datapool.part": "other"})
