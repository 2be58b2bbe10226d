"""Picture files as what is drawn after. They are cut as training with a bucket of that size would cut them: scaled to
cover it, and of what is too much on two sides the centre stays."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, TypeVar, Union

import numpy as np

from ppsd.data.condition_maker import ConditionMaker
from ppsd.data.condition_pictures import Settings, condition_crop
from ppsd.data.conditions import NOUNS
from ppsd.data.config import StreamConfig
from ppsd.data.decode import MAX_IMAGE_PIXELS, decode_shrunk, upright_size
from ppsd.data.resample import Size
from ppsd.data.transforms import Crop, choose_crop, cut
from ppsd.formats.image_bytes import read_image_file
from ppsd.types import BadRecord

T = TypeVar("T")

_INTERPOLATION = StreamConfig.interpolation
_SETTINGS = Settings(_INTERPOLATION, MAX_IMAGE_PIXELS)


class Annotator:
    """Makes conditions of photographs, as --annotator and --annotator_model say. Raises ValueError naming them."""

    def __init__(self, name: str, model: Optional[str], condition: str) -> None:
        self.condition = condition
        self._make = ConditionMaker(StreamConfig(conditions=(condition,), annotator=name, annotator_model=model))

    def __call__(self, picture: np.ndarray, seed: int) -> np.ndarray:
        """uint8 [H,W,3] -> conditioning uint8 [H,W,3] or depth float32 [H,W]."""
        pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))
        size = picture.shape[1], picture.shape[0]
        made = self._make({}, Crop((0, 0, *size), size, size), seed, pixels)
        assert not isinstance(made, BadRecord), made
        return _channels_last(made[self.condition])


def read_picture(file: Path, size: Size, flag: str) -> np.ndarray:
    """uint8 [H,W,3] of `size` (width, height); transparency is on white. Raises ValueError naming the flag and file."""
    decoded = _good(decode_shrunk(_good(read_image_file(file), file, flag)), file, flag)
    return _channels_last(cut(decoded.array, _crop((decoded.width, decoded.height), size), _INTERPOLATION))


def read_condition(
    condition: str, file: Path, size: Size, flag: str, beside: Optional[tuple[Path, str]] = None
) -> np.ndarray:
    """As training has them: conditioning uint8 [H,W,3], mask uint8 [H,W] of 0 and 255, depth float32 [H,W] in 0..1.

    beside: the picture that it belongs to, and its flag: it must have the same shape. Raises ValueError as
    `read_picture`, and for a mask that leaves nothing to paint; one that leaves nothing else is a mask here.
    """
    crop = _crop(_size_of(*(beside or (file, flag))), size)
    made = condition_crop(condition, file, crop, _SETTINGS)
    if isinstance(made, BadRecord) and made.reason == f"{NOUNS['mask']}: full":
        return np.full((size[1], size[0]), 255, np.uint8)
    return _channels_last(_good(made, file, flag))


def _crop(image_size: Size, size: Size) -> Crop:
    crop = choose_crop(image_size, 0, min(size), center_crop=True, bucket=size)
    assert isinstance(crop, Crop), crop
    return crop


def _size_of(file: Path, flag: str) -> Size:
    """Width and height of the upright picture."""
    return _good(upright_size(_good(read_image_file(file), file, flag)), file, flag)


def _good(value: Union[T, BadRecord], file: Path, flag: str) -> T:
    if isinstance(value, BadRecord):
        detail = value.detail.replace(f"{file}: ", "", 1)
        raise ValueError(f"{flag}: {file}: {value.reason}" + (f" ({detail})" if detail else ""))
    return value


def _channels_last(planes: np.ndarray) -> np.ndarray:
    """[3,H,W] -> [H,W,3]; [1,H,W] -> [H,W]."""
    return planes[0] if planes.shape[0] == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
