"""Which frames of a chunk are corrupt, by what its packets, the decoder and the pictures themselves say.

Damage spreads: what is predicted from a damaged picture is damaged, up to the next picture that resets the decoder.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.packets import Packet, is_referred_to
from lightly_pipeline.worker.scan.types import Problem


@dataclass
class Damage:
    """What the decoder complained about in one chunk, by presentation time.

    order: place of each packet in the order of decoding. disposable: times of pictures that no other needs.
    """

    packets: dict[int, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    order: dict[int, int] = field(default_factory=dict)
    disposable: set[int] = field(default_factory=set)

    def add(self, pts: int | None, reason: str) -> None:
        """Remember one complaint."""
        if pts is None:
            self.unplaced.append(reason)
        else:
            self.packets.setdefault(pts, reason)

    def see(self, packet: Packet, codec: str, extradata: bytes | None) -> None:
        """Remember where a packet stands, and whether it is incomplete."""
        if packet.pts is not None and not packet.is_discard:
            self.order[packet.pts] = len(self.order)
            if not is_referred_to(packet, codec, extradata):
                self.disposable.add(packet.pts)
        if packet.is_corrupt:
            self.add(packet.pts, "its packet is incomplete")

    def missing(self, frames: NDArray[np.void], time_base: float) -> list[Problem]:
        """Pictures that the decoder swallowed without a word, as it does after a lost reference."""
        shown = set(frames["pts"].tolist())
        missing = sorted(pts for pts in self.order if pts not in shown and pts not in self.packets)
        if not missing or -1 in shown:
            return []
        first, last = missing[0] * time_base, missing[-1] * time_base
        return [
            Problem(
                None,
                f"{len(missing)} pictures between {first:.3f} s and {last:.3f} s are missing: the decoder gives none "
                "for their packets, as it does when a picture that they are predicted from is lost.",
                "packet",
            )
        ]

    def judge(
        self,
        frames: NDArray[np.void],
        complaints: Sequence[str | None],
        grays: Sequence[float],
        group_starts: Sequence[int],
        corruption_threshold: float,
        time_base: float,
    ) -> list[Problem]:
        """Mark corrupt frames in `frames`: those complained about, and those that may be predicted from them.

        complaints, grays: for each frame what speaks against it, and its share of rows without picture. group_starts:
        first frame of each closed group. time_base: seconds of a unit of time. Nothing is predicted from a picture
        whose packet says so.
        """
        problems: list[Problem] = []
        said = list(complaints)
        times = frames["pts"].tolist()
        group_of = np.searchsorted(group_starts, np.arange(len(frames)), side="right") - 1
        first_damage: dict[int, int] = {}

        def taint(group: int, pts: int) -> None:
            if pts not in self.disposable:
                first_damage[group] = min(first_damage.get(group, 1 << 60), self.order.get(pts, -1))

        for pts, complaint in self.packets.items():
            place = bisect.bisect_left(times, pts)
            if place < len(times) and times[place] == pts:
                said[place] = said[place] or complaint
                continue
            problems.append(Problem(None, f"The picture at {pts * time_base:.3f} s is missing: {complaint}.", "packet"))
            if len(times):
                taint(int(group_of[max(place - 1, 0)]), pts)
        problems += [
            Problem(None, f"A packet without a time is damaged: {complaint}.", "packet") for complaint in self.unplaced
        ]
        kinds = ["frame"] * len(frames)
        # What every picture has is in front of the camera: damage would end with the next picture that resets the
        # decoder, or begin with one of which it complains.
        steady = len(grays) > 1 and min(grays) > corruption_threshold
        for index, share in enumerate(grays):
            if said[index] is None and share > corruption_threshold and not steady:
                kinds[index] = "uniform_rows"
                said[index] = (
                    f"{share:.0%} of its rows, up to the lower edge, are the plain gray that decoders put "
                    "where they have no picture"
                )
            if said[index] is not None:
                taint(int(group_of[index]), times[index])
        for index, pts in enumerate(times):
            reason = said[index]
            if reason is None and first_damage.get(int(group_of[index]), 1 << 60) < self.order.get(pts, index):
                reason, kinds[index] = "it is predicted from a damaged picture", "reference"
            if reason is not None:
                frames["ok"][index] = False
                problems.append(Problem(index, reason[0].upper() + reason[1:] + ".", kinds[index]))
        return problems
