"""An image on disk with its caption, and how one is made from a row of metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ppsd.formats.extras import split_row
from ppsd.types import BadRecord

NO_IMAGE_PATH = "no image path"
MISSING_IMAGE = "missing image"
OUTSIDE = "image outside of the data set"
IMAGE_COLUMNS = ("conditioning_image", "mask", "depth")
"""The usual names of images that belong to an image."""


@dataclass(frozen=True)
class FolderItem:
    """An image file that is there, not opened yet, and its captions: None where there is none.

    meta holds the other columns of a row, those of further images as the Path of a file that is there. An item in a
    folder `10_a dog` has 10 repeats and the class token "a dog".
    """

    image: Path
    caption: Optional[str]
    meta: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    class_token: Optional[str] = None
    more_captions: tuple[str, ...] = ()


def item_from_row(
    row: Mapping[str, Any],
    folder: Path,
    image_key: str,
    caption_key: str,
    more_images: Sequence[str] = (),
    root: Optional[Path] = None,
) -> FolderItem | BadRecord:
    """The item that a row of metadata describes; paths in it are relative to `folder`.

    more_images: columns of further images that are needed. A path in one of them, or in IMAGE_COLUMNS, must be in the
    folder `root` (None: in `folder`); where it is not needed, one that is not is left out.
    """
    captions = split_row(row, caption_key)
    if isinstance(captions, BadRecord):
        return captions
    if image_key == "image" and image_key not in row and "file_name" in row:
        image_key = "file_name"  # what Hugging Face's imagefolder calls the column `image` once it is loaded
    caption, more_captions, meta = captions
    paths = {}
    further = dict.fromkeys((*IMAGE_COLUMNS, *more_images))
    for key in (image_key, *(key for key in further if row.get(key) and key != image_key)):
        path = _image_path(row, key, folder)
        if isinstance(path, BadRecord):
            return path
        refused = outside(path, root or folder) if key != image_key else None
        if refused is None:
            paths[key] = path
        elif key in more_images:
            return refused
        else:
            del meta[key]
    image = paths.pop(image_key)
    meta.pop(image_key, None)
    return FolderItem(image, caption, {**meta, **paths}, more_captions=more_captions)


def _image_path(row: Mapping[str, Any], key: str, folder: Path) -> Path | BadRecord:
    name = row.get(key)
    if not isinstance(name, str) or not name:
        return BadRecord(NO_IMAGE_PATH, f"no path under {key!r}; keys are {', '.join(row) or 'none'}")
    for path in (folder / name, folder / name.replace("\\", "/")):  # rows that were written on Windows
        if os.path.isfile(path):
            return path
    return BadRecord(MISSING_IMAGE, str(folder / name))


def outside(path: Path, root: Path) -> BadRecord | None:
    """None for a path in the folder `root`, links resolved.

    Rows come from anywhere; what they name beside the image must not get other files of this machine into training.
    """
    real, folder = os.path.realpath(path), os.path.realpath(root)
    if real == folder or real.startswith(folder.rstrip(os.sep) + os.sep):
        return None
    return BadRecord(OUTSIDE, f"{path} is {real}, which is not in {root}: conditions, masks and depth maps must be")
