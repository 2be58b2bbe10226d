"""Reading a part of any format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ppsd.formats.atomic import PathLike
from ppsd.formats.laion import read_part
from ppsd.types import BadRecord, LatentRecord, Record


def read_any(
    path: PathLike,
    start: int = 0,
    *,
    data_format: str = "auto",
    every: int = 1,
    offset: int = 0,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
) -> Iterator[tuple[int, Record | LatentRecord | BadRecord]]:
    """The records of a part with their numbers from 1, as `ppsd.formats.laion.read_part` gives them."""
    return read_part(path, start, data_format, every, offset)
