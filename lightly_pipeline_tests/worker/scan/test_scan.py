"""What one pass over a video says about it: every frame, in order, the same on any machine load."""

import errno
import subprocess
import sys
import threading

import av
import numpy as np
import pytest
from PIL import Image

from lightly_pipeline.worker.scan import ScanSettings, scan_video, scan_videos
from lightly_pipeline.worker.scan.kept import Pack
from lightly_pipeline_tests.worker.scan.clips import picture, render, written

EXACT = ScanSettings(expected_share=0)


def decoded_by_hand(path):
    """Presentation times and luma planes, by the simplest loop there is."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(frame.pts, frame.to_ndarray(format="gray")) for frame in container.decode(stream)]


def test_every_frame_of_a_video_is_a_candidate_in_display_order(tmp_path):
    scan = scan_video(render(tmp_path / "a.mp4", 60), scratch=tmp_path, settings=ScanSettings())
    assert scan.frames["index"].tolist() == list(range(60))
    assert np.all(np.diff(scan.frames["seconds"]) > 0)
    assert scan.frames["ok"].all()
    assert scan.problems == []
    assert (scan.width, scan.height, scan.declared_frames, scan.fps) == (160, 96, 60, 25.0)
    np.testing.assert_allclose(np.linalg.norm(scan.embeddings, axis=1), 1, atol=1e-5)


CODECS = [
    ("a.mp4", "libx264", "yuv420p", {"g": "12"}),
    ("a.mp4", "libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    ("a.mp4", "libx264", "yuv444p", {"g": "50"}),
    ("a.mp4", "libx264", "yuv422p10le", {"g": "50"}),
    ("a.ts", "libx264", "yuv420p", {"g": "50"}),
    ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=55"}),
    ("a.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ("a.webm", "libvpx", "yuv420p", {"g": "50", "deadline": "realtime", "cpu-used": "8"}),
    ("a.webm", "libvpx-vp9", "yuv420p", {"g": "50", "deadline": "realtime", "cpu-used": "8"}),
    ("a.webm", "libvpx-vp9", "yuva420p", {"deadline": "realtime", "cpu-used": "8"}),
    ("a.mp4", "libsvtav1", "yuv420p", {"preset": "12", "g": "50"}),
    ("a.mp4", "mpeg4", "yuv420p", {"bf": "2"}),
    ("a.avi", "msmpeg4", "yuv420p", {}),
    ("a.avi", "mpeg4", "yuv420p", {}),
    ("a.mov", "mjpeg", "yuvj420p", {}),
    ("a.mov", "png", "rgba", {}),
    ("a.mpg", "mpeg2video", "yuv420p", {"bf": "2"}),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), CODECS, ids=lambda value: str(value)[:24])
def test_each_codec_gives_the_frames_that_a_plain_decode_gives(tmp_path, name, codec, pix_fmt, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    path = render(tmp_path / name, 120, codec=codec, pix_fmt=pix_fmt, options=options)
    plain = decoded_by_hand(path)
    scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=3, image_format="png"))
    assert scan.problems == []
    assert [pts for pts, _ in plain] == [None if pts < 0 else pts for pts in scan.frames["pts"].tolist()]
    assert scan.frames["ok"].all()
    equal = [number for number in range(1, len(plain)) if np.array_equal(plain[number][1], plain[0][1])]
    same_hash = [n for n in range(1, len(plain)) if scan.frames["pixel_hash"][n] == scan.frames["pixel_hash"][0]]
    assert set(same_hash) <= set(equal)
    kept = int(scan.kept[-1])
    lost = next(index for index in range(100, 120) if index not in scan.kept)
    for index, path in written(scan, [kept, lost], lambda index: tmp_path / f"{index}.png").items():
        shown = np.asarray(Image.open(path).convert("L")).astype(float)
        near = np.abs(shown - plain[index][1]).mean()
        far = np.abs(shown - plain[(index + 60) % 120][1]).mean()
        assert near < 6 < far


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_the_result_is_the_same_for_any_number_of_threads(tmp_path, image_format):
    path = render(tmp_path / "a.mp4", 400, options={"g": "50"}, shot=30)
    scans = [
        scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=threads, image_format=image_format))
        for threads in (1, 2, 5)
    ]
    assert len(scans[0].source.groups) > 4
    assert 0.02 * 400 < len(scans[0].kept) < 0.4 * 400
    for other in scans[1:]:
        assert other.frames.tobytes() == scans[0].frames.tobytes()
        assert other.embeddings.tobytes() == scans[0].embeddings.tobytes()
        assert other.kept.tolist() == scans[0].kept.tolist()
        for index in other.kept:
            assert other.pictures.read(index) == scans[0].pictures.read(index)


def test_a_group_too_long_to_be_collected_gives_the_same_frames_as_short_ones(tmp_path):
    path = render(tmp_path / "a.mp4", 800, width=64, height=48, options={"g": "2000", "sc_threshold": "0"})
    scans = [scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=threads)) for threads in (1, 4)]
    assert len(scans[0].frames) == 800
    assert scans[0].frames["ok"].all()
    assert scans[0].frames.tobytes() == scans[1].frames.tobytes()


def test_equal_pictures_have_equal_hashes_and_one_changed_pixel_another(tmp_path):
    path = tmp_path / "a.mkv"
    still = picture(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(still, format="rgb24").reformat(format="yuv420p")
            if number == 2:
                luma = np.frombuffer(frame.planes[0], np.uint8).copy()
                luma[frame.planes[0].line_size * 95 + 159] ^= 1  # the last visible pixel
                frame.planes[0].update(luma)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    hashes = scan_video(path, scratch=tmp_path, settings=EXACT).frames["pixel_hash"]
    assert hashes[0] == hashes[1] == hashes[3]
    assert hashes[2] != hashes[0]


def test_variable_frame_rate_keeps_its_times_and_is_no_gap(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 60)).tolist()
    scan = scan_video(render(tmp_path / "a.mp4", 60, times=times), scratch=tmp_path, settings=EXACT)
    steps = np.diff(scan.frames["seconds"])
    np.testing.assert_allclose(steps, np.diff(times) / 25, atol=1e-3)
    assert scan.problems == []


def test_odd_sizes_are_written_in_full(tmp_path):
    path = render(tmp_path / "a.mp4", 10, width=83, height=47, pix_fmt="yuv444p")
    for image_format in ("png", "jpg"):
        scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(image_format=image_format))
        files = written(scan, [0, 7], lambda index: tmp_path / f"{index}.{image_format}")  # noqa: B023
        assert {Image.open(file).size for file in files.values()} == {(83, 47)}


@pytest.mark.parametrize("image_format", ["png", "jpg"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_turns_pictures_and_embeddings(tmp_path, degrees, image_format):
    upright = render(tmp_path / "upright.mp4", 20)
    turned = tmp_path / "turned.mp4"
    with av.open(str(upright)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    settings = ScanSettings(image_format=image_format)
    scan = scan_video(turned, scratch=tmp_path, settings=settings)
    plain = scan_video(upright, scratch=tmp_path, settings=settings)
    assert (scan.width, scan.height) == ((96, 160) if degrees != 180 else (160, 96))
    assert not np.allclose(scan.embeddings[0], plain.embeddings[0], atol=1e-2)
    assert scan.frames["pixel_hash"].tobytes() == plain.frames["pixel_hash"].tobytes()
    files = written(scan, [0, 13], lambda index: tmp_path / "turned" / f"{index}.{image_format}")
    for index, file in files.items():
        shown = np.asarray(Image.open(file)).astype(float)
        expected = np.rot90(picture(index), degrees // 90)
        assert np.abs(shown - expected).mean() < 14


def test_many_videos_come_back_in_order_and_one_bad_file_does_not_stop_the_others(tmp_path):
    paths = [render(tmp_path / f"{n}.mp4", 5 + n) for n in range(5)]
    paths.insert(2, tmp_path / "broken.mp4")
    paths[2].write_bytes(b"this is no video")
    promised = {}
    settings = ScanSettings(threads=2)
    scans = list(scan_videos(paths, scratch=tmp_path, settings=settings, on_opened=promised.__setitem__))
    assert promised == {0: 5, 1: 6, 3: 7, 4: 8, 5: 9}
    assert [scan.path for scan in scans] == paths
    assert [len(scan.frames) for scan in scans] == [5, 6, 0, 7, 8, 9]
    assert [len(scan.problems) for scan in scans] == [0, 0, 1, 0, 0, 0]


def test_progress_adds_up_to_the_frames(tmp_path):
    seen = []
    scan_video(render(tmp_path / "a.mp4", 100), scratch=tmp_path, settings=EXACT, on_progress=seen.append)
    assert sum(seen) == 100


@pytest.mark.parametrize("group", [50, 5000])
def test_giving_up_in_the_middle_stops_all_threads(tmp_path, group):
    """Ctrl-C must not wait for the rest of a long video, nor for a group too long to be collected."""
    options = {"g": str(group), "sc_threshold": "0"}
    path = render(tmp_path / "a.mp4", 1500, width=64, height=48, options=options)
    code = f"""
import sys, threading, time
from pathlib import Path
from lightly_pipeline.worker.scan import ScanSettings, scan_videos
begin = 0.0
def interrupt(frames):
    global begin
    begin = time.monotonic()
    raise KeyboardInterrupt
path = Path({str(path)!r})
try:
    list(scan_videos([path] * 40, scratch=Path({str(tmp_path)!r}), settings=ScanSettings(), on_progress=interrupt))
except KeyboardInterrupt:
    print(threading.active_count(), time.monotonic() - begin < 5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["1", "True"]


@pytest.mark.parametrize(("name", "codec"), [("a.h264", "libx264"), ("a.hevc", "libx265")])
def test_frames_of_a_bare_stream_have_the_times_of_its_frame_rate(tmp_path, name, codec):
    path = render(tmp_path / name, 60, codec=codec, options={"x265-params": "log-level=none"})
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert len(scan.frames) == 60
    np.testing.assert_allclose(scan.frames["seconds"], np.arange(60) / 25)


def test_embeddings_beyond_a_hundred_thousand_frames_are_memory_mapped(tmp_path, monkeypatch):
    from lightly_pipeline.worker.scan import store

    path = render(tmp_path / "a.mp4", 200, options={"g": "50"})
    plain = scan_video(path, scratch=tmp_path, settings=EXACT)
    monkeypatch.setattr(store, "MEMORY_MAPPED_FROM", 100)
    mapped = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert isinstance(mapped.embeddings, np.memmap)
    assert np.array_equal(mapped.embeddings, plain.embeddings)


def test_closing_a_scan_leaves_nothing_in_scratch(tmp_path):
    path = render(tmp_path / "a.mp4", 50)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scan = scan_video(path, scratch=scratch, settings=ScanSettings())
    assert len(scan.kept)
    scan.close()
    assert list(scratch.iterdir()) == []


def test_of_frames_that_are_shown_twice_the_first_is_kept(tmp_path):
    """A copy cannot be selected: were its picture the kept one, its view would have none."""
    path = render(tmp_path / "a.mkv", 240, codec="mjpeg", pix_fmt="yuvj420p", shot=6)
    doubled = tmp_path / "doubled.mkv"
    with av.open(str(path)) as source, av.open(str(doubled), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is None:
                continue
            time = packet.pts
            for copy in (0, 1):
                again = av.Packet(bytes(packet))
                again.pts = again.dts = 2 * time + copy * packet.duration
                again.time_base, again.stream, again.is_keyframe = packet.time_base, stream, packet.is_keyframe
                target.mux(again)
    scan = scan_video(doubled, scratch=tmp_path, settings=ScanSettings(image_format="jpg"))
    first = np.unique(scan.frames["pixel_hash"], return_index=True)[1]
    assert (len(scan.frames), len(first)) == (480, 240)
    assert len(scan.kept) > 20
    assert set(scan.kept.tolist()) <= set(first.tolist())


def test_a_disk_that_is_full_ends_the_scan_and_its_threads(tmp_path, monkeypatch):
    """One group of pictures: the chunk has all cores, and is encoded beside its decoder."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Pack, "add", full)
    path = render(tmp_path / "a.mp4", 400, options={"g": "1000"})
    with pytest.raises(OSError, match="No space left"):
        scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=2))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("scan-")] == []
