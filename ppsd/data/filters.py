"""Which records are used: `--filter "width >= 512 and pwatermark < 0.8"`.

Names of an expression (see ppsd.data.expressions): width and height in pixels as the image is shown, aspect_ratio
(width / height), pixels (width * height), caption, caption_length (characters), caption_words (separated by blanks),
num_bytes (of the image file), and every column of `record.meta` under its own name (similarity, AESTHETIC_SCORE, ...).
Of a record with several captions the first counts. A latent record is 8 pixels wide for each of its columns.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from ppsd.data.columns import NoValue, describe
from ppsd.data.decode import MAX_IMAGE_PIXELS, upright_size
from ppsd.data.expressions import NUMBER, TEXT, Term, parse_terms
from ppsd.types import BadRecord, LatentRecord, Record

PIXELS_PER_LATENT = 8
_LONGEST_REASON = 100

AnyRecord = Union[Record, LatentRecord]


class Filter:
    """Calling it with a record gives None, or a BadRecord that says which condition does not hold.

    Conditions joined by `and` are counted apart: the reason is "filter: " and the first that does not hold. A column
    that the record lacks, or that is not a number where one is needed, is "filter: no NAME", unless the expression
    asks for just that (`NAME == None or NAME > 1`). The image's header is read only for an expression that needs it.

    Raises ValueError for an expression that is wrong.
    """

    def __init__(self, expression: str, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        self._arguments = (expression, max_image_pixels)
        self._terms = parse_terms(expression, {name: kind for name, (kind, _) in _NAMES.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return Filter, self._arguments  # closures do not pickle

    def __repr__(self) -> str:
        return f"Filter{self._arguments!r}"

    def __call__(self, record: AnyRecord) -> Optional[BadRecord]:
        values = _Values(record, self._arguments[1])
        for term in self._terms:
            try:
                if not term.holds(values):
                    return BadRecord(_reason(term.text), values.describe(term))
            except NoValue as error:
                return BadRecord(f"filter: no {error.name}", error.detail)
            except ArithmeticError as error:
                return BadRecord(_reason(term.text), f"{error}: {values.describe(term)}".rstrip(": "))
            except _BadHeader as error:
                return error.bad
        return None


def _reason(text: str) -> str:
    return f"filter: {text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + '...'}"


class _BadHeader(Exception):
    """The size of the image cannot be read."""

    def __init__(self, bad: BadRecord) -> None:
        self.bad = bad
        super().__init__(bad.reason)


class _Values:
    """The names of a record's values (a ppsd.data.columns.Lookup)."""

    def __init__(self, record: AnyRecord, max_pixels: int) -> None:
        self.record = record
        self._max_pixels = max_pixels
        self._size: Optional[tuple[int, int]] = None

    def __getitem__(self, name: str) -> Any:
        return _NAMES[name][1](self) if name in _NAMES else self.record.meta.get(name)

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            size = pixel_size(self.record, self._max_pixels)
            if isinstance(size, BadRecord):
                raise _BadHeader(size)
            self._size = size
        return self._size

    def describe(self, term: Term) -> str:
        return ", ".join(describe(name, self[name]) for name in term.names)


def pixel_size(record: AnyRecord, max_pixels: int) -> Union[tuple[int, int], BadRecord]:
    """(width, height)."""
    if isinstance(record, LatentRecord):
        height, width = record.moments.shape[-2:]
        return width * PIXELS_PER_LATENT, height * PIXELS_PER_LATENT
    return upright_size(record.image, max_pixels)


def _num_bytes(record: AnyRecord) -> int:
    return record.moments.nbytes if isinstance(record, LatentRecord) else len(record.image)


_NAMES: dict[str, tuple[str, Callable[[_Values], Any]]] = {
    "width": (NUMBER, lambda values: values.size[0]),
    "height": (NUMBER, lambda values: values.size[1]),
    "aspect_ratio": (NUMBER, lambda values: values.size[0] / values.size[1]),
    "pixels": (NUMBER, lambda values: values.size[0] * values.size[1]),
    "caption": (TEXT, lambda values: values.record.caption),
    "caption_length": (NUMBER, lambda values: len(values.record.caption)),
    "caption_words": (NUMBER, lambda values: len(values.record.caption.split())),
    "num_bytes": (NUMBER, lambda values: _num_bytes(values.record)),
}
NAMES = tuple(_NAMES)
"""Those that every record has."""
