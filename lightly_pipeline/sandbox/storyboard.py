"""The footage's scripts: which shots a clip has, how each is filmed, what is frozen or shown again.

A new clip is one more entry here; how a script becomes a file and a ground truth is in `footage.py`.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from lightly_pipeline.sandbox.scenery import Motion


class Take(NamedTuple):
    """A shot as it is filmed.

    It moves for `frames` frames, is then frozen for `frozen` and then frozen under grain for `grain`; or it
    repeats the take of that number.
    """

    motion: Motion = "pan"
    frames: int = 0
    frozen: int = 0
    grain: int = 0
    repeat_of: int | None = None


@dataclass(frozen=True)
class Script:
    """A clip to be rendered; `id` is the video id under which the stand-in offers it."""

    id: int
    name: str
    title: str
    creator: str
    width: int
    height: int
    fps: Fraction
    takes: tuple[Take, ...]


_FILM = Fraction(24)
_PAL = Fraction(25)
_NTSC = Fraction(30000, 1001)

_QUICK_CUTS: tuple[Motion, ...] = ("pan", "objects", "swirl", "rush", "fade", "pan", "objects", "rush")

# 857195 is the video that the README names.
SCRIPTS = (
    Script(
        857195,
        "drift",
        "A slow camera that comes to rest",
        "Ada Sandbox",
        854,
        480,
        _PAL,
        (Take("pan", 45), Take("objects", 35, frozen=20), Take("swirl", 35)),
    ),
    Script(
        1093662,
        "travel",
        "A fast camera",
        "Grace Sandbox",
        854,
        480,
        _FILM,
        (Take("rush", 30), Take("pan", 30), Take("objects", 30), Take("rush", 24)),
    ),
    Script(
        1409899,
        "grain",
        "A still scene under film grain",
        "Ada Sandbox",
        854,
        480,
        _NTSC,
        (Take("objects", 50, grain=30), Take("swirl", 45)),
    ),
    Script(
        2169880,
        "return",
        "A shot that comes back",
        "Edsger Sandbox",
        640,
        480,
        _FILM,
        (Take("pan", 36), Take("objects", 36), Take(repeat_of=0), Take("swirl", 24)),
    ),
    Script(
        2499611,
        "surveillance",
        "A surveillance camera where little happens",
        "Grace Sandbox",
        768,
        432,
        _PAL,
        (Take("objects", 25, frozen=50), Take("objects", 25, frozen=25, grain=15)),
    ),
    Script(
        3129671,
        "portrait",
        "A scene in portrait format",
        "Edsger Sandbox",
        480,
        854,
        _FILM,
        (Take("pan", 40), Take("rush", 24), Take("fade", 40)),
    ),
    Script(
        4763824,
        "quick-cuts",
        "A trailer of quick cuts",
        "Ada Sandbox",
        854,
        480,
        _PAL,
        tuple(Take(motion, 13) for motion in ("pan", "objects", "swirl", "rush", "fade", "pan", "objects", "rush")),
    ),
    Script(
        6981411,
        "slide-show",
        "A slide show of still pictures",
        "Grace Sandbox",
        854,
        480,
        _FILM,
        (
            Take(frozen=24),
            Take(frozen=24),
            Take("fade", 24, frozen=12),
            Take(repeat_of=0),
            Take(frozen=18),
        ),
    ),
)
