"""A stand-in for Pexels: its API and its file host over HTTP, with playable video and the real quirks."""

from lightly_pipeline.sandbox.pexels.faults import Fault, Faults
from lightly_pipeline.sandbox.pexels.library import Library, NoVideos, Offer, Rendition
from lightly_pipeline.sandbox.pexels.server import PexelsStandIn, PortTaken, SeenRequest

__all__ = [
    "Fault",
    "Faults",
    "Library",
    "NoVideos",
    "Offer",
    "PexelsStandIn",
    "PortTaken",
    "Rendition",
    "SeenRequest",
]
