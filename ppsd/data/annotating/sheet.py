"""A contact sheet: pictures, and below each what an annotator has made of it, as training reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from ppsd.data.condition_pictures import Settings, condition_crop
from ppsd.data.decode import MAX_IMAGE_PIXELS, decode_shrunk
from ppsd.data.transforms import Crop, cut
from ppsd.formats.atomic import atomic_write
from ppsd.formats.parts import read_any
from ppsd.types import BadRecord, Record

SIDE, GAP, COLUMNS = 192, 8, 8
_WHITE = 255


class Pair(NamedTuple):
    """Both uint8 [3,h,w], on one grid."""

    picture: np.ndarray
    condition: np.ndarray


def pair_of(record: Record, column: str, side: int = SIDE) -> Optional[Pair]:
    """Whole, with a longer side of `side`; None where training could not read one of them."""
    decoded = decode_shrunk(record.image)
    if isinstance(decoded, BadRecord):
        return None
    whole = decoded.width, decoded.height
    width, height = (max(1, round(length * side / max(whole))) for length in whole)
    crop = Crop((0, 0, *whole), whole, (width, height))
    picture = cut(decoded.array, crop, "lanczos").copy()
    condition = condition_crop("conditioning", record.meta.get(column), crop, Settings("lanczos", MAX_IMAGE_PIXELS))
    return None if isinstance(condition, BadRecord) else Pair(picture, condition)


def records_of(
    parts: Sequence[Path], column: str, count: int, caption_column: Optional[str] = None, every: int = 1
) -> Iterator[Record]:
    """The first of each `every` records of parts or folders that are spread evenly over all, `count` at most."""
    chosen = [parts[number * len(parts) // min(count, len(parts))] for number in range(min(count, len(parts)))]
    each = -(-count // max(1, len(chosen)))
    found = (islice(_good(part, column, caption_column, every), each) for part in chosen)
    return islice((record for records in found for record in records), count)


def _good(part: Path, column: str, caption_column: Optional[str], every: int) -> Iterator[Record]:
    for _, record in read_any(part, caption_column=caption_column, more_images=(column,), every=every):
        if isinstance(record, Record):
            yield record


def sheet_of(pairs: Sequence[Pair], side: int = SIDE) -> np.ndarray:
    """uint8 [H,W,3]: rows of at most COLUMNS pictures, each row above a row of their conditions, on white."""
    columns = max(1, min(COLUMNS, len(pairs)))
    bands = -(-len(pairs) // columns)
    height, width = bands * (2 * (side + GAP) + GAP) + GAP, columns * (side + GAP) + GAP
    sheet = np.full((height, width, 3), _WHITE, np.uint8)
    for number, pair in enumerate(pairs):
        band, column = divmod(number, columns)
        top = GAP + band * (2 * (side + GAP) + GAP)
        for below, planes in enumerate(pair):
            high, wide = planes.shape[1:]
            y, x = top + below * (side + GAP) + (side - high) // 2, GAP + column * (side + GAP) + (side - wide) // 2
            sheet[y : y + high, x : x + wide] = planes.transpose(1, 2, 0)
    return sheet


def write_sheet(path: Path, records: Iterable[Record], column: str) -> int:
    """A PNG of the records' pairs; returns how many there are, and writes nothing where there are none."""
    pairs = [pair for record in records if (pair := pair_of(record, column)) is not None]
    if pairs:
        buffer = io.BytesIO()
        Image.fromarray(sheet_of(pairs)).save(buffer, "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(buffer.getvalue())
    return len(pairs)
