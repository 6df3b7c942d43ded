"""Which files of the input are candidates: Lightly's extensions, its videos-win rule, and the relevant filenames.

Sorted by name, since the order of the input decides ties in the selection: the same files in any order of listing
are the same input.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from lightly_pipeline.worker.errors import NothingToSelect, OptionError
from lightly_pipeline.worker.manifest import Manifest
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.targets import planned
from lightly_pipeline.worker.sources import InputFile, Source, as_text

log = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset({".mp4", ".mov", ".avi", ".mpg", ".hevc", ".m4v", ".webm", ".mpeg"})
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})

_MEDIA = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS

#: Room that a frame's name needs beyond its video's, within the 255 bytes of a file name.
_NAME_BYTES = 225

_TWIN = "Another file has the same name when bytes that are not UTF-8 are written as text: rename one of them."


@dataclass(frozen=True)
class Input:
    """What there is to select from: videos or images, never both; `unusable` are names with their reason."""

    kind: Literal["videos", "images"]
    files: tuple[InputFile, ...]
    unusable: tuple[tuple[str, str], ...]


def discover(source: Source, *, relevant_filenames_file: str, leave_out: str) -> Input:
    """All videos below INPUT, or all images where there is no video.

    Raises NothingToSelect when there is neither, OptionError when the relevant filenames cannot be read.
    """
    files = sorted(source.files(leave_out), key=lambda file: (file.name, file.location))
    pictures = [file for file in files if _extension(file) in _MEDIA]
    written = set(_earlier_output(files, source))
    media = [file for file in pictures if file.name not in written]
    own = len(pictures) - len(media)
    if own:
        log.info("Left aside %d pictures that earlier runs wrote below %s.", own, source.uri)
    if not media:
        raise NothingToSelect(
            f"{source.uri} holds no video and no image ({len(files) - own} other files): put videos there "
            f"({' '.join(sorted(VIDEO_EXTENSIONS))}) or check the path."
            + (f" To select from what an earlier run selected, give its {layout.SAMPLED} as INPUT." if own else "")
        )
    if relevant_filenames_file:
        media = _relevant(media, source, relevant_filenames_file)
    videos = [file for file in media if _extension(file) in VIDEO_EXTENSIONS]
    if videos and len(videos) < len(media):
        log.info("There are videos in the input: its %d images are left aside.", len(media) - len(videos))
    chosen = videos or media
    reasons = [
        (file, file.problem or _unusable_name(file.name) or (_TWIN if before and before.name == file.name else None))
        for before, file in zip([None, *chosen], chosen, strict=False)
    ]
    return Input(
        "videos" if videos else "images",
        tuple(file for file, reason in reasons if not reason),
        tuple((file.name, reason) for file, reason in reasons if reason),
    )


def _earlier_output(files: list[InputFile], source: Source) -> Iterator[str]:
    """The names that runs of this worker wrote below INPUT: by their manifests, and by the plans of killed ones."""
    names = {file.name for file in files}
    for file in files:
        folder, slash, name = file.name.rpartition("/")
        # A manifest.json may be anybody's: it is read where there is a report beside it.
        if name != layout.PLAN and not (name == layout.MANIFEST and folder + slash + layout.REPORT_HTML in names):
            continue
        with suppress(OptionError):
            content = source.read(file.name)
            if name == layout.PLAN:
                written = planned(content)
            else:
                manifest = Manifest.from_json(content)
                written = {entry.path for entry in manifest.files} if manifest else set()
            yield from (folder + slash + path for path in written)


def _relevant(media: list[InputFile], source: Source, listing: str) -> list[InputFile]:
    """The files that the list names: by their names, by folders, or by gitignore patterns; the last line wins.

    A line that is the name of a file stands for that file, whatever it would mean as a pattern. Lines that name
    nothing are told: they are more often mistakes than not.
    """
    import pathspec

    if PurePosixPath(listing).is_absolute() or ".." in PurePosixPath(listing).parts:
        raise OptionError(f"relevant_filenames_file={listing} leads out of INPUT: give a name below it.")
    names = {file.name for file in media}
    folders = {f"{parent}" for name in names for parent in PurePosixPath(name).parents}
    exact: dict[str, int] = {}
    patterns: dict[int, str] = {}
    useless: list[str] = []
    for number, raw in enumerate(_lines(source.read(listing))):
        line = raw.strip()
        if raw in names or line in names:
            exact[raw if raw in names else line] = number
        elif {".", ".."} & set(line.lstrip("!").split("/")) and not line.startswith("#"):
            raise OptionError(f"{listing}: the line {line!r} has a `./` or `../`: give names below INPUT.")
        elif line.rstrip("/") in folders:
            # A plain name stands for that folder alone, not for its namesakes in subfolders.
            patterns[number] = "/" + re.sub(r"([][*?!#\\])", r"\\\1", line)
        elif any(sign in line for sign in "*?[\\") or line.startswith(("!", "/", "#")):
            patterns[number] = line
        elif line:
            useless.append(line)
    matching, numbers = pathspec.GitIgnoreSpec.from_lines(patterns.values()), list(patterns)
    chosen = []
    for file in media:
        check = matching.check_file(file.name)
        last = -1 if check.index is None else numbers[check.index]
        if check.include if last > exact.get(file.name, -1) else file.name in exact:
            chosen.append(file)
    for line, pattern in zip(patterns.values(), matching.patterns, strict=True):
        if pattern.include is not None and not any(pattern.match_file(name) for name in names):
            useless.append(line)
    if not chosen:
        raise NothingToSelect(
            f"None of the {len(media)} videos and images in {source.uri} is named by {listing} "
            f"({len(exact) + len(patterns) + len(useless)} lines): its lines are names relative to INPUT or gitignore "
            f"patterns."
        )
    if useless:
        log.warning(
            "%d lines of %s name no video and no image in %s: %s%s.",
            len(useless),
            listing,
            source.uri,
            ", ".join(repr(line) for line in useless[:5]),
            ", …" if len(useless) > 5 else "",
        )
    return chosen


def _lines(content: bytes) -> list[str]:
    """The lines as names of files are written; names may hold what Python takes for a line's end."""
    return [line.removesuffix("\r") for line in as_text(content).removeprefix("\ufeff").split("\n")]


def _extension(file: InputFile) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _unusable_name(name: str) -> str | None:
    """Why frames of a file of this name could not be written below OUTPUT; None where they can."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        return "The name is not a plain relative path, so that its frames have no safe place below OUTPUT."
    if any(sign < " " for sign in name):
        return "The name holds a line break or another control character, which lists of names cannot hold."
    if any(len(part.encode()) > _NAME_BYTES for part in parts):
        return f"The name has more than {_NAME_BYTES} bytes, so that its frames' names would be too long."
    return None
