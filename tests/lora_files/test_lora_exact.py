"""What is added to stored weights comes off again, to the last bit, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from ppsd.interop.lora.exact import added, as_float64, as_stored, is_whole, kept, restored

RANGES = {"F32": (-120, 120), "BF16": (-120, 120), "F16": (-22, 14)}


def wide(dtype: str, seed: int, low: int, high: int) -> np.ndarray:
    """2 ** 16 numbers of exponents from low to high, as stored."""
    random = np.random.default_rng(seed)
    values = np.ldexp(random.standard_normal(2**16), random.integers(low, high, 2**16))
    return as_stored(np.clip(values, -6e4, 6e4) if dtype == "F16" else values, dtype)


def back(value: np.ndarray, dtype: str, change: np.ndarray) -> tuple[bool, float]:
    """Whether it came back, and the share of places that had to be kept (1: the whole tensor)."""
    total = added(value, dtype, change, dtype)
    record = kept(value, dtype, change, total)
    share = 1.0 if is_whole(record, value.size) else record.at.size / value.size
    return restored(total, dtype, change, record).tobytes() == value.tobytes(), share


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_wide_exponents_come_back(dtype: str) -> None:
    value = wide(dtype, 0, *RANGES[dtype])
    change = as_float64(wide(dtype, 1, *RANGES[dtype]), dtype) * 0.3
    same, share = back(value, dtype, change)
    assert same
    assert share > 0.4, "these lose bits at every other place"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_changes_smaller_than_the_weights_need_few_places(dtype: str) -> None:
    random = np.random.default_rng(0)
    value = as_stored(random.standard_normal(2**16) * 0.05, dtype)
    same, share = back(value, dtype, random.standard_normal(2**16) * 0.002)
    assert same
    assert 0 < share < 0.05


def test_another_order_of_summing_comes_back() -> None:
    """s is 2, and s - d within 1e-15 of where rounding turns: half a step below 1."""
    value = as_stored(np.array([1.0] * 8), "F32")
    change = np.full(8, 1 + 2.0**-25)
    total = added(value, "F32", change, "F32")
    record = kept(value, "F32", change, total)
    for other in (change, change * (1 + 1e-15), change * (1 - 1e-15)):
        assert restored(total, "F32", other, record).tobytes() == value.tobytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_changes_that_swallow_the_weights_come_off(dtype: str) -> None:
    random = np.random.default_rng(0)
    value = as_stored(random.standard_normal((64, 64)) * 1e-3, dtype)
    change = random.standard_normal((64, 64)) * 1e4 * np.where(random.random((64, 64)) < 0.3, 1, 0)
    assert back(value, dtype, change)[0]
    total = added(value, dtype, change, dtype)
    plainly = as_stored(as_float64(total, dtype) - change, dtype)
    assert (plainly != value).mean() > 0.2, "without the record they would not"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_zeros_of_both_signs_and_the_largest_numbers_come_back(dtype: str) -> None:
    largest = {"F32": np.finfo(np.float32).max, "F16": 65504.0, "BF16": 3.3895313892515355e38}[dtype]
    value = as_stored(np.array([0.0, -0.0, -0.0, 1.0, -1.0, largest, -largest, largest, 1e-7]), dtype)
    change = np.array([0.0, 0.0, 1.0, -1.0, 1.0, -0.4 * largest, 1.0, 0.0, 1e-8])
    assert back(value, dtype, change)[0]


def test_the_sum_is_rounded_once() -> None:
    value, change = as_stored(np.array([1.0, 1.0]), "F32"), np.array([2.0**-24, 2.0**-24 + 2.0**-40])
    assert added(value, "F32", change, "F32").tolist() == [1.0, 1.0 + 2.0**-23]


def test_what_cannot_be_held_is_refused() -> None:
    value = as_stored(np.array([60000.0]), "F16")
    with pytest.raises(ValueError, match=r"6\.6e\+04, too large for float16"):
        added(value, "F16", np.array([6000.0]), "F16")
    assert added(value, "F16", np.array([6000.0]), "F32").tolist() == [66000.0]
    with pytest.raises(ValueError, match="NaN or infinite"):
        added(as_stored(np.array([1.0]), "F32"), "F32", np.array([np.nan]), "F32")
