"""Number types of stored factors; in memory all are float32."""

from __future__ import annotations

import numpy as np

from ppsd.formats.safetensors_file import Spec
from ppsd.interop.weights import as_float32

PRECISIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def stored(value: np.ndarray, dtype: str) -> np.ndarray:
    """float32 -> as `dtype` (F32, F16, BF16) is stored, rounded to the nearest, ties to even.

    Raises ValueError for what float16 cannot hold.
    """
    value = np.asarray(value, np.float32)
    if dtype == "F32":
        return value
    if dtype == "BF16":
        bits = value.view(np.uint32) if value.ndim else value.reshape(1).view(np.uint32).reshape(())
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
            np.uint16
        )
    largest = float(np.abs(value).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise ValueError(f"holds {largest:.3g}, too large for float16; bfloat16 and float32 can hold it")
    return value.astype(np.float16)


def exact_dtype(value: np.ndarray, wanted: str) -> str:
    """`wanted`, if it holds these numbers as they are, else F32."""
    if wanted == "F32" or (wanted == "F16" and float(np.abs(value).max(initial=0.0)) > np.finfo(np.float16).max):
        return "F32"
    back = as_float32(Spec(wanted, value.shape), stored(value, wanted))
    return wanted if np.array_equal(back, value) else "F32"
