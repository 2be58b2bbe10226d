"""The conditions of a sample, from the columns of its record or made where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Union

import numpy as np

from ppsd.data.annotators import annotator_of
from ppsd.data.annotators.grey import luminance
from ppsd.data.condition_pictures import Settings, condition_crop
from ppsd.data.conditions import NOUNS, columns_of, flag_of, is_named
from ppsd.data.config import StreamConfig
from ppsd.data.masks import kinds_of, random_mask
from ppsd.data.transforms import Crop
from ppsd.types import BadRecord


class ConditionMaker:
    """What `config` wants beside the picture, by name; false where it wants nothing.

    Raises ValueError naming the flag where an annotator's network cannot be loaded.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._config, self._columns = config, columns_of(config)
        self._settings = Settings(config.interpolation, config.max_image_pixels, config.scaled_jpeg)
        self._kinds = kinds_of(config.mask_kinds)
        self._annotate = None if config.annotator is None else annotator_of(config.annotator, config.annotator_model)

    def __bool__(self) -> bool:
        return bool(self._columns)

    def __call__(
        self, meta: Mapping[str, Any], crop: Crop, seed: int, pixels: Optional[np.ndarray]
    ) -> Union[dict[str, np.ndarray], BadRecord]:
        """The arrays of ppsd.data.conditions for a crop; what is wrong with a record is so for each of its crops.

        pixels: uint8 [3,H,W] of the crop, before any change of colour; None where there are latents in their place.
        Raises ValueError where pixels are needed.
        """
        made = {}
        for name, column in self._columns.items():
            value = meta.get(column)
            if value is None or (isinstance(value, str) and not value):
                found = self._made(name, crop, seed, pixels)
            else:
                found = condition_crop(name, value, crop, self._settings)
            if isinstance(found, BadRecord):
                return found
            made[name] = found
        return made

    def _made(self, name: str, crop: Crop, seed: int, pixels: Optional[np.ndarray]) -> Union[np.ndarray, BadRecord]:
        named = is_named(self._config, name)
        if name == "mask" and self._kinds and not named:
            return random_mask(*crop.size, seed, self._kinds, self._config.mask_coverage)
        if name != "mask" and self._annotate is not None:
            if pixels is None:
                raise ValueError(f"--annotator {self._config.annotator} needs pixels: it cannot act on cached latents")
            return _as_condition(name, self._annotate(pixels, seed))
        hint = "" if named else f"; --{flag_of(name)} names another"
        return BadRecord(f"no {NOUNS[name]}", f"nothing under {self._columns[name]!r}{hint}")


def _as_condition(name: str, picture: np.ndarray) -> np.ndarray:
    """uint8 [3,H,W] or float32 [1,H,W] in 0..1 -> what the condition is made of."""
    if name == "depth":
        if picture.dtype != np.uint8:
            return picture
        return luminance(picture)[None] / np.float32(255)
    if picture.dtype == np.uint8:
        return picture
    return np.repeat(np.rint(picture * 255).astype(np.uint8), 3, axis=0)
