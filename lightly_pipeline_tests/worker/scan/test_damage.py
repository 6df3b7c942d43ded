"""Damaged input: never a crash, a hang or a raise; always a reason; the good part is used; clean is clean."""

import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from lightly_pipeline.worker.scan import FramesLost, ScanSettings, scan_video, write_frames
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline_tests.worker.scan.clips import render, written

EXACT = ScanSettings(expected_share=0)


def shared_clips():
    folder = os.environ.get("LIGHTLY_TEST_VIDEOS", "")
    if not folder or not Path(folder).is_dir():
        return []
    return sorted(path for path in Path(folder).iterdir() if path.suffix in (".mp4", ".webm"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Some rendered clips of different codecs and containers."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        render(folder / "a.mp4", 90, options={"g": "30", "bf": "2"}),
        render(folder / "b.webm", 60, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8", "g": "30"}),
        render(folder / "c.avi", 60, codec="mpeg4"),
        render(folder / "d.ts", 60, options={"g": "20"}),
        render(folder / "e.mov", 30, codec="mjpeg", pix_fmt="yuvj420p"),
    ]


def damaged(clip, target, seed):
    """A copy with bytes changed at random: a few anywhere, or a stretch of zeros, or a piece left out."""
    rng = random.Random(seed)
    data = bytearray(clip.read_bytes())
    kind = seed % 4
    if kind < 2:
        for _ in range(rng.choice([1, 4, 40])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(1, 3000)] = bytes(rng.randrange(1, 3000))
    else:
        at = rng.randrange(len(data))
        del data[at : at + rng.randrange(1, 3000)]
    target.write_bytes(data)
    return target


def times_and_hashes(scan):
    return {int(pts): bytes(digest) for pts, digest in zip(scan.frames["pts"], scan.frames["pixel_hash"], strict=True)}


def hit_packet(path, offset):
    """Number of the packet that holds a byte of the file."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]
    return int(np.searchsorted(places, offset, side="right")) - 1


def check(scan):
    """What must hold for any input."""
    for problem in scan.problems:
        assert problem.reason.endswith(".")
        assert problem.kind
        if problem.frame_index is not None:
            assert not scan.frames["ok"][problem.frame_index]
    bad = np.flatnonzero(~scan.frames["ok"])
    assert set(bad.tolist()) == {p.frame_index for p in scan.problems if p.frame_index is not None}
    assert len(scan.frames) or any(problem.kind == "unreadable" for problem in scan.problems)
    assert not set(scan.kept.tolist()) & set(bad.tolist())
    assert np.isfinite(scan.embeddings).all()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.mp4", b"", "does not open as a video: the file is empty"),
        ("text.mp4", b"hello world\n", "does not open"),
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n", ""),
        ("playlist.webm", b"ffconcat version 1.0\nfile /etc/passwd\n", ""),
    ],
)
def test_what_is_no_video_is_unreadable_with_a_reason(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert [problem.kind for problem in scan.problems][:1] == ["unreadable"]
    assert name in scan.problems[0].reason
    assert words in scan.problems[0].reason
    check(scan)


@pytest.mark.parametrize(
    "content", [b"ffconcat version 1.0\nfile other.mp4\n", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_does_not_make_the_worker_read_the_video_that_it_names(tmp_path, content):
    render(tmp_path / "other.mp4", 8)
    (tmp_path / "list.mp4").write_bytes(content)
    scan = scan_video(tmp_path / "list.mp4", scratch=tmp_path, settings=EXACT)
    assert [problem.kind for problem in scan.problems] == ["unreadable"]


def test_a_missing_file_and_a_directory_are_unreadable(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    for name in ("gone.mp4", "folder.mp4"):
        scan = scan_video(tmp_path / name, scratch=tmp_path, settings=EXACT)
        assert [problem.kind for problem in scan.problems] == ["unreadable"]


@pytest.mark.parametrize(("cover", "said"), [(False, "only audio."), (True, "only a cover picture, audio.")])
def test_a_file_without_video_is_said_to_have_none(tmp_path, cover, said):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", width=16, height=16, pix_fmt="yuvj420p")
            picture.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame(16, 16, "yuvj420p")
            image.pts = 0
            container.mux([*picture.encode(image), *picture.encode(None)])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert scan.problems[0].reason == f"sound.mp4 has no video in it, {said}"


def test_a_truncated_video_is_used_as_far_as_it_goes(tmp_path):
    whole = render(tmp_path / "whole.mp4", 90, options={"g": "30", "movflags": "faststart"})
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "front.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    scan = scan_video(path, scratch=tmp_path, settings=ScanSettings())
    check(scan)
    clean = times_and_hashes(scan_video(whole, scratch=tmp_path, settings=EXACT))
    good = scan.frames[scan.frames["ok"]]
    assert 20 < len(good) < 80
    assert all(clean[int(row["pts"])] == bytes(row["pixel_hash"]) for row in good)
    assert "truncated" in {problem.kind for problem in scan.problems}
    assert any("declares 90 frames" in problem.reason for problem in scan.problems)
    index = int(good["index"][-1])
    assert written(scan, [index], lambda index: tmp_path / "last.png")[index].exists()


def test_a_truncated_webm_is_said_to_be_truncated(tmp_path):
    """Matroska ends without a word when it is cut off."""
    whole = render(tmp_path / "a.webm", 100, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    assert scan_video(whole, scratch=tmp_path, settings=EXACT).problems == []
    data = whole.read_bytes()
    cut = tmp_path / "cut.webm"
    cut.write_bytes(data[: len(data) // 2])
    scan = scan_video(cut, scratch=tmp_path, settings=EXACT)
    check(scan)
    assert 10 < len(scan.frames) < 90
    assert "truncated" in {problem.kind for problem in scan.problems}


def test_damaged_packets_are_found_and_what_is_predicted_from_them(tmp_path):
    """Frames that differ from the clean decode are called corrupt; those of untouched groups never are."""
    clean_path = render(tmp_path / "a.mp4", 150, width=320, height=192, options={"g": "30", "bf": "2"})
    clean_scan = scan_video(clean_path, scratch=tmp_path, settings=EXACT)
    clean, groups = times_and_hashes(clean_scan), clean_scan.source.groups
    changed_frames = found = 0
    for seed in range(12):
        rng = random.Random(seed)
        data = bytearray(clean_path.read_bytes())
        start = data.index(b"mdat") + 2000
        at = rng.randrange(start, start + (len(data) - start) * 3 // 4)
        data[at] ^= 1 << rng.randrange(8)
        path = tmp_path / "damaged.mp4"
        path.write_bytes(data)
        scan = scan_video(path, scratch=tmp_path, settings=ScanSettings())
        check(scan)
        changed = np.array([clean.get(int(row["pts"])) != bytes(row["pixel_hash"]) for row in scan.frames], dtype=bool)
        bad = ~scan.frames["ok"]
        changed_frames += int(changed.sum())
        found += int((changed & bad).sum())
        # Only the group of pictures whose packet was hit may suffer.
        group = int(np.searchsorted(groups[:, 0], hit_packet(clean_path, at), side="right")) - 1
        end = groups[group + 1, 1] if group + 1 < len(groups) else len(bad)
        assert not bad[: groups[group, 1]].any()
        assert not bad[end:].any()
    assert changed_frames > 50
    assert found >= 0.9 * changed_frames


def test_a_dropped_packet_leaves_a_gap_that_is_reported(tmp_path):
    whole = render(tmp_path / "whole.mp4", 90, options={"g": "30", "bf": "0"})
    holed = tmp_path / "holed.mp4"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is not None and number != 40:
                packet.stream = stream
                target.mux(packet)
    scan = scan_video(holed, scratch=tmp_path, settings=EXACT)
    check(scan)
    by_kind = {problem.kind: problem.reason for problem in scan.problems}
    # libav shows nothing from the hole to the next picture that stands alone, and does not say so.
    assert "13 pictures between 1.640 s and 2.120 s are missing" in by_kind["packet"]
    assert "about 14 frames are missing" in by_kind["gap"]
    assert len(scan.frames) == 76
    assert scan.frames["ok"].all()


def test_a_webm_that_lost_its_last_pictures_is_called_truncated(tmp_path):
    """A few frames fewer are within what its declared length may be off by; its bytes are counted."""
    whole = render(tmp_path / "whole.webm", 60, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    scan = scan_video(whole, scratch=tmp_path, settings=EXACT)
    assert scan.problems == []
    short = tmp_path / "short.webm"
    short.write_bytes(whole.read_bytes()[: -whole.stat().st_size // 20])
    kinds = [problem.kind for problem in scan_video(short, scratch=tmp_path, settings=EXACT).problems]
    assert "truncated" in kinds


def without_packet(clip, target, left_out):
    """A copy of a clip that lost one packet on the way."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is not None and number != left_out:
                packet.stream = stream
                container.mux(packet)
    return target


def test_h264_pictures_predicted_from_a_lost_one_are_corrupt(tmp_path):
    """libav predicts them from an older picture instead, and complains of nothing: the numbers in the stream do."""
    whole = render(tmp_path / "whole.mp4", 90, width=320, height=192, options={"g": "30", "bf": "2"})
    clean = times_and_hashes(scan_video(whole, scratch=tmp_path, settings=EXACT))
    changed = 0
    for left_out in range(33, 41):
        scan = scan_video(
            without_packet(whole, tmp_path / "holed.mp4", left_out), scratch=tmp_path, settings=ScanSettings()
        )
        differs = [clean[int(row["pts"])] != bytes(row["pixel_hash"]) for row in scan.frames]
        assert not (scan.frames["ok"] & differs).any()
        assert scan.frames["ok"][:30].all()
        assert scan.frames["ok"][scan.frames["seconds"] >= 60 / 25].all()
        if any(differs):
            assert "the encoder's count jumps from" in " ".join(problem.reason for problem in scan.problems)
        changed += sum(differs)
    assert changed >= 20


def flip_bits(clip, target, rng, packet=None):
    """Flip four bits of one packet, not in its first quarter."""
    with av.open(str(clip)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    begin, size = places[rng.randrange(len(places)) if packet is None else packet]
    content = bytearray(clip.read_bytes())
    if clip.suffix == ".webm":  # positions are those of blocks, whose head is a few bytes
        begin += 8
        size -= 8
    for _ in range(4):
        content[begin + rng.randrange(size // 4, size)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)


@pytest.mark.parametrize("seed", range(4))
def test_every_changed_picture_is_found_where_an_hevc_encoder_left_hashes(tmp_path, seed):
    """The decoder tells of them, and of slices that do not decode, only as an error of the packet."""
    options = {"preset": "ultrafast", "x265-params": "hash=1:keyint=30:log-level=error"}
    clip = render(tmp_path / "a.mp4", 60, codec="libx265", options=options)
    clean = scan_video(clip, scratch=tmp_path, settings=EXACT)
    assert clean.frames["ok"].all()
    assert not clean.problems
    flip_bits(clip, tmp_path / "b.mp4", random.Random(seed))
    scan = scan_video(tmp_path / "b.mp4", scratch=tmp_path, settings=EXACT)
    assert scan.problems
    told, true = times_and_hashes(scan), times_and_hashes(clean)
    good = {int(pts) for pts, ok in zip(scan.frames["pts"], scan.frames["ok"], strict=True) if ok}
    assert good
    assert all(told[pts] == true[pts] for pts in good)


VP9 = {"deadline": "realtime", "cpu-used": "8", "b": "0", "crf": "30"}


@pytest.mark.parametrize("seed", range(8))
def test_every_changed_picture_of_a_vp9_video_is_found(tmp_path, seed):
    """libav's own decoder makes a picture of whatever it is given, and says nothing."""
    clip = render(tmp_path / "a.webm", 90, codec="libvpx-vp9", options={**VP9, "g": "30"}, shot=90)
    clean = scan_video(clip, scratch=tmp_path, settings=EXACT)
    assert clean.frames["ok"].all()
    assert not clean.problems
    flip_bits(clip, tmp_path / "b.webm", random.Random(seed))
    scan = scan_video(tmp_path / "b.webm", scratch=tmp_path, settings=EXACT)
    told, true = times_and_hashes(scan), times_and_hashes(clean)
    assert told.keys() == true.keys(), "damaged pictures are there to look at"
    changed = {pts for pts in told if told[pts] != true[pts]}
    corrupt = {int(pts) for pts, ok in zip(scan.frames["pts"], scan.frames["ok"], strict=True) if not ok}
    assert changed
    assert changed <= corrupt
    assert len(corrupt) <= 30


def test_damage_in_a_group_too_long_to_be_decoded_twice_is_found(tmp_path):
    options = {**VP9, "g": "9999", "keyint_min": "9999"}
    clip = render(tmp_path / "a.webm", 700, codec="libvpx-vp9", options=options, shot=700)
    flip_bits(clip, tmp_path / "b.webm", random.Random(1), packet=400)
    clean = scan_video(clip, scratch=tmp_path, settings=EXACT)
    scan = scan_video(tmp_path / "b.webm", scratch=tmp_path, settings=EXACT)
    assert len(clean.source.groups) == 1
    assert clean.frames["ok"].all()
    assert scan.frames["ok"].tolist() == [True] * 400 + [False] * 300
    assert times_and_hashes(scan).keys() == times_and_hashes(clean).keys()


@pytest.mark.parametrize("kind", ["transparent", "turned", "4:4:4"])
def test_what_a_strict_decoder_does_not_know_is_not_held_against_a_vp9_video(tmp_path, kind):
    formats = {"transparent": "yuva420p", "4:4:4": "yuv444p"}
    options = {**VP9, "auto-alt-ref": "0"}
    clip = tmp_path / ("a.mp4" if kind == "turned" else "a.webm")
    render(clip, 20, codec="libvpx-vp9", pix_fmt=formats.get(kind, "yuv420p"), options=options)
    if kind == "turned":
        with av.open(str(clip)) as given, av.open(str(tmp_path / "turned.mp4"), "w") as container:
            stream = container.add_stream_from_template(given.streams.video[0])
            stream.set_display_rotation(90)
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        clip = tmp_path / "turned.mp4"
    scan = scan_video(clip, scratch=tmp_path, settings=EXACT)
    assert not scan.problems
    assert len(scan.frames) == 20
    assert (scan.width, scan.height) == ((96, 160) if kind == "turned" else (160, 96))
    meter = Meter()
    with av.open(str(clip)) as container:
        assert container.streams.video[0].codec_context.name == "vp9"
        hashes = [meter.hash(frame) for frame in container.decode(video=0)]
    assert [bytes(row) for row in scan.frames["pixel_hash"]] == hashes


def test_pictures_that_a_camera_skipped_are_not_missed(tmp_path):
    """A hole in time is no damage to the pictures after it when none was encoded for it."""
    times = [*range(40), *range(52, 102)]
    path = render(tmp_path / "skipped.mp4", 90, options={"g": "30", "bf": "2"}, times=times)
    assert scan_video(path, scratch=tmp_path, settings=EXACT).frames["ok"].all()


def test_rows_that_a_decoder_filled_with_gray_are_corrupt(tmp_path):
    path = tmp_path / "gray.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(6):
            rng = np.random.default_rng(number)
            frame = av.VideoFrame.from_ndarray(rng.integers(16, 235, (144, 160), dtype=np.uint8), format="yuv420p")
            if number == 3:
                luma = np.frombuffer(frame.planes[0], np.uint8).copy()
                luma[frame.planes[0].line_size * 60 :] = 128
                frame.planes[0].update(luma)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert np.flatnonzero(~scan.frames["ok"]).tolist() == [3]
    assert scan.problems[0].kind == "uniform_rows"
    assert "38%" in scan.problems[0].reason
    assert scan.frames["uniform_row_ratio"][3] == pytest.approx(36 / 96)


def test_a_gray_bar_that_every_picture_has_is_no_damage(tmp_path):
    """A toolbar in the gray of decoders made a clean video corrupt from its first picture to its last."""
    path = tmp_path / "bar.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(20):
            planes = np.random.default_rng(number).integers(16, 235, (144, 160), dtype=np.uint8)
            planes[72:96], planes[114:120], planes[138:144] = 128, 128, 128
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert scan.frames["ok"].all()
    assert not scan.problems


def test_black_white_and_letterboxed_frames_are_clean(tmp_path):
    path = tmp_path / "flat.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for level in (0, 0, 255, 255, 128, 128):
            rgb = np.full((96, 160, 3), level, np.uint8)
            rgb[40:56] = np.random.default_rng(level).integers(0, 255, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    scan = scan_video(path, scratch=tmp_path, settings=EXACT)
    assert scan.frames["ok"].all()
    assert scan.problems == []


def test_switched_off_the_check_calls_nothing_corrupt(tmp_path):
    clip = render(tmp_path / "a.mp4", 90, options={"g": "30"})
    path = damaged(clip, tmp_path / "b.mp4", 2)
    scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(check_corruptness=False))
    assert scan.frames["ok"].all()


@pytest.mark.parametrize("number", range(5))
def test_any_truncation_gives_frames_or_a_reason(tmp_path, clips, number):
    data = clips[number].read_bytes()
    for part in range(20):
        path = tmp_path / f"cut{clips[number].suffix}"
        path.write_bytes(data[: len(data) * part // 20])
        scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=2))
        check(scan)
        scan.close()


@pytest.mark.long
@pytest.mark.parametrize("number", range(5))
def test_any_damage_gives_frames_or_a_reason(tmp_path, clips, number):
    before = psutil.Process().memory_info().rss
    for seed in range(12):
        path = damaged(clips[number], tmp_path / f"bad{clips[number].suffix}", seed)
        scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=2))
        check(scan)
        good = np.flatnonzero(scan.frames["ok"])
        if len(good):
            picks = [int(good[0]), int(good[-1])]
            with suppress(FramesLost):
                write_frames(scan, picks, lambda index: tmp_path / f"{index}.png")
        scan.close()
    assert psutil.Process().memory_info().rss - before < 300 << 20


@pytest.mark.parametrize("clip", shared_clips(), ids=lambda path: path.name)
def test_no_frame_of_a_real_clip_is_called_corrupt(tmp_path, clip):
    scan = scan_video(clip, scratch=tmp_path, settings=EXACT)
    assert scan.frames["ok"].all()
    assert scan.problems == []
    assert scan.declared_frames in (None, len(scan.frames))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("clip", shared_clips(), ids=lambda path: path.name)
def test_real_clips_truncated_and_damaged_give_frames_or_a_reason(tmp_path, clip):
    data = clip.read_bytes()
    for part in range(20):
        path = tmp_path / f"cut{clip.suffix}"
        path.write_bytes(data[: len(data) * part // 20])
        scan = scan_video(path, scratch=tmp_path, settings=EXACT)
        check(scan)
        scan.close()
    for seed in range(20):
        scan = scan_video(damaged(clip, tmp_path / f"bad{clip.suffix}", seed), scratch=tmp_path, settings=EXACT)
        check(scan)
        scan.close()


def test_the_corrupt_examples_of_real_life_have_reasons(tmp_path):
    folder = Path(os.environ.get("LIGHTLY_TEST_VIDEOS", "")) / "corrupt"
    if not folder.is_dir():
        pytest.skip("LIGHTLY_TEST_VIDEOS has no folder 'corrupt'")
    for path in sorted(folder.iterdir()):
        scan = scan_video(Path(shutil.copy(path, tmp_path)), scratch=tmp_path, settings=EXACT)
        check(scan)
        assert scan.problems, path.name
