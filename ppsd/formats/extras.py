"""What a record has beside its image and its caption: further captions, and values by name (its meta).

In every format here the keys of CAPTION_KEYS name captions, all other keys are meta. Values are those of JSON; null and
numbers that are not finite are left out, as if the key were not there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from ppsd.formats.base64_bytes import decode_base64
from ppsd.formats.image_bytes import EMPTY_IMAGE
from ppsd.formats.lines import caption_of, checked_text, decode_text, parse_object
from ppsd.types import BadRecord, Record

CAPTION_KEYS = ("caption", "text", "txt", "TEXT", "captions")
MAX_META_BYTES = 2**18
MAX_COLUMN_BYTES = 1024
MAX_COLUMNS = 32
COLUMN_NAMES = "columns"
"""The key under which a line's JSON object names the columns behind it, those of further images."""

_NAMES_CAPTIONS = re.compile(rb'"(?:captions?|text|txt|TEXT)"\s*:')


def further_captions(row: Mapping[str, Any], keys: Sequence[str], caption: str) -> tuple[str, ...]:
    """The texts under `keys`, of lists all, each once, in order and without `caption`."""
    values = (row.get(key) for key in keys)
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    usable = (text for text in texts if isinstance(text, str) and text != caption and checked_text(text) is text)
    return tuple(dict.fromkeys(usable))


def split_row(
    row: Mapping[str, Any], caption_column: str | None = None
) -> tuple[str, tuple[str, ...], dict[str, Any]] | BadRecord:
    """Caption, further captions and meta of a row. Without a caption_column the first usual name is the caption."""
    keys = CAPTION_KEYS if caption_column is None else (caption_column, *CAPTION_KEYS)
    caption = caption_of(row, *(CAPTION_KEYS if caption_column is None else (caption_column,)))
    if isinstance(caption, BadRecord):
        return caption
    return caption, further_captions(row, keys, caption), without(row, keys)


def without(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The values of a row that are there, but for those under `keys`."""
    return {key: value for key, value in row.items() if value is not None and key not in keys}


class _Base64(bytes):
    """A column that is decoded when it is asked for."""


class LazyMeta(Mapping[str, Any]):
    """The columns of a line behind those that are needed, parsed when they are first asked for.

    The first of them may be a JSON object, in which "columns" names those that follow it; any other short text is under
    the name of its column: "column3" and so on. Of the columns `images`, which are base64, the values are bytes, or a
    BadRecord that says what is wrong with them.
    """

    __slots__ = ("_columns", "_first", "_images", "_row")

    def __init__(self, columns: bytes, first: int, images: Sequence[str] = ()) -> None:
        self._columns = columns
        self._first = first
        self._images = images
        self._row: Optional[dict[str, Any]] = None

    @property
    def image_bytes(self) -> int:
        """What it holds because of further images; 0 where it was not told of any."""
        return len(self._columns) if self._images else 0

    def captions(self, caption: str) -> tuple[str, ...]:
        """The captions among them that are not `caption`; most lines have none, and are not parsed to know that."""
        if not self._columns.startswith(b"{") or not _NAMES_CAPTIONS.search(self._columns):
            return ()
        return further_captions(self._object() or {}, CAPTION_KEYS, caption)

    def _object(self) -> dict[str, Any] | None:
        column = self._columns.split(b"\t", 1)[0]
        text = decode_text(column) if column.startswith(b"{") else ""
        row = parse_object(text) if isinstance(text, str) and text else None
        return row if isinstance(row, dict) else None

    def _parsed(self) -> dict[str, Any]:
        if self._row is None:
            row = self._object()
            names = column_names(row or {})
            not_meta = (*CAPTION_KEYS, COLUMN_NAMES) if names else CAPTION_KEYS
            self._row = {} if row is None else without(row, not_meta)
            for number, column in enumerate(self._columns.split(b"\t", MAX_COLUMNS)[:MAX_COLUMNS]):
                if number == 0 and row is not None:
                    continue
                named = 0 < number <= len(names)
                name = names[number - 1] if named else f"column{self._first + number}"
                if name in self._images:
                    self._row[name] = _Base64(column)
                elif 0 < len(column) <= MAX_COLUMN_BYTES and not named:
                    text = decode_text(column)
                    self._row.update({name: text} if isinstance(text, str) else {})
        return self._row

    def __getitem__(self, key: str) -> Any:
        value = self._parsed()[key]
        if not isinstance(value, _Base64):
            return value
        return decode_base64(value) or BadRecord(EMPTY_IMAGE, f"no byte in the column {key}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())

    def __repr__(self) -> str:
        return repr(self._parsed())


def column_names(row: Mapping[str, Any]) -> list[str]:
    """Those that a line's JSON object gives to the columns behind it; none where the key means something else."""
    names = row.get(COLUMN_NAMES)
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def further_images(record: Record) -> dict[str, bytes]:
    """The images that a record has in its meta, in the order of their names."""
    return {name: value for name, value in sorted(record.meta.items()) if isinstance(value, bytes)}


def extras_json(record: Record, columns: Sequence[str] = ()) -> str:
    """The meta and further captions of a record as one JSON object with sorted keys; "" when it has none.

    columns: names of further images that are written behind it.
    """
    row = plain(record.meta) if record.meta else {}
    assert isinstance(row, dict)
    if columns:
        row[COLUMN_NAMES] = list(columns)
    if record.more_captions:
        row["captions"] = list(record.more_captions)
    if not row:
        return ""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text if isinstance(checked_text(text), str) else json.dumps(row, sort_keys=True, separators=(",", ":"))


def plain(value: Any) -> Any:
    """`value` as JSON can hold it, None where it cannot: bytes, numbers that are not finite.

    What is neither number nor text nor made of them is its text: a path, a date.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        named = ((str(key), plain(inner)) for key, inner in value.items())
        return {key: inner for key, inner in named if inner is not None}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None
    return plain(value.item()) if hasattr(value, "item") else str(value)
