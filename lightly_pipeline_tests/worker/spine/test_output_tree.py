"""The output tree, name by name as Lightly's worker wrote it, and what stands in each file."""

import csv
import hashlib
import json
import math
import re
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.choosing import choose
from lightly_pipeline.worker.frames import ScannedFiles, frame_namer, make_frame_table
from lightly_pipeline.worker.manifest import Manifest
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output.lists import write_lists
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import Problem, ScanSettings, scan_video
from lightly_pipeline.worker.scan.compiled import kernels as scan_kernels
from lightly_pipeline.worker.scanning import Scanner
from lightly_pipeline.worker.select.compiled import kernels as selection_kernels
from lightly_pipeline.worker.sources import FolderSource
from lightly_pipeline_tests.worker.spine.conftest import run_worker, tree_of

#: reference tree of Lightly's docker, without what needs training, labels or pre-tagging …
LIGHTLYS = {
    "config/config.yaml",
    "config/hydra.yaml",
    "config/overrides.yaml",
    "data/embeddings.csv",
    "data/normalized_embeddings.csv",
    "data/selected_embeddings.csv",
    "filenames/corrupt_filenames.txt",
    "filenames/duplicate_filenames.txt",
    "filenames/removed_filenames.txt",
    "filenames/sampled_filenames.txt",
    "filenames/sampled_filenames_excluding_datapool.txt",
    "plots/distance_distr_before.png",
    "plots/distance_distr_after.png",
    *(f"plots/filter_decision_{number}.png" for number in (0, 11, 22, 33, 44, 55)),
    *(
        f"plots/scatter_{name}{suffix}.png"
        for name in ("pca", "umap_k_5", "umap_k_15", "umap_k_50")
        for suffix in ("", "_no_overlay")
    ),
    "removed_samples.csv",
    "report.json",
    "log.txt",
}
#: … and what this worker adds.
OURS = {
    "contact_sheet.jpg",
    "corruptness_check_information.json",
    "data/frames.parquet",
    "manifest.json",
    "report.html",
}


@pytest.fixture(scope="module")
def result(clips, tmp_path_factory):
    """A selection of 12 of the 56 frames."""
    out = tmp_path_factory.mktemp("result") / "out"
    scratch = tmp_path_factory.mktemp("scratch")
    options = {"stopping_condition.n_samples": 12, "dump_dataset": True, "scratch": str(scratch)}
    return out, select_frames(clips, out, options).manifest


def lines(path):
    return path.read_text().splitlines()


@pytest.mark.parametrize("reader", ["nobody", "no room"])
def test_a_log_that_nobody_takes_ends_no_run(clips, tmp_path, reader):
    """It ended with 1, a defect, and a traceback for each line; the result was there."""
    command = [sys.executable, "-m", "lightly_pipeline.worker", str(clips), str(tmp_path / "out")]
    if reader == "nobody":
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        said = process.stderr.read()
        process.wait()
    else:
        with open("/dev/full", "w") as full:
            process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
        said = process.stderr
    assert (process.returncode, said) == (0, b"")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_the_tree_has_lightlys_names_and_no_others(result):
    out, _ = result
    tree = tree_of(out)
    frames = {path for path in tree if path.startswith("data/sampled/")}
    assert tree - frames == LIGHTLYS | OURS
    assert len(frames) == 12


def test_frames_are_named_as_lightly_names_them_and_keep_their_folders(result):
    out, _ = result
    names = lines(out / "filenames/sampled_filenames.txt")
    assert {path.removeprefix("data/sampled/") for path in tree_of(out) if "sampled/" in path} == set(names)
    assert all(re.fullmatch(r"(a-\d\d-mp4|sub/a-\d\d-mp4|sub/deeper/b-\d\d-avi)\.png", name) for name in names)
    assert frame_namer("sub/my_video.mp4", 200)(99) == "sub/my_video-099-mp4.png"
    assert frame_namer("clip.one.MP4", 10)(7) == "clip.one-07-MP4.png"


def test_same_names_in_different_folders_do_not_overwrite_each_other(clips, tmp_path):
    out = tmp_path / "out"
    select_frames(clips, out, {"dump_dataset": True})
    assert len(list((out / "data/sampled").rglob("*.png"))) == 56
    assert (out / "data/sampled/a-00-mp4.png").read_bytes() != (out / "data/sampled/sub/a-00-mp4.png").read_bytes()


def test_the_lists_divide_all_frames_among_them(result):
    out, manifest = result
    named = [
        set(lines(out / f"filenames/{kind}_filenames.txt")) for kind in ("corrupt", "duplicate", "removed", "sampled")
    ]
    assert sum(map(len, named)) == len(set().union(*named)) == manifest.counts.frames == 56
    gone = list(csv.DictReader((out / "removed_samples.csv").open()))
    assert len(gone) == 56 - 12


def test_embedding_files_have_lightlys_columns(result):
    out, manifest = result
    for name, rows in (
        ("embeddings", manifest.counts.frames - manifest.counts.duplicates - manifest.counts.corrupt),
        ("normalized_embeddings", manifest.counts.frames - manifest.counts.duplicates - manifest.counts.corrupt),
        ("selected_embeddings", 12),
    ):
        header, *body = list(csv.reader((out / f"data/{name}.csv").open()))
        d = manifest.embedder.dimensions
        assert header == ["filenames", *(f"embedding_{i}" for i in range(d)), "labels"]
        assert len(body) == rows
        assert {row[-1] for row in body} <= {"0", "1", "2"}
        vectors = np.array([row[1:-1] for row in body], dtype=np.float32)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)
    assert '"' not in (out / "data/embeddings.csv").read_text()


def test_the_manifest_hashes_every_file_and_counts_what_is_there(result):
    out, manifest = result
    assert {entry.path for entry in manifest.files} == tree_of(out) - {"manifest.json"}
    for entry in manifest.files:
        content = (out / entry.path).read_bytes()
        assert len(content) == entry.bytes
        assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert [entry.name for entry in manifest.input] == ["a.mp4", "sub/a.mp4", "sub/deeper/b.avi"]
    assert manifest.counts.selected == 12
    assert manifest.checks.budget_kept
    assert manifest.checks.no_exact_duplicates
    stored = json.loads((out / "manifest.json").read_text())
    assert stored["schema"] == 1
    assert stored["embedder"]["dimensions"] == manifest.embedder.dimensions


def test_a_manifest_is_read_as_it_was_written_whatever_its_numbers(result, tmp_path):
    _, manifest = result
    nowhere = manifest.model_copy(
        update={"distances": manifest.distances.model_copy(update={"nearest_to_pool": math.inf})}
    )
    nowhere.write(tmp_path / "again.json")
    assert Manifest.from_json((tmp_path / "again.json").read_bytes()) == nowhere
    assert Manifest.from_json(b"{}") is None


def test_every_frame_has_its_row_of_metadata(result):
    out, _ = result
    table = parquet.read_table(out / "data/frames.parquet").to_pylist()
    assert len(table) == 56
    selected = [row for row in table if row["status"] == "selected"]
    assert sorted(row["pick"] for row in selected) == list(range(12))
    assert all((out / row["file"]).is_file() for row in selected)
    names = {row["filename"] for row in selected}
    for row in table:
        if row["status"] in ("selected", "not selected"):
            assert row["nearest_selected"] in names - {row["filename"]}
            assert row["nearest_distance"] >= 0.0
        assert row["sharpness"] >= 0.0
    assert [row["timestamp"] for row in table[:3]] == pytest.approx([0.0, 1 / 24, 2 / 24], abs=1e-3)


def test_configuration_is_kept_without_the_token(clips, tmp_path):
    out = tmp_path / "out"
    select_frames(clips, out, {"stopping_condition.n_samples": 2, "token": "very-secret"})
    assert yaml.safe_load((out / "config/config.yaml").read_text())["stopping_condition"]["n_samples"] == 2
    assert "stopping_condition.n_samples=2" in yaml.safe_load((out / "config/overrides.yaml").read_text())
    for path in tree_of(out):
        assert b"very-secret" not in (out / path).read_bytes()


@pytest.mark.parametrize(
    ("size", "expected"), [(-1, (128, 96)), (48, (64, 48)), ([30, 50], (50, 30))], ids=["as is", "edge", "exact"]
)
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_frames_are_written_in_the_wanted_size_and_format(clips, tmp_path, size, expected, image_format):
    out = tmp_path / "out"
    options = {
        "stopping_condition.n_samples": 3,
        "dump_dataset": True,
        "output_image_size": size,
        "output_image_format": image_format,
    }
    select_frames(clips, out, options)
    written = list((out / "data/sampled").rglob(f"*.{image_format}"))
    assert len(written) == 3
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == expected
            assert picture.format == {"png": "PNG", "jpg": "JPEG"}[image_format]


def test_shards_hold_the_selected_frames_with_their_metadata(clips, tmp_path):
    out = tmp_path / "out"
    options = {"stopping_condition.n_samples": 8, "webdataset_shard_size_in_MB": 0.02}
    select_frames(clips, out, options)
    assert not (out / "data/sampled").exists()
    shards = sorted((out / "data/shards").iterdir())
    assert len(shards) > 1
    keys = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            keys += [name.rsplit(".", 1)[0] for name in archive.getnames()]
    sampled = [name.removesuffix(".png") for name in lines(out / "filenames/sampled_filenames.txt")]
    assert keys == [key for name in sampled for key in (name, name)]


@pytest.mark.parametrize("option", ["webdataset_shard_size_in_MB=1", "dump_dataset=True", "n_example_images=0"])
def test_who_has_the_frames_is_not_told_that_they_were_not_written(clips, tmp_path, option):
    said = run_worker(clips, tmp_path / "out", "stopping_condition.n_samples=2", option).stdout
    assert ("were not written" in said) == (option == "n_example_images=0")


def test_no_two_samples_of_the_shards_share_a_key(tmp_path):
    """WebDataset made one sample of both, and lost a picture."""
    (tmp_path / "in").mkdir()
    names = ["a.bmp", "a.png", "a_png.png", "b.1.png", "b_1.png"]
    for number, name in enumerate(names):
        Image.new("RGB", (40, 30), (number * 50, 90, 30)).save(tmp_path / "in" / name)
    select_frames(tmp_path / "in", tmp_path / "out", {"webdataset_shard_size_in_MB": 1e-4})
    samples = {}
    for shard in (tmp_path / "out/data/shards").iterdir():
        with tarfile.open(shard) as archive:
            for member in archive:
                key, extension = member.name.split(".", 1)
                assert extension not in samples.setdefault(key, {})
                samples[key][extension] = archive.extractfile(member).read()
    assert sorted(json.loads(sample["json"])["filename"] for sample in samples.values()) == names
    assert all(sample["png"] for sample in samples.values())


def test_the_report_is_one_self_contained_page(result):
    out, _ = result
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "12 of 56 frames selected" in page
    report = json.loads((out / "report.json").read_text())
    assert report["manifest"]["counts"]["selected"] == 12
    assert report["coverage"][0]["name"] == "this selection"
    assert sum(line["count"] for line in report["timelines"]) == 12
    assert len(report["pairs"]) == 6


def test_names_that_are_markup_stay_text_in_the_report(clips, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "<img src=x onerror=alert(1)>.mp4").write_bytes((clips / "a.mp4").read_bytes())
    select_frames(folder, tmp_path / "out", {"stopping_condition.n_samples": 2})
    page = (tmp_path / "out/report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_an_ordinary_run_imports_no_compiler(clips, tmp_path):
    """Importing numba takes longer than decoding half a minute of video; a first run has to."""
    scan_kernels()
    selection_kernels()
    code = (
        "import sys; from lightly_pipeline.worker import select_frames;"
        f"select_frames({str(clips)!r}, {str(tmp_path / 'out')!r},"
        "{'stopping_condition.n_samples': 0.2, 'dump_dataset': True});"
        "print([name for name in ('numba', 'matplotlib', 'boto3', 'scipy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_badly_damaged_video_is_told_in_few_lines_and_quickly(clips, tmp_path, caplog):
    """The reasons of each file were put together anew for each, and each was a line of the log."""
    [file] = [file for file in FolderSource(clips).files("") if file.name == "a.mp4"]
    scan = scan_video(clips / "a.mp4", scratch=tmp_path, settings=ScanSettings())
    scan.problems.extend(
        Problem(None, f"The picture at time {n} is missing: it does not decode.", "packet") for n in range(200_000)
    )
    scanned = ScannedFiles((file,), scan, ("digest",), images=False)
    with caplog.at_level("WARNING"):
        Scanner.tell(file, scan)
    assert len(caplog.records) == 11
    assert "199990 more such places" in caplog.text
    table = make_frame_table([scanned], tmp_path)
    outcome = choose(table, Options(), np.empty((0, table.embedder.dimensions), np.float32), Progress())
    write_lists(tmp_path / "tree", outcome, [])
    told = json.loads((tmp_path / "tree" / "corruptness_check_information.json").read_text())
    assert told["corrupt_videos"]["a.mp4"].count("is missing") == 200_000


def test_the_log_file_is_written_whoever_starts_the_run(clips, tmp_path):
    """From Python it stayed empty, unless that program showed all lines."""
    code = (
        "import sys; from lightly_pipeline.worker import select_frames; "
        "select_frames(sys.argv[1], sys.argv[2], {'stopping_condition.n_samples': 1})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clips), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "Decoded 56 frames" in (tmp_path / "out/log.txt").read_text()
    assert done.stdout + done.stderr == ""
