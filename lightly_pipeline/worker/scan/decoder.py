"""libav's decoder of one file, set to tell of every damage and to give damaged pictures too."""

from __future__ import annotations

import threading
from pathlib import Path

import av

from lightly_pipeline.worker.scan.packets import Packet, open_container, video_stream

_OPENING = threading.Lock()
_CAREFUL = "crccheck+bitstream+buffer+careful+compliant+aggressive"
# Decoders that otherwise keep a damaged slice, or a hash that does not fit, to themselves. They give the picture all
# the same, where h264's would withhold it and tells by flags.
_EXPLODES = ("hevc",)


class Decoder:
    """One decoder, as the file describes it, primed with the first packet of the file.

    Priming: some decoders learn from the first packet what later ones need (libavcodec reads x264's version
    there and decodes 4:4:4 of old versions differently).
    """

    def __init__(self, path: Path, prime: Packet | None, threads: int = 1) -> None:
        # One after another and closed at once: the index of an mp4 takes 90 bytes a frame, 50 MB for six hours.
        with _OPENING, open_container(path) as container:
            stream = video_stream(container)
            if stream is None:
                raise OSError(f"{path.name} has no video stream any more")
            self.context = stream.codec_context
        self.context.thread_count = threads
        self.context.thread_type = "FRAME" if threads > 1 else "NONE"
        self.context.options = {"err_detect": _CAREFUL + ("+explode" if self.context.name in _EXPLODES else "")}
        self.context.flags |= av.codec.context.Flags.output_corrupt
        self._prime = prime
        self._used = False

    def restart(self) -> None:
        """Forget everything decoded so far."""
        if self._used:
            self.context.flush_buffers()
        elif self._prime is not None:
            try:
                self.context.decode(self._prime)
                self.context.decode(None)
            except (av.FFmpegError, EOFError):
                pass  # the chunk that holds this packet reports it
            self.context.flush_buffers()
        self._used = True

    def close(self) -> None:
        """Free the decoder."""
        del self.context
