"""Finished scans on disk: what lets a killed run continue with the next video, and keeps memory flat.

One folder per video, named by file and settings, in the scratch folder of the job; its last file appears by a
rename, so that a scan is there whole or not at all. Embeddings come back mapped from their file: however many videos
there are, memory holds none of them. The folder is this user's own, which is why its pickles can be trusted.
"""

import hashlib
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import ScannedFiles
from lightly_pipeline.worker.memory import mapped_rows
from lightly_pipeline.worker.scan import EmbedderIdentity, ScanSettings, VideoScan
from lightly_pipeline.worker.sources import InputFile

_DONE = "scan.pickle"
_SCANNING = "scan-"
#: With the format of what is stored: a scan of another format is made anew.
_STORED = "done-5-"


@dataclass(frozen=True)
class ScanStore:
    """The scans of one job, made with the same settings by the same embedder."""

    folder: Path
    settings: ScanSettings
    embedder: EmbedderIdentity

    def load(self, file: InputFile) -> ScannedFiles | None:
        """The scan of this very file by an earlier run, with its pictures; None where there is none."""
        path = self._home(file) / _DONE
        try:
            with path.open("rb") as content:
                digest, scan, embeddings = pickle.load(content)  # noqa: S301 - written below, in a private folder
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        if not scan.pictures.is_whole():
            return None
        return ScannedFiles((file,), replace(scan, embeddings=embeddings.open()), (digest,), images=False)

    def keep(self, file: InputFile, digest: str, scan: VideoScan) -> VideoScan:
        """Store a finished scan; the same one is returned, with its embeddings mapped from disk."""
        home = self._home(file)
        home.mkdir(parents=True, exist_ok=True)
        embeddings = _Mapped.of(scan.embeddings, home / "embeddings.npy")
        partial = home / "incomplete"
        without = replace(scan, embeddings=np.empty((0, 0), np.float32))
        with partial.open("wb") as content:
            # From protocol 5 on arrays are written without a copy.
            _Pickler(content, protocol=5).dump((digest, without, embeddings))
        partial.replace(home / _DONE)
        return replace(scan, embeddings=embeddings.open())

    def clear_unfinished(self) -> None:
        """Remove what a killed run left of the scans that it had not finished, and all scans of another format."""
        used = set()
        for home in self.folder.glob("done-*"):
            if not home.name.startswith(_STORED):
                shutil.rmtree(home, ignore_errors=True)
        for done in self.folder.glob(f"{_STORED}*/{_DONE}"):
            with done.open("rb") as content:
                used.add(Path(pickle.load(content)[1].scratch).resolve())  # noqa: S301 - as above
        for folder in self.folder.glob(f"{_SCANNING}*"):
            if folder.resolve() not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _home(self, file: InputFile) -> Path:
        text = f"{file.name}\n{file.bytes}\n{file.version}\n{self.settings}\n{self.embedder}"
        return self.folder / f"{_STORED}{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _packet(content: bytes, pts: int | None, dts: int | None, key: bool) -> "av.Packet[Any]":
    packet: av.Packet[Any] = av.Packet(content)
    packet.pts, packet.dts, packet.is_keyframe = pts, dts, key
    return packet


class _Pickler(pickle.Pickler):
    """Knows how to store a packet: the one with which a scan primes the decoders that find its frames again."""

    def reducer_override(self, value: Any) -> Any:
        """Packets by their content; everything else as always."""
        if isinstance(value, av.Packet):
            return _packet, (bytes(value), value.pts, value.dts, value.is_keyframe)
        return NotImplemented


@dataclass(frozen=True)
class _Mapped:
    """Where an array of float32 lies in a file."""

    file: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: NDArray[np.float32], path: Path) -> "_Mapped":
        """Of an array that is mapped already, or that is written to `path` for it."""
        if isinstance(array, np.memmap) and array.filename is not None:
            array.flush()
            return cls(str(array.filename), int(array.offset), array.shape)
        with path.open("wb") as file:
            # Not by `tofile`, whose error on a full disk does not say that the disk is full.
            file.write(np.ascontiguousarray(array, dtype=np.float32).data)
        return cls(str(path), 0, array.shape)

    def open(self) -> NDArray[np.float32]:
        """The array; an empty one cannot be mapped."""
        if not np.prod(self.shape):
            return np.empty(self.shape, dtype=np.float32)
        return mapped_rows(self.file, self.shape, self.offset)
