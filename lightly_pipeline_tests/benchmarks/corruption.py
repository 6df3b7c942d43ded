"""Damage whose place is known, injected into clean clips: how much of it the worker finds, and what it calls wrongly.

    python -m lightly_pipeline_tests.benchmarks.corruption [--copies 4]

Footage that the sandbox renders is encoded with each codec; each copy of it gets one injury: bits of one packet
flipped, one packet dropped, the file cut off, or in one frame the gray that a decoder puts where it has no picture,
as a transcoder would keep it. What the worker decodes from the copy is compared, frame by frame, with what it decodes
from the clean file:

- found: copies that are reported at all, of those that lost or changed a frame;
- called: frames called corrupt, of those that differ from the clean ones; and of those that differ clearly, by more
  than a step of 0.1 in the descriptor;
- wrongly: frames called corrupt though they are as in the clean file, in damaged copies (which a worker may, out of
  caution) and in the clean files (which it must not).

It ends with 1 when a copy is not found, or a frame of a clean file is called corrupt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from lightly_pipeline.sandbox.footage import footage
from lightly_pipeline.worker.scan import ScanSettings, scan_video

#: {name: (libav's encoder, suffix, options)}.
CODECS = {
    "h264": ("libx264", ".mp4", {"preset": "veryfast", "g": "48"}),
    "hevc": ("libx265", ".mp4", {"preset": "ultrafast", "x265-params": "log-level=error:keyint=48"}),
    "vp9": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": "48", "crf": "36", "b": "0"}),
    "av1": ("libsvtav1", ".mp4", {"preset": "12", "g": "48", "crf": "40", "svtav1-params": "lp=2"}),
    "vp8": ("libvpx", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": "48", "crf": "20", "b": "1000000"}),
    "mpeg4": ("mpeg4", ".mp4", {"g": "48", "b": "1500000"}),
}
CLIPS = ("drift", "travel", "portrait", "quick-cuts")
CLEAR = 0.1
_GRAY = 128


def clips(folder) -> list[Path]:
    """The small files of the footage that is damaged here, rendered into a folder where they are missing."""
    return [clip.files[-1] for clip in footage(Path(folder), *CLIPS)]


def encode(source: Path, target: Path, codec: str, gray: dict[int, float] | None = None) -> Path:
    """The clip in another codec; gray: {frame: share of its rows, from the lower edge} painted over before."""
    name, _, options = CODECS[codec]
    muxer = {"movflags": "+faststart"} if target.suffix == ".mp4" else {}
    with av.open(str(source)) as given, av.open(str(target), "w", options=muxer) as container:
        old = given.streams.video[0]
        stream = container.add_stream(name, rate=old.average_rate, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = old.width, old.height, "yuv420p"
        for number, frame in enumerate(given.decode(old)):
            planes = frame.to_ndarray(format="yuv420p")
            for share in [gray[number]] if gray and number in gray else []:
                _paint(planes, frame.width, frame.height, share)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = number, 1 / old.average_rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target


def _paint(planes, width: int, height: int, share: float) -> None:
    """Gray from a row of macroblocks down to the lower edge, in planar 4:2:0 [height * 3 / 2, width]."""
    first = int(height * (1 - share)) // 16 * 16
    planes[first:height] = _GRAY
    for plane in range(2):
        size = height // 2 * (width // 2)
        flat = planes[height:].reshape(-1)[plane * size : (plane + 1) * size]
        flat.reshape(height // 2, width // 2)[first // 2 :] = _GRAY


def packets_of(path: Path) -> list[bytes]:
    """What each packet of the video holds."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def flip(clean: Path, target: Path, chance: np.random.Generator) -> None:
    """Flip a bit in each of four bytes of one packet."""
    packets = packets_of(clean)
    packet = packets[int(chance.integers(1, len(packets)))]
    content = bytearray(clean.read_bytes())
    begin = content.index(packet)
    for place in chance.integers(0, len(packet), 4):
        content[begin + int(place)] ^= 1 << int(chance.integers(8))
    target.write_bytes(content)


def drop(clean: Path, target: Path, chance: np.random.Generator) -> None:
    """Leave out one packet, but not the first."""
    with av.open(str(clean)) as given, av.open(str(target), "w") as container:
        old = given.streams.video[0]
        stream = container.add_stream_from_template(old, opaque=True)
        packets = [packet for packet in given.demux(old) if packet.size]
        del packets[int(chance.integers(1, len(packets)))]
        for packet in packets:
            packet.stream = stream
            container.mux(packet)


def truncate(clean: Path, target: Path, chance: np.random.Generator) -> None:
    """Cut off the file after 40 to 95 % of its bytes."""
    content = clean.read_bytes()
    target.write_bytes(content[: int(len(content) * chance.uniform(0.4, 0.95))])


INJURIES = {"bits flipped": flip, "packet dropped": drop, "cut off": truncate}


@dataclass
class Tally:
    """What was found in the copies of one codec and injury."""

    copies: int = 0
    harmed: int = 0
    found: int = 0
    differ: int = 0
    called: int = 0
    clear: int = 0
    clear_called: int = 0
    same: int = 0
    wrongly: int = 0

    def line(self) -> str:
        return (
            f"{self.found:4} of {self.harmed:3} ({self.copies:3}) {_share(self.called, self.differ)} "
            f"{_share(self.clear_called, self.clear)} {_share(self.wrongly, self.same)}"
        )


def _share(part: int, whole: int) -> str:
    return f"{f'{part / whole:.3f}' if whole else '-':>6} {f'of {whole}':9}"


def watch(path: Path, scratch: Path):
    """The worker's scan of a file, of which no frame is kept."""
    scan = scan_video(path, scratch=scratch, settings=ScanSettings(expected_share=0))
    embeddings = np.array(scan.embeddings)
    scan.close()
    return scan.frames, embeddings, scan.problems


def compare(tally: Tally, clean, damaged) -> None:
    """Count one copy; frames are the same when they are shown at the same time."""
    frames, embeddings, _ = clean
    shown, described, problems = damaged
    place = {int(pts): index for index, pts in enumerate(frames["pts"])}
    pairs = [(place[int(pts)], index) for index, pts in enumerate(shown["pts"]) if int(pts) in place]
    differs = np.array([frames["pixel_hash"][a] != shown["pixel_hash"][b] for a, b in pairs], dtype=bool)
    far = np.array([np.linalg.norm(embeddings[a] - described[b]) > CLEAR for a, b in pairs], dtype=bool)
    count(tally, differs, differs & far, ~shown["ok"][[b for _, b in pairs]], len(frames) - len(pairs), problems)


def count(tally: Tally, differs, clear, called, lost: int, problems) -> None:
    """Add one copy to the tally."""
    tally.copies += 1
    if differs.any() or lost:
        tally.harmed += 1
        tally.found += bool(problems)
    for name, which in (("differ", differs), ("clear", clear), ("same", ~differs)):
        setattr(tally, name, getattr(tally, name) + int(which.sum()))
    for name, which in (("called", differs), ("clear_called", clear), ("wrongly", ~differs)):
        setattr(tally, name, getattr(tally, name) + int((which & called).sum()))


def measure(sources: list[Path], copies: int) -> list[str]:
    """Print the table; returns the sentences about what was missed."""
    print(f"\ninjected corruption: {copies} copies of each of {len(sources)} clips, one injury each")
    heads = ("called of differing", "of clearly different", "wrongly, of the same")
    print(f"{'':7}{'':15}{'found (copies)':>17} {heads[0]:>16} {heads[1]:>17} {heads[2]:>17}")
    missed = []
    for codec, (_, suffix, _) in CODECS.items():
        tallies = {name: Tally() for name in (*INJURIES, "gray rows")}
        clean_called = clean_frames = 0
        with tempfile.TemporaryDirectory(prefix="bench-corrupt-") as folder:
            scratch = Path(folder)
            for number, source in enumerate(sources):
                chance = np.random.default_rng((number, 7))
                clean = encode(source, scratch / f"clean{suffix}", codec)
                truth = watch(clean, scratch)
                clean_called += int((~truth[0]["ok"]).sum()) + len(truth[2])
                clean_frames += len(truth[0])
                target = scratch / f"damaged{suffix}"
                for _ in range(copies):
                    for name, injure in INJURIES.items():
                        injure(clean, target, chance)
                        compare(tallies[name], truth, watch(target, scratch))
                    place, share = int(chance.integers(len(truth[0]))), float(chance.uniform(0.2, 0.9))
                    shown, _, problems = watch(encode(source, target, codec, {place: share}), scratch)
                    painted = np.arange(len(shown)) == place
                    count(tallies["gray rows"], painted, painted, ~shown["ok"], 0, problems)
        for name, tally in tallies.items():
            print(f"{codec:7}{name:15}{tally.line()}", flush=True)
            if tally.found < tally.harmed:
                missed.append(f"{codec}, {name}: {tally.harmed - tally.found} of {tally.harmed} injuries are not found")
        print(f"{codec:7}{'clean':15}{clean_called} of {clean_frames} frames called corrupt")
        if clean_called:
            missed.append(f"{codec}: {clean_called} clean frames or files are called corrupt")
    return missed


def main(arguments=None) -> int:
    """Print the table; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-footage-") as folder:
        missed = measure(clips(folder), given.copies)
    for sentence in missed:
        print("missed:", sentence)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
