"""Pictures, masks and depth maps to draw with, read from the files that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from ppsd.data.condition_pictures import Settings, condition_crop
from ppsd.data.decode import MAX_IMAGE_PIXELS
from ppsd.data.resample import Size
from ppsd.data.transforms import Crop, choose_crop
from ppsd.types import BadRecord

_SETTINGS = Settings("lanczos", MAX_IMAGE_PIXELS)


def read_condition(name: str, path: str, size: Size, flag: str, image_size: Optional[Size] = None) -> np.ndarray:
    """Of `size` (width, height), as training has them: conditioning uint8 [H,W,3] (as any picture), mask uint8 [H,W] of
    0 and 255, depth float32 [H,W] in 0..1.

    What is shown is the centre, as large as it goes. image_size: of the picture that it belongs to, whose shape it must
    have. Raises ValueError naming the flag and the file.
    """
    crop = choose_crop(image_size or size_of_file(path, flag), 0, min(size), center_crop=True, bucket=size)
    assert isinstance(crop, Crop), crop
    made = condition_crop(name, Path(path), crop, _SETTINGS)
    if isinstance(made, BadRecord):
        raise ValueError(f"{flag}: {path}: {made.reason}" + (f" ({made.detail})" if made.detail else ""))
    return np.ascontiguousarray(made.transpose(1, 2, 0)) if name == "conditioning" else made[0]


def size_of_file(path: str, flag: str) -> Size:
    """Width and height. Raises ValueError naming the flag and the file."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no image that can be read"
        raise ValueError(f"{flag}: cannot read {path}: {reason}") from error
