"""What is taken for input: which files are left out, why, and who is told."""

import csv
import json
import os
import shutil
import socket
import time

import pytest
from PIL import Image

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.discover import discover
from lightly_pipeline.worker.errors import NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.scan import images
from lightly_pipeline.worker.sources import FolderSource
from lightly_pipeline_tests.worker.spine.conftest import run_worker, tree_of, write_clip


def listed(out, name):
    return (out / f"filenames/{name}_filenames.txt").read_text().splitlines()


@pytest.fixture
def folder(tmp_path):
    """a.mp4 (12 frames) and sub/b.mp4 (10), to be changed."""
    write_clip(tmp_path / "in/a.mp4", frames=12, seed=1)
    write_clip(tmp_path / "in/sub/b.mp4", frames=10, seed=2)
    return tmp_path / "in"


def test_a_folder_that_was_removed_is_no_place_to_start_from(clips, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OptionError, match="in a folder that was removed"):
        select_frames(clips, "out")
    select_frames(clips, tmp_path / "out")


def test_what_is_no_file_is_listed_and_never_waited_for(folder, tmp_path, monkeypatch):
    """A pipe that was named like a video once stopped a run for ever."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.mp4")
    ended = run_worker(folder, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert listed(tmp_path / "out", "corrupt") == ["device.mp4", "pipe.mp4", "socket.mp4"]
    assert "3 unreadable files" in ended.stdout
    assert run_worker(folder, tmp_path / "out").stdout.startswith("Found 2 input videos")


@pytest.mark.parametrize("option", ["relevant_filenames_file", "embeddings"])
@pytest.mark.parametrize("name", ["nope", "sub"])
def test_a_list_that_cannot_be_read_is_a_wrong_option(folder, tmp_path, option, name):
    with pytest.raises(OptionError, match=f"{name} (cannot be read|is no file)"):
        select_frames(folder, tmp_path / "out", {option: name})


@pytest.mark.parametrize("place", [".", "results/today"])
def test_what_an_earlier_run_wrote_is_never_taken_for_input(tmp_path, place):
    """Its contact sheet, plots and frames once were the input of the next run into another folder."""
    folder = tmp_path / "in"
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 80, 90, 40)).save(_made(folder / f"mine/{number}.png"))
    options = {"dump_dataset": True, "stopping_condition.n_samples": 2}
    first = select_frames(folder, folder, {**options, "run_directory": place})
    assert first.manifest.counts.frames == 3
    assert select_frames(folder, folder, {**options, "run_directory": place}).already_done
    for run_directory in (place, "another"):
        again = select_frames(folder, folder, {**options, "run_directory": run_directory, "n_example_images": 0})
        assert [file.name for file in again.manifest.input] == ["mine/0.png", "mine/1.png", "mine/2.png"]


def test_what_a_killed_run_wrote_is_not_taken_for_input(folder, tmp_path):
    Image.new("RGB", (64, 48)).save(_made(tmp_path / "in/out/data/sampled/a.png"))
    write_clip(tmp_path / "in/out/mine.mp4", frames=3)
    (tmp_path / "in/out/.incomplete.json").write_text(json.dumps(["data/sampled/a.png", "mine.mp4"]))
    found = discover(FolderSource(folder), relevant_filenames_file="", leave_out="")
    assert [file.name for file in found.files] == ["a.mp4", "out/mine.mp4", "sub/b.mp4"]


def test_the_manifest_of_somebody_else_keeps_nothing_out(folder):
    Image.new("RGB", (64, 48)).save(_made(folder / "site/data/a.png"))
    (folder / "site/manifest.json").write_text(json.dumps({"files": ["data/a.png"]}))
    (folder / "site/report.html").touch()
    (folder / "a.mp4").unlink()
    (folder / "sub/b.mp4").unlink()
    found = discover(FolderSource(folder), relevant_filenames_file="", leave_out="")
    assert [file.name for file in found.files] == ["site/data/a.png"]


def test_who_gives_a_whole_result_as_input_is_told_where_its_frames_are(clips, tmp_path):
    select_frames(clips, tmp_path / "one", {"dump_dataset": True, "stopping_condition.n_samples": 2})
    with pytest.raises(NothingToSelect, match="give its data/sampled as INPUT"):
        select_frames(tmp_path / "one", tmp_path / "two", {})
    assert select_frames(tmp_path / "one/data/sampled", tmp_path / "two", {}).manifest.counts.frames == 2


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def relevant(folder, *lines):
    """The names of the files that a list with these lines leaves."""
    (folder / "list.txt").write_bytes(b"\n".join(line.encode() for line in lines))
    found = discover(FolderSource(folder), relevant_filenames_file="list.txt", leave_out="")
    return [file.name for file in found.files]


def test_lines_of_a_list_that_name_nothing_are_told(folder, caplog):
    lines = ["a.mp4", "b.mp4", "gone/", "*.avi", "!other.mp4", "# a remark", "", "a.mp4"]
    assert relevant(folder, *lines) == ["a.mp4"]
    assert "4 lines of list.txt name no video and no image" in caplog.text
    for line in lines[1:5]:
        assert repr(line) in caplog.text
    assert "remark" not in caplog.text
    caplog.clear()
    assert relevant(folder, "sub/*.mp4", "/a.mp4", "!sub/b*") == ["a.mp4"]
    assert caplog.text == ""


def test_the_name_of_a_file_in_a_list_stands_for_it_whatever_it_means_as_a_pattern(folder, caplog):
    names = [" a.mp4", "!a.mp4", "#1.mp4", "[ab].mp4", "a*.mp4", "a\u2028b.mp4", "sub [1]/b.mp4"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / "a.mp4").read_bytes())
    assert relevant(folder, *names) == sorted(names)
    assert relevant(folder, *(f"{name}\r" for name in names)) == sorted(names)
    assert relevant(folder, "sub [1]") == ["sub [1]/b.mp4"]
    assert caplog.text == ""


def test_the_last_line_of_a_list_that_names_a_file_wins(folder):
    assert relevant(folder, "a.mp4", "sub", "!a.*") == ["sub/b.mp4"]
    assert relevant(folder, "!a.*", "sub", "a.mp4") == ["a.mp4", "sub/b.mp4"]


def test_files_whose_names_are_no_text_stay_apart(tmp_path):
    """Both were bad\ufffd.png, and the frame of one was written over that of the other."""
    folder = tmp_path / "in"
    names = [b"bad\xff.png", b"bad\xfe.png", b"bad\\xfe.png"]  # the last one is text, and reads as the second does
    for number, name in enumerate(names):
        Image.new("RGB", (64, 48), (number * 80, 90, 40)).save(_made(folder / os.fsdecode(name)))
    result = select_frames(folder, tmp_path / "out", {"dump_dataset": True})
    assert listed(tmp_path / "out", "sampled") == ["bad\\xfe.png", "bad\\xff.png"]
    assert len(list((tmp_path / "out/data/sampled").iterdir())) == 2
    assert listed(tmp_path / "out", "corrupt") == ["bad\\xfe.png"]
    assert result.manifest.counts.unreadable == 1
    (folder / "list").write_bytes(names[0])
    result = select_frames(folder, tmp_path / "out", {"relevant_filenames_file": "list"})
    assert [file.name for file in result.manifest.input] == ["bad\\xff.png"]


@pytest.mark.parametrize("places", [("", "out"), ("in", ""), ("in", " ")])
def test_an_empty_place_is_refused(folder, tmp_path, monkeypatch, places):
    """What a shell variable that is not set leaves was the current folder."""
    monkeypatch.chdir(tmp_path)
    ended = run_worker(*places)
    assert ended.returncode == OptionError.exit_code
    assert "is empty" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "scratch"]


def test_a_bad_file_whose_name_is_no_text_stops_nothing(folder, tmp_path):
    """Its reason quotes the name, and no page could be written with it."""
    (folder / os.fsdecode(b"bad\xff.mp4")).write_text("no video")
    result = select_frames(folder, tmp_path / "out", {})
    assert result.manifest.counts.frames == 22
    assert listed(tmp_path / "out", "corrupt") == [r"bad\xff.mp4"]


def test_a_name_with_a_line_break_is_one_line_of_the_list(folder, tmp_path):
    (folder / "a.mp4").rename(folder / "a\nb\x07.mp4")
    select_frames(folder, tmp_path / "out", {})
    assert listed(tmp_path / "out", "corrupt") == [r"a\nb\x07.mp4"]


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (colour, 90, 255 - colour)).save(path)


def test_images_whose_names_would_be_the_same_in_the_output_are_all_written(tmp_path):
    """a.bmp.png was overwritten by a.bmp, which took that name to be told from a.tif."""
    for number, name in enumerate(("a.bmp", "a.tif", "a.bmp.png", "b.jpg")):
        picture(tmp_path / "in" / name, number * 60)
    select_frames(tmp_path / "in", tmp_path / "out", {"dump_dataset": True})
    written = tree_of(tmp_path / "out/data/sampled")
    assert written == {"a.bmp.png", "a.tif.png", "a.bmp.png.png", "b.png"}
    colours = {name: Image.open(tmp_path / "out/data/sampled" / name).getpixel((5, 5))[0] for name in written}
    assert abs(colours["a.bmp.png"] - 0) < 3
    assert abs(colours["a.bmp.png.png"] - 120) < 3


def test_a_folder_with_the_name_of_a_frame_is_named_with_the_remedy(tmp_path):
    picture(tmp_path / "in" / "a.bmp", 40)
    picture(tmp_path / "in" / "a.png" / "c.bmp", 200)
    with pytest.raises(StorageError, match=r"the name of a folder of the input \(.*a\.png.*\): rename that folder"):
        select_frames(tmp_path / "in", tmp_path / "out", {"dump_dataset": True})


def test_images_are_labelled_by_their_folder_and_frames_by_their_video(tmp_path, clips):
    for number, name in enumerate(("cats/1.png", "cats/2.png", "dogs/3.png")):
        picture(tmp_path / "in" / name, number * 60)
    for source, labels in ((tmp_path / "in", ["0", "0", "1"]), (clips, ["0"] * 24 + ["1"] * 20 + ["2"] * 12)):
        select_frames(source, tmp_path / "out" / source.name, {"remove_exact_duplicates": False})
        with (tmp_path / "out" / source.name / "data/embeddings.csv").open() as file:
            assert [row["labels"] for row in csv.DictReader(file)] == labels


def test_a_link_to_a_folder_is_told(tmp_path, clips, caplog):
    (tmp_path / "in").mkdir()
    shutil.copy(clips / "a.mp4", tmp_path / "in")
    (tmp_path / "in" / "more").symlink_to(clips)
    select_frames(tmp_path / "in", tmp_path / "out", {"stopping_condition.n_samples": 1})
    assert f"{tmp_path / 'in' / 'more'} is a link to a folder" in caplog.text


def test_large_images_are_worked_on_one_at_a_time(tmp_path, monkeypatch):
    """Each takes some 15 bytes a pixel: three of 144 megapixels took 5 GB."""
    at_work, most = set(), []
    open_image = images.open_image

    def watched(path):
        at_work.add(path)
        most.append(len(at_work))
        time.sleep(0.05)
        try:
            return open_image(path)
        finally:
            at_work.discard(path)

    monkeypatch.setattr(images, "open_image", watched)
    monkeypatch.setattr(images, "_LARGE", 1000)
    for number in range(6):
        picture(tmp_path / "in" / f"{number}.png", number * 40)
    select_frames(tmp_path / "in", tmp_path / "out", {"num_threads": 3})
    assert max(most) == 1
