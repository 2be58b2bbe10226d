"""The rows of a file of cached latents that is being written (see ppsd.formats.latents)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ppsd.formats.safetensors_part import TensorSpools
from ppsd.types import BadRecord, LatentRecord

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
EMPTY_HIDDEN = "empty_hidden"


class LatentRows:
    """The records of a file to write: their large parts go to `spools`, the rest is kept."""

    def __init__(self, spools: TensorSpools, dtype: np.dtype, path: str) -> None:
        self._spools, self._dtype, self._path = spools, dtype, path
        self._numbers: list[int] = []
        self._ends: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._checksums: list[int] = []
        self.text = bytearray()
        self.errors = {"moments": 0.0, "hidden": 0.0}

    def append(self, number: int, record: LatentRecord | BadRecord, with_hidden: bool) -> None:
        assert number > (self._numbers[-1] if self._numbers else 0)
        size, checksum, text = (0, 0), 0, _text_of(record)
        if isinstance(record, LatentRecord):
            assert (record.hidden is not None) == with_hidden
            size = (record.moments.shape[1], record.moments.shape[2])
            checksum = self._spool(moments_name(*size), self.rounded("moments", record.moments), checksum)
            if record.hidden is not None:
                checksum = self._spool("hidden", self.rounded("hidden", record.hidden), checksum)
        self.text += text
        self._numbers.append(number)
        self._ends.append(len(self.text))
        self._sizes.append(size)
        self._checksums.append(crc32(text, checksum))

    def _spool(self, name: str, row: np.ndarray, checksum: int) -> int:
        self._spools.append(name, row)
        return crc32(row.data, checksum)

    def rounded(self, what: str, value: np.ndarray) -> np.ndarray:
        """`value` in the type of the file; the largest error is remembered under `what`."""
        with np.errstate(over="ignore"):
            row = np.ascontiguousarray(value, dtype=self._dtype)
        if not np.isfinite(row).all():
            wrong = "is not finite" if self._dtype == DTYPES["float32"] else "does not fit into float16: use float32"
            raise ValueError(f"{self._path}: a value of the {what} {wrong}")
        if row.dtype != value.dtype:
            error = float(np.abs(row.astype(np.float64) - value).max(initial=0.0))
            self.errors[what] = max(self.errors[what], error)
        return row

    def index(self) -> dict[str, np.ndarray]:
        return {
            "record_numbers": np.array(self._numbers, dtype=np.int64),
            "text_ends": np.array(self._ends, dtype=np.int64),
            "sizes": np.array(self._sizes, dtype=np.int32).reshape(-1, 2),
            "checksums": np.array(self._checksums, dtype=np.uint32),
        }


def moments_name(h: int, w: int) -> str:
    return f"moments.{h}x{w}"


def _text_of(record: LatentRecord | BadRecord) -> bytes:
    if isinstance(record, BadRecord):
        fields: dict[str, Any] = {"reason": record.reason, "detail": record.detail}
    else:
        fields = {"caption": record.caption}
        if record.more_captions:
            fields["more_captions"] = list(record.more_captions)
        meta = {key: value for key, value in record.meta.items() if key != EMPTY_HIDDEN}
        if meta:
            fields["meta"] = meta
    return json.dumps(fields, separators=(",", ":"), default=_as_json).encode()


def _as_json(value: Any) -> Any:
    """Numpy scalars and arrays as numbers and lists, anything else (bytes, dates) as text."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)
