"""Captions of a folder's images, one file beside each image: IMAGE.txt or IMAGE.caption."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol, Union

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.image_folder import CAPTION_SUFFIXES, IMAGE_SUFFIXES, listing, metadata_file, read_caption
from ppsd.types import BadRecord

EXTENSIONS = (".txt", ".caption")
OTHER_FILE = "another caption file"
SHARED_FILE = "shared caption file"

_LEFT_OVER = re.compile(r"\..+(?:\.txt|\.caption)\.[0-9a-f]{8}\.tmp", re.IGNORECASE)


@dataclass(frozen=True)
class ImageCaption:
    """An image, by its path relative to the folder, and its caption: None where there is none.

    fresh: an earlier run of the same work, which was cut, has made it.
    """

    name: str
    path: Path
    caption: Union[str, BadRecord, None]
    fresh: bool = False


Item = tuple[str, Union[ImageCaption, BadRecord]]
Items = Iterator[Item]


class CaptionStore(Protocol):
    """Where the captions of a folder's images are, and where new ones go."""

    def items(self) -> Items:
        """The images, sorted, each with its place; a BadRecord is what cannot have a caption."""

    def write(self, name: str, caption: str) -> None:
        """The caption of an image, in the place of one that is there."""

    def obstacle(self, name: str) -> Optional[BadRecord]:
        """Why a new caption in the place of one that is there would not be read; None where it would."""

    def extend(self, name: str, caption: str) -> None:
        """A longer form of the caption that is there."""

    def finish(self) -> None:
        """After the last caption."""


@dataclass(frozen=True)
class ImageFile:
    """An image below a folder, and the caption file that is read for it."""

    name: str
    path: Path
    sidecar: Optional[str]

    def caption(self) -> Union[str, BadRecord, None]:
        return None if self.sidecar is None else read_caption(str(self.path.with_name(self.sidecar)))


def image_files(folder: Path, recursive: bool) -> Iterator[tuple[Path, list[ImageFile]]]:
    """The images of a folder, and those of its subfolders after them; both sorted, hidden ones left out."""
    yield from _below(folder, folder, recursive, frozenset())


def _below(root: Path, folder: Path, recursive: bool, above: frozenset[str]) -> Iterator[tuple[Path, list[ImageFile]]]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder it lies in
        return
    files, folders = listing(folder)
    found = []
    for name in files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            sidecar = next((stem + end for end in CAPTION_SUFFIXES if stem + end in files), None)
            found.append(ImageFile((folder / name).relative_to(root).as_posix(), folder / name, sidecar))
    yield folder, found
    for name in folders if recursive else ():
        yield from _below(root, folder / name, recursive, above | {real})


class SidecarCaptions:
    """One caption file an image, written whole or not at all. For one process at a time.

    extension: of new files, one of EXTENSIONS. Raises ValueError for a folder whose captions are in metadata files.
    """

    def __init__(self, folder: PathLike, extension: str = ".txt", recursive: bool = False) -> None:
        self._extension = extension
        self._images = list(image_files(Path(folder), recursive))
        for each, _ in self._images:
            metadata = metadata_file(each)
            if metadata is not None:
                raise ValueError(f"{metadata}: the captions of this folder are in it; --output metadata adds to them")
            _remove_left_over(each)
        self._files = {image.name: image for _, images in self._images for image in images}

    def items(self) -> Items:
        for _, images in self._images:
            first: dict[str, str] = {}
            for image in images:
                named = first.setdefault(image.path.stem, image.path.name)
                if named != image.path.name:
                    yield str(image.path), BadRecord(SHARED_FILE, f"{named} has the same name but for the extension")
                else:
                    yield str(image.path), ImageCaption(image.name, image.path, image.caption())

    def write(self, name: str, caption: str) -> None:
        _write(self._files[name].path.with_suffix(self._extension), caption)

    def obstacle(self, name: str) -> Optional[BadRecord]:
        """A caption file of the other extension, which is read before the new one."""
        image = self._files[name]
        new = image.path.with_suffix(self._extension).name
        if image.sidecar is None or image.sidecar == new or self._extension == CAPTION_SUFFIXES[0]:
            return None
        return BadRecord(OTHER_FILE, f"{image.sidecar} is read before {new}")

    def extend(self, name: str, caption: str) -> None:
        image = self._files[name]
        _write(image.path.with_name(image.sidecar or image.path.stem + self._extension), caption)

    def finish(self) -> None:
        """Nothing is left to do."""


def _write(path: Path, caption: str) -> None:
    with atomic_write(path) as file:
        file.write(f"{caption}\n".encode())


def _remove_left_over(folder: Path) -> None:
    """Files that a process was writing when it was killed."""
    for path in folder.glob(".*.tmp"):
        if _LEFT_OVER.fullmatch(path.name):
            path.unlink()
