"""Finished scans on disk: what lets a killed run continue with the next video, and keeps memory flat.

One folder per video, named by file and settings, in the scratch folder of the job; its last file appears by a
rename, so that after a kill a scan is there whole or not at all. A machine that loses its power may lose content and
keep the name: what lacks any is no scan. Embeddings come back mapped from their file: however many videos there are,
memory holds none of them. The folder is this user's own, which is why its pickles can be trusted.
"""

import hashlib
import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import ScannedFiles
from lightly_pipeline.worker.memory import StoredRows
from lightly_pipeline.worker.scan import EmbedderIdentity, ScanSettings, VideoScan
from lightly_pipeline.worker.sources import InputFile

_DONE = "scan.pickle"
_SCANNING = "scan-"
#: With the format of what is stored: a scan of another format is made anew.
_STORED = "done-7-"
#: Bytes that are hashed at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ScanStore:
    """The scans of one job, made with the same settings by the same embedder."""

    folder: Path
    settings: ScanSettings
    embedder: EmbedderIdentity

    def load(self, file: InputFile) -> ScannedFiles | None:
        """The scan of this very file by an earlier run, with its pictures; None where there is none."""
        stored = _read(self._home(file) / _DONE)
        if stored is None:
            return None
        digest, scan, embeddings = stored
        rows = scan.embeddings
        if not isinstance(rows, StoredRows) or _sha256(rows) != embeddings or not scan.pictures.is_whole():
            return None
        return ScannedFiles((file,), replace(scan, settings=self.settings), (digest,), images=False)

    def keep(self, file: InputFile, digest: str, scan: VideoScan) -> VideoScan:
        """Store a finished scan; the same one is returned, with its embeddings on disk."""
        home = self._home(file)
        home.mkdir(parents=True, exist_ok=True)
        rows = _stored(scan.embeddings, home / "embeddings.npy")
        stored = replace(scan, embeddings=rows)
        partial = home / "incomplete"
        with partial.open("wb") as content:
            hashed = _Hashed(content)
            # From protocol 5 on arrays are written without a copy.
            _Pickler(hashed, protocol=5).dump((digest, stored, _sha256(rows)))
            content.write(hashed.digest)
        partial.replace(home / _DONE)
        return stored

    def clear_unfinished(self) -> None:
        """Remove what a killed run left of the scans that it had not finished, and all scans that cannot be read."""
        used = set()
        for home in self.folder.glob("done-*"):
            stored = _read(home / _DONE) if home.name.startswith(_STORED) else None
            if stored is None:
                shutil.rmtree(home, ignore_errors=True)
            else:
                used.add(stored[1].scratch.resolve())
        for folder in self.folder.glob(f"{_SCANNING}*"):
            if folder.resolve() not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _home(self, file: InputFile) -> Path:
        # Any number of threads makes the same scan.
        settings = replace(self.settings, threads=0)
        text = f"{file.name}\n{file.bytes}\n{file.version}\n{settings}\n{self.embedder}"
        return self.folder / f"{_STORED}{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class _Hashed:
    """A file for pickle that knows the SHA-256 of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        """Write bytes, or what lends them."""
        self._hash.update(content)
        return self._file.write(content)

    @property
    def digest(self) -> bytes:
        """Of all so far."""
        return self._hash.digest()


def _read(path: Path) -> tuple[str, VideoScan, str] | None:
    """Digest of a file, its scan, and the digest of its embeddings; None where they are not there as they were written.

    Embeddings and pictures lie in files of their own, which are not looked at.
    """
    size = hashlib.sha256().digest_size
    try:
        with path.open("rb") as content:
            left = os.fstat(content.fileno()).st_size - size
            digest = hashlib.sha256()
            while left > 0:
                block = content.read(min(left, _BLOCK))
                digest.update(block)
                left -= len(block)
            if content.read() != digest.digest():
                return None
            content.seek(0)
            stored: tuple[str, VideoScan, str] = pickle.load(content)  # noqa: S301 - written here, in a private folder
            return stored
    except Exception:  # of another version of the code or of a library: what that raises is theirs to choose
        return None


def _sha256(rows: StoredRows) -> str:
    """SHA-256 in hex of rows in a file, and of nothing where they are not there."""
    digest, left = hashlib.sha256(), int(np.prod(rows.shape)) * np.dtype(np.float32).itemsize
    with suppress(FileNotFoundError), open(rows.file, "rb") as file:
        file.seek(rows.offset)
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


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


def _stored(array: NDArray[np.float32] | StoredRows, path: Path) -> StoredRows:
    """Where an array lies in a file, or to which it is written for that."""
    if isinstance(array, StoredRows):
        return array
    if isinstance(array, np.memmap) and array.filename is not None:
        array.flush()
        return StoredRows(str(array.filename), array.shape, int(array.offset))
    with path.open("wb") as file:
        # Not by `tofile`, whose error on a full disk does not say that the disk is full.
        file.write(np.ascontiguousarray(array, dtype=np.float32).data)
    return StoredRows(str(path), array.shape)
