"""The image of a record -> the picture that is written beside it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image, PngImagePlugin

from ppsd.data.annotators import DRAWINGS, Annotate, Load, annotator_of, hand_in
from ppsd.data.annotators.points import read_points
from ppsd.data.decode import Pixels, decode_shrunk
from ppsd.data.resample import Size
from ppsd.data.seeds import derive_seed
from ppsd.data.transforms import Crop, cut
from ppsd.formats.items import outside
from ppsd.formats.stamp import part_stamp
from ppsd.types import BadRecord

NO_POINTS = "no points"
MARK = "ppsd.annotation"
"""The text in a PNG file that says of what it was made, and how."""


@dataclass(frozen=True)
class Settings:
    """What is made of each image. Pictures made with the same settings and of the same bytes are the same.

    annotator, model: see ppsd.data.annotators. load: how networks are loaded. resolution: the shorter side that larger
    images are made smaller to before; 0: none is. points_column: of the points that are drawn; points_suffix: they are
    in a file beside the image, whose name ends so instead of with the image's extension.
    """

    annotator: str
    model: Optional[str] = None
    resolution: int = 512
    seed: int = 0
    points_column: Optional[str] = None
    points_suffix: Optional[str] = None
    load: Optional[Load] = field(default=None, compare=False)

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all that changes what is made, the weights of the network included."""
        facts = {**asdict(self), "load": None, "stamp": self.model and part_stamp(self.model)}
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def drawn(self) -> bool:
        """Whether points are drawn, and pixels not looked at."""
        return self.annotator in DRAWINGS


@dataclass(frozen=True)
class Place:
    """Where an image file is, and the folder that what its row names must be in."""

    image: Path
    root: Path


def fingerprint(settings: Settings, image: bytes, points: Any = None) -> str:
    """A hash of all that a picture is a function of."""
    digest = hashlib.blake2b(image, digest_size=16)
    digest.update(f"{settings.digest} {_shown(points)}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _shown(points: Any) -> str:
    if isinstance(points, Path):
        return f"{points} {part_stamp(str(points))}"
    return repr(points.tolist() if isinstance(points, np.ndarray) else points)


def name_of_points(points: Any) -> str:
    """What tells pictures of one image apart that are drawn of different points; "" without points."""
    if points is None or isinstance(points, BadRecord):
        return ""
    text = str(points) if isinstance(points, Path) else _shown(points)
    return "." + hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def points_of(settings: Settings, meta: Mapping[str, Any], place: Optional[Place]) -> Any:
    """What read_points takes: a column's value, or the path of the file that is named or lies beside the image.

    A BadRecord where there is none, and where a row names a file outside of the data set; None without drawing.
    """
    if not settings.drawn:
        return None
    if settings.points_suffix is not None:
        if place is None:
            return BadRecord(NO_POINTS, "there are no files beside the images of a part")
        stem = os.path.splitext(place.image)[0]
        file = Path(stem + settings.points_suffix)
        return file if file.is_file() else BadRecord(NO_POINTS, f"there is no {file}")
    column = settings.points_column or ""
    value = meta.get(column)
    if value is None or value == "":
        return BadRecord(NO_POINTS, f"nothing under {column!r}")
    if place is None or not isinstance(value, str) or value.lstrip()[:1] in ("[", "{"):
        return value
    named = (place.image.parent / value, place.root / value)
    file = next((path for path in named if path.is_file()), named[0])
    return outside(file, place.root) or file


class PictureMaker:
    """PNG files of the pictures of images. Raises ValueError for an annotator that cannot be had."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if settings.load is not None:
            hand_in(settings.load)
        self._annotate: Optional[Annotate] = None
        if not settings.drawn:
            self._annotate = annotator_of(settings.annotator, settings.model)

    def __call__(self, image: bytes, points: Any = None, mark: str = "") -> Union[bytes, BadRecord]:
        """A PNG with the text `mark`, or what is wrong with the image or the points.

        It shows the whole image, upright; depths have 16 bits.
        """
        decoded = decode_shrunk(image)
        if isinstance(decoded, BadRecord):
            return decoded
        size = shown_size((decoded.width, decoded.height), self._settings.resolution)
        made = self._made(decoded, size, image, points)
        return made if isinstance(made, BadRecord) else png_of(made, mark)

    def _made(self, decoded: Pixels, size: Size, image: bytes, points: Any) -> Union[np.ndarray, BadRecord]:
        whole = decoded.width, decoded.height
        if self._annotate is None:
            name = self._settings.annotator
            found = points if isinstance(points, BadRecord) else read_points(name, points, whole)
            if isinstance(found, BadRecord):
                return found
            return DRAWINGS[name](found * (size[0] / whole[0], size[1] / whole[1]), size)
        pixels = cut(decoded.array, Crop((0, 0, *whole), whole, size), "lanczos")
        content = int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")
        return self._annotate(pixels, derive_seed(self._settings.seed, content))


@functools.cache
def maker_of(settings: Settings) -> PictureMaker:
    """One for each settings in a process: networks are loaded once."""
    return PictureMaker(settings)


def shown_size(size: Size, resolution: int) -> Size:
    """Width and height with a shorter side of at most `resolution`; 0: as they are. Never larger."""
    short = min(size)
    if not resolution or short <= resolution:
        return size
    width, height = (max(1, round(side * resolution / short)) for side in size)
    return width, height


def png_of(picture: np.ndarray, mark: str) -> bytes:
    """uint8 [3,H,W], or float [1,H,W] in 0..1 as 16 bits of grey; three equal channels are written as one."""
    if picture.dtype != np.uint8:
        image = Image.fromarray(np.rint(picture[0] * 65535).astype(np.uint16))
    elif (picture[0] == picture[1]).all() and (picture[0] == picture[2]).all():
        image = Image.fromarray(picture[0])
    else:
        image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, mark)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def mark_of(path: Path) -> Optional[str]:
    """The text that a PNG file was written with; None for what is not there or not such a file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(MARK)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for what is not a whole header of a PNG
        return None
