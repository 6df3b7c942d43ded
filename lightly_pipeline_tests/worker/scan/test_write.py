"""Chosen frames as files: the right picture, the right size, the right colours, whole or not at all."""

import io
import time

import av
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from lightly_pipeline.worker.scan import (
    FramesLost,
    PictureTooLarge,
    ScanError,
    ScanSettings,
    again,
    packets,
    scan_images,
    scan_video,
    snap_in_stages,
    snap_to_kept,
    write_frames,
)
from lightly_pipeline.worker.scan.encode import SMALL, PictureEncoder, target_size
from lightly_pipeline.worker.scan.packets import open_container
from lightly_pipeline.worker.scan.png import Huffman, PngEncoder
from lightly_pipeline_tests.worker.scan.clips import picture, render, written


@pytest.mark.parametrize("share", [0.1, 0.0])
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_a_chosen_frame_is_written_as_that_very_frame_kept_or_not(tmp_path, image_format, share):
    settings = ScanSettings(image_format=image_format, expected_share=share)
    scan = scan_video(render(tmp_path / "a.mp4", 120, options={"g": "30"}), scratch=tmp_path, settings=settings)
    picks = [95, 3, *range(40, 60), 0, 119]
    files = written(scan, picks, lambda index: tmp_path / "out" / f"{index}.{image_format}")
    assert list(files) == picks
    for index, file in files.items():
        shown = np.asarray(Image.open(file)).astype(float)
        assert shown.shape == (96, 160, 3)
        others = [np.abs(shown - picture(other)).mean() for other in range(120)]
        # Pictures of one shot differ by where the square is; the nearest is the very frame.
        assert int(np.argmin(others)) == index
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize(
    ("image_format", "size", "small"),
    [("png", (96, 160), False), ("png", (400, 160), True), ("jpg", (720, 900), False), ("jpg", (1080, 760), True)],
)
def test_what_is_slow_to_read_is_kept_with_a_small_picture_beside_it(tmp_path, image_format, size, small):
    settings = ScanSettings(image_format=image_format, output_image_size=size)
    clip = render(tmp_path / "a.mp4", 30, width=320, height=192)
    scan = scan_video(clip, scratch=tmp_path, settings=settings)
    assert len(scan.kept)
    for index in scan.kept.tolist():
        quick = Image.open(io.BytesIO(scan.pictures.read_small(index)))
        assert (min(quick.size) == 144) == small
        assert Image.open(io.BytesIO(scan.pictures.read(index))).size == (size[1], size[0])
        shown = np.asarray(quick.convert("RGB").resize((320, 192)), float)
        others = [np.abs(shown - picture(other, 320, 192)).mean() for other in range(30)]
        assert abs(int(np.argmin(others)) - index) <= 1
    assert scan.pictures.read_small(30) is None


def test_a_small_picture_is_never_larger_than_the_frame_nor_endless():
    assert target_size(1920, 1080, SMALL) == (256, 144)
    assert target_size(100, 80, SMALL) == (100, 80)
    assert target_size(4000, 4, SMALL) == (1024, 1)
    assert target_size(3, 100_000, SMALL) == (1, 1024)


@pytest.mark.parametrize(("image_format", "size"), [("png", 1000), ("jpg", 1000), ("jpg", (8, 65501))])
def test_a_picture_that_its_format_cannot_hold_is_an_error_and_no_damage(tmp_path, image_format, size):
    clip = render(tmp_path / "a.mkv", 20, codec="ffv1", pix_fmt="yuv444p", width=2000, height=1)
    for share in (0.1, 0.0):
        settings = ScanSettings(image_format=image_format, output_image_size=size, expected_share=share)
        scan = scan_video(clip, scratch=tmp_path, settings=settings)
        assert scan.frames["ok"].all()
        with pytest.raises(PictureTooLarge, match="A frame of 2000 x 1 would become"):
            write_frames(scan, [3], lambda index: tmp_path / "3")
        write_frames(scan, [], lambda index: tmp_path / "3", small={3: tmp_path / "small.jpg"})
        assert Image.open(tmp_path / "small.jpg").size == (1024, 1)


def test_a_picture_out_of_all_proportion_is_an_error_and_no_defect(tmp_path):
    Image.new("RGB", (5000, 1)).save(tmp_path / "a.png")
    settings = ScanSettings(output_image_size=(37, 53), expected_share=0)
    scan = scan_images([tmp_path / "a.png"], scratch=tmp_path, settings=settings)
    with pytest.raises(PictureTooLarge, match="A frame of 5000 x 1 cannot be made a picture of 53 x 37"):
        write_frames(scan, [0], lambda index: tmp_path / "0")


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 48), (64, 47), (63, 47), (1, 1)])
def test_a_jpeg_holds_nothing_but_the_picture(monkeypatch, width, height, rotation, pix_fmt):
    """Above halved chroma libjpeg reads luma up to an even width and height: what lies there in memory is seen."""
    frame = av.VideoFrame.from_ndarray(picture(3, width, height), format="rgb24").reformat(format=pix_fmt)
    encode = simplejpeg.encode_jpeg_yuv_planes
    files = set()
    for filling in (0, 255):

        def surrounded(y, u, v, filling=filling, **options):
            """The same values where everything behind each plane, and behind each line that is packed, is `filling`."""
            moved = []
            for plane in (y, u, v):
                base = y.base if plane is y and y.base is not None else plane
                memory = np.full(base.size + 4096, filling, np.uint8)
                memory[: base.size] = base.ravel()
                moved.append(memory[: base.size].reshape(base.shape)[: plane.shape[0], : plane.shape[1]])
            return encode(*moved, **options)

        monkeypatch.setattr(simplejpeg, "encode_jpeg_yuv_planes", surrounded)
        files.add(PictureEncoder("jpg", -1, 95).encode(frame, rotation))
    [file] = files
    shown = Image.open(io.BytesIO(file))
    assert shown.size == ((height, width) if rotation else (width, height))


def test_a_kept_frame_is_the_same_file_as_one_that_is_decoded_again(tmp_path):
    path = render(tmp_path / "a.mp4", 90, options={"g": "30"})
    kept = scan_video(path, scratch=tmp_path, settings=ScanSettings(image_format="jpg"))
    again = scan_video(path, scratch=tmp_path, settings=ScanSettings(image_format="jpg", expected_share=0))
    picks = kept.kept.tolist()
    assert len(picks) > 5
    one = written(kept, picks, lambda index: tmp_path / "one" / f"{index}.jpg")
    two = written(again, picks, lambda index: tmp_path / "two" / f"{index}.jpg")
    assert [one[index].read_bytes() for index in picks] == [two[index].read_bytes() for index in picks]


@pytest.mark.parametrize(
    ("size", "expected"), [(-1, (160, 96)), (48, (80, 48)), ((30, 20), (20, 30)), (200, (333, 200))]
)
def test_output_image_size_is_lightlys(tmp_path, size, expected):
    assert target_size(160, 96, size) == expected
    settings = ScanSettings(output_image_size=size)
    scan = scan_video(render(tmp_path / "a.mp4", 20), scratch=tmp_path, settings=settings)
    files = written(scan, [7], lambda index: tmp_path / "7.png")
    assert Image.open(files[7]).size == expected


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("group", [7, 250])
def test_small_pictures_come_from_the_decode_that_gives_the_frames(tmp_path, monkeypatch, group, threads):
    clip = render(tmp_path / "a.mp4", 40, width=480, height=320, options={"g": str(group), "bf": "3"})
    scan = scan_video(clip, scratch=tmp_path, settings=ScanSettings(expected_share=0, threads=threads))
    opened = []
    monkeypatch.setattr(again, "open_container", lambda path: opened.append(path) or open_container(path))
    small = {index: tmp_path / f"small/{index}.jpg" for index in (3, 20, 38)}
    write_frames(scan, [2, 3, 21], lambda index: tmp_path / f"{index}.png", small=small)
    assert opened == [clip]
    for index in (2, 3, 21):
        assert Image.open(tmp_path / f"{index}.png").size == (480, 320)
    for index, file in small.items():
        with Image.open(file) as shown:
            assert (shown.format, shown.size) == ("JPEG", (216, 144))
            seen = np.asarray(shown.resize((480, 320)), float)
        others = [np.abs(seen - picture(other, 480, 320)).mean() for other in range(40)]
        assert abs(int(np.argmin(others)) - index) <= 1
    with pytest.raises(ScanError, match="there is no frame 40"):
        write_frames(scan, [], lambda index: tmp_path / "none", small={40: tmp_path / "none"})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("picks", [[2], [30, 199], [0, 100, 101]])
def test_of_a_group_without_end_few_packets_are_in_memory(tmp_path, monkeypatch, threads, picks):
    monkeypatch.setattr(packets, "_MAX_PACKETS", 50)
    held = []
    taken = packets.Chunk.add
    monkeypatch.setattr(
        packets.Chunk, "add", lambda chunk, packet: (taken(chunk, packet), held.append(len(chunk.packets)))[0]
    )
    clip = render(tmp_path / "a.mp4", 200, options={"g": "5000", "sc_threshold": "0"})
    scan = scan_video(clip, scratch=tmp_path, settings=ScanSettings(expected_share=0, threads=threads))
    assert len(scan.source.groups) == 1
    files = written(scan, picks, lambda index: tmp_path / f"{index}.png")
    for index in picks:
        seen = np.asarray(Image.open(files[index]), float)
        others = [np.abs(seen - picture(other, 160, 96)).mean() for other in range(200)]
        assert abs(int(np.argmin(others)) - index) <= 1
    assert max(held) == 50


@pytest.mark.parametrize("when", ["at once", "at the end"])
def test_every_group_has_a_decoder_of_its_own(tmp_path, monkeypatch, when):
    """However late threads come to take what was read, and in whatever order."""
    monkeypatch.setattr(packets, "_MAX_PACKETS", 50)
    clip = render(tmp_path / "a.mp4", 160, options={"g": "80", "sc_threshold": "0"})
    settings = ScanSettings(expected_share=0, threads=2)
    scan = scan_video(clip, scratch=tmp_path, settings=settings)
    assert len(scan.source.groups) == 2
    using, group, take = [], again.SecondDecode._group, again.Backlog.take

    def watched(self, decoder, *given):
        assert decoder not in using
        using.append(decoder)
        try:
            return group(self, decoder, *given)
        finally:
            using.remove(decoder)

    def late(self):
        while when == "at the end" and not self._closed:
            time.sleep(0.01)
        return take(self)

    # The second group has no more packets than may wait for its decoder.
    monkeypatch.setattr(again.SecondDecode, "_group", watched)
    monkeypatch.setattr(again.Backlog, "take", late)
    monkeypatch.setattr(again.Backlog, "_best", lambda self: len(self._waiting) - 1)
    files = written(scan, range(0, 160, 9), lambda index: tmp_path / f"{index}.png")
    assert all(file.stat().st_size for file in files.values())


def test_frames_that_a_file_no_longer_gives_are_named(tmp_path):
    settings = ScanSettings(expected_share=0)
    path = render(tmp_path / "a.mp4", 20)
    scan = scan_video(path, scratch=tmp_path, settings=settings)
    render(path, 20, shot=3, width=96, height=64)
    with pytest.raises(FramesLost, match=r"frames \[7\] do not decode again") as lost:
        write_frames(scan, [7], lambda index: tmp_path / "7.png")
    assert lost.value.indices == [7]
    with pytest.raises(ScanError, match="there is no frame 20"):
        write_frames(scan, [20], lambda index: tmp_path / "20.png")


def test_kept_pictures_that_were_cut_off_are_noticed(tmp_path):
    scan = scan_video(render(tmp_path / "a.mp4", 120, options={"g": "30"}), scratch=tmp_path, settings=ScanSettings())
    assert len(scan.kept) > 1
    assert scan.pictures.is_whole()
    packs = sorted(scan.scratch.glob("*.pictures"))
    packs[-1].write_bytes(packs[-1].read_bytes()[:-1])
    assert not scan.pictures.is_whole()
    packs[-1].unlink()
    assert not scan.pictures.is_whole()


@pytest.mark.parametrize("longest", [7, 12])
def test_a_huffman_code_is_complete_and_keeps_its_limit(longest):
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    rng = np.random.default_rng(0)
    for counts in (fibonacci, [5], [0, 3, 0, 9], [1] * 60, (rng.pareto(0.5, 60) * 3).clip(0, 1e8).tolist()):
        counts = np.array([*counts, *[0] * (64 - len(counts))]).astype(np.int64)
        lengths, codes = Huffman(64, longest).fit(counts)
        assert [length > 0 for length in lengths] == (counts > 0).tolist()
        assert max(lengths) <= longest
        if (counts > 0).sum() > 1:
            assert sum(2.0**-length for length in lengths if length) == 1
        # No code begins another: bits come lowest first.
        words = [f"{code:0{length}b}"[::-1] for code, length in zip(codes, lengths, strict=True) if length]
        assert all(not b.startswith(a) for a in words for b in words if a is not b)
        # The rarer a symbol, the longer its code.
        used = [(count, -length) for count, length in zip(counts.tolist(), lengths, strict=True) if length]
        falling = [-length for _, length in sorted(used)]
        assert falling == sorted(falling, reverse=True)


PICTURES = [
    np.zeros((40, 300, 3), np.uint8),
    np.full((1, 1, 3), 9, np.uint8),
    np.zeros((3, 1, 3), np.uint8),
    np.random.default_rng(0).integers(0, 256, (77, 101, 3), dtype=np.uint8),
    picture(5, 333, 187),
    np.repeat(np.arange(256, dtype=np.uint8), 3 * 20).reshape(256, 20, 3),
    np.pad(picture(1, 90, 60), ((30, 30), (200, 200), (0, 0))),
]


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_png_is_lossless_and_read_by_others(number):
    encoder = PngEncoder()
    for rgb in (PICTURES[number], PICTURES[0], PICTURES[number][::-1]):
        data = encoder.encode(np.ascontiguousarray(rgb))
        image = Image.open(io.BytesIO(data))
        image.load()
        assert np.array_equal(np.asarray(image), rgb)


def test_png_of_random_pictures_is_lossless():
    encoder, rng = PngEncoder(), np.random.default_rng(1)
    for _ in range(60):
        height, width = rng.integers(1, 70), rng.integers(1, 200)
        noise = rng.integers(0, 256, (height, width, 3))
        rgb = np.where(rng.random((height, width, 1)) < rng.random(), noise, rng.integers(0, 4)).astype(np.uint8)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoder.encode(rgb)))), rgb)


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "rgb24"])
@pytest.mark.parametrize("colorspace", [1, 5, 2])
def test_jpeg_has_the_colours_of_the_rgb_picture(name, colorspace):
    smooth = np.asarray(Image.fromarray(picture(3)).resize((192, 112), Image.Resampling.BICUBIC))
    frame = av.VideoFrame.from_ndarray(smooth, format="rgb24").reformat(format=name)
    frame.colorspace = colorspace
    data = PictureEncoder("jpg", -1, 98).encode(frame)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    expected = frame.to_ndarray(format="rgb24").astype(int)
    # Halved chroma is interpolated differently at edges; a wrong matrix or range is off by 5 and more.
    assert np.abs(shown - expected).mean() < 4
    assert np.abs((shown - expected).mean(axis=(0, 1))).max() < 2.5


def test_snapping_moves_picks_to_kept_frames_and_never_two_to_one():
    rng = np.random.default_rng(0)
    vectors = np.cumsum(rng.normal(size=(300, 8)), axis=0).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.zeros(300, bool)
    kept[::4] = True
    picks = rng.permutation(300)[:60]
    snapped = snap_to_kept(vectors, kept, picks)
    assert len(set(snapped.tolist())) == 60
    assert kept[snapped].all()
    assert all(new == old for new, old in zip(snapped, picks, strict=True) if kept[old])
    strict = snap_to_kept(vectors, kept, picks, tolerance=0.0)
    assert strict.tolist() == picks.tolist()


def test_snapping_in_stages_covers_as_well_as_the_exact_picks():
    rng = np.random.default_rng(3)
    steps = rng.normal(size=(3000, 16)) * rng.choice([0.02, 0.2], size=(3000, 1), p=[0.8, 0.2])
    vectors = np.cumsum(steps, axis=0).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def greedy(taken, count):
        near = (2 - 2 * vectors @ vectors[taken].T).min(axis=1) if len(taken) else np.full(3000, 9.0)
        picks = []
        for _ in range(count):
            picks.append(int(near.argmax()))
            near = np.minimum(near, 2 - 2 * vectors @ vectors[picks[-1]])
        return np.array(picks, np.int64)

    def radius(picks):
        return float(np.sqrt(max(0.0, (2 - 2 * vectors @ vectors[picks].T).min(axis=1).max())))

    kept, last = np.zeros(3000, bool), -1
    for index in range(3000):
        if last < 0 or np.linalg.norm(vectors[index] - vectors[last]) > 0.12:
            kept[index], last = True, index
    exact = greedy([], 300)
    assert not kept[exact].all()
    staged = snap_in_stages(vectors, kept, exact, greedy, settled=0.5)
    assert len(set(staged.tolist())) == 300
    assert kept[staged].mean() > 0.95
    assert radius(staged) <= 1.1 * radius(exact)
