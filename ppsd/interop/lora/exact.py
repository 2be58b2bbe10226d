"""Adding a change to stored weights, and taking it away so that every bit is as it was.

The sum s = round(W + d) loses bits of W, so s - d need not round to W: where |d| is large against |W|, where s crosses
to another power of two, for -0. What differs is kept beside the sum: where it is, and what was there. So is what lies
so near to where rounding turns that another processor, which sums d in another order, could come to another number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppsd.formats.safetensors_file import Spec
from ppsd.interop.lora.precision import stored
from ppsd.interop.weights import as_float32

BITS = {"F64": np.uint64, "F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}
LARGEST = {"F64": 1.7976931348623157e308, "F32": 3.4028234663852886e38, "BF16": 3.3895313892515355e38, "F16": 65504.0}
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


ORDER = 1e-13
"""More than the order of summing changes of float64 numbers, relative to the largest of them."""


class Kept(NamedTuple):
    """at: places in the flat tensor, int32 or int64; values: as stored there. All of the tensor where at is empty."""

    at: np.ndarray
    values: np.ndarray


def added(value: np.ndarray, dtype: str, change: np.ndarray, into: str) -> np.ndarray:
    """value as stored in `dtype`, change float64 of the same shape -> their sum, as `into` is stored.

    Raises ValueError for sums that are no numbers, or that `into` cannot hold.
    """
    total = as_float64(value, dtype) + change
    if not np.isfinite(total).all():
        raise ValueError("holds values that are NaN or infinite")
    return as_stored(total, into)


def kept(value: np.ndarray, dtype: str, change: np.ndarray, total: np.ndarray, whole: bool = False) -> Kept:
    """What `restored` needs beside total = added(value, dtype, change, dtype). whole: keep everything."""
    flat, index = value.reshape(-1), np.int32 if value.size < 2**31 else np.int64
    near, bits = ORDER * float(np.abs(change).max(initial=0.0)), _bits(flat, dtype)
    low, high = (_bits(subtracted(total, dtype, change + off), dtype).reshape(-1) for off in (near, -near))
    at = np.flatnonzero((low != bits) | (high != bits))
    if whole or at.size * np.dtype(index).itemsize >= (flat.size - at.size) * flat.itemsize:
        return Kept(np.zeros(0, index), flat.copy())
    return Kept(at.astype(index), flat[at])


def restored(total: np.ndarray, dtype: str, change: np.ndarray, record: Kept) -> np.ndarray:
    """The value that `added` began with, bit for bit."""
    if is_whole(record, total.size):
        return record.values.reshape(total.shape)
    flat = subtracted(total, dtype, change).reshape(-1)
    flat[record.at] = record.values
    return flat.reshape(total.shape)


def is_whole(record: Kept, size: int) -> bool:
    return not record.at.size and record.values.size == size


def subtracted(total: np.ndarray, dtype: str, change: np.ndarray) -> np.ndarray:
    limit = LARGEST[dtype]
    return as_stored(np.clip(as_float64(total, dtype) - change, -limit, limit), dtype)


def as_float64(value: np.ndarray, dtype: str) -> np.ndarray:
    return value if dtype == "F64" else as_float32(Spec(dtype, value.shape), value).astype(np.float64)


def as_stored(value: np.ndarray, dtype: str) -> np.ndarray:
    """float64 -> as `dtype` is stored, rounded to the nearest. Raises ValueError for what it cannot hold."""
    largest = float(np.abs(value).max(initial=0.0))
    if largest > LARGEST[dtype]:
        raise ValueError(f"holds {largest:.3g}, too large for {NAMES[dtype]}")
    return value.copy() if dtype == "F64" else stored(value.astype(np.float32), dtype)


def _bits(value: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(value).view(BITS[dtype])
