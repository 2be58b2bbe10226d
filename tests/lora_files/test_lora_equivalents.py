"""LoHa, LoKr and Tucker as LoRA: the same change of the weight."""

from __future__ import annotations

import numpy as np
import pytest

from ppsd.interop.lora.equivalents import as_lora, without_core
from tests.lora_files.deltas import delta_of, random_factors

LINEAR, POINT, CONV = [24, 20], [24, 20, 1, 1], [24, 20, 3, 3]


def close(found: dict[str, np.ndarray], factors: dict[str, np.ndarray], shape: list[int]) -> None:
    expected = delta_of(factors, shape)
    made = delta_of(found, shape)
    assert np.abs(made - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [LINEAR, POINT, CONV], ids=str)
@pytest.mark.parametrize(
    ("kind", "rank", "expected"),
    [("loha", 2, 4), ("loha", 3, 9), ("lokr", 2, 8), ("lokr-both", 3, 9), ("lokr-both", 2, 4)],
)
def test_loha_and_lokr_of_a_low_rank(kind: str, rank: int, expected: int, shape: list[int]) -> None:
    """w1 of LoKr is [4,4] here, so its product with w2 of rank r has rank 4 r."""
    factors = random_factors(kind, shape, rank)
    made = as_lora(factors, shape)
    assert made["lora_down.weight"].shape == (expected, *shape[1:])
    assert made["lora_up.weight"].shape == (24, expected, *[1] * len(shape[2:]))
    close(made, factors, shape)


@pytest.mark.parametrize("kind", ["loha-tucker", "lokr-tucker", "tucker"])
def test_factors_with_a_core_know_their_shape(kind: str) -> None:
    factors = random_factors(kind, CONV, 2)
    made = as_lora(factors)
    assert set(made) == {"lora_down.weight", "lora_up.weight", "alpha"}
    close(made, factors, CONV)


@pytest.mark.parametrize("shape", [LINEAR, CONV, [20, 24], [40, 4, 3, 3]], ids=str)
@pytest.mark.parametrize(("kind", "rank"), [("loha", 7), ("lokr-whole", 1), ("lokr", 6)])
def test_no_more_than_the_full_rank(kind: str, rank: int, shape: list[int]) -> None:
    factors = random_factors(kind, shape, rank)
    made = as_lora(factors, shape)
    assert made["lora_down.weight"].shape[0] <= min(shape[0], int(np.prod(shape[1:])))
    close(made, factors, shape)


def test_alpha_of_two_whole_factors_does_not_count() -> None:
    factors = random_factors("lokr-whole", LINEAR, alpha=7.0)
    without = {name: value for name, value in factors.items() if name != "alpha"}
    np.testing.assert_allclose(
        delta_of(as_lora(factors, LINEAR), LINEAR), np.kron(without["lokr_w1"], without["lokr_w2"]), rtol=1e-6
    )


def test_missing_alpha_is_the_rank() -> None:
    factors = random_factors("loha", LINEAR, alpha=None)
    close(as_lora(factors, LINEAR), factors, LINEAR)
    zero = {**factors, "alpha": np.float32(0)}
    np.testing.assert_array_equal(delta_of(as_lora(zero, LINEAR), LINEAR), delta_of(as_lora(factors, LINEAR), LINEAR))


def test_tucker_is_merged_with_its_scale() -> None:
    factors = random_factors("tucker", CONV, 4, alpha=1.0)
    made = without_core(factors)
    assert made["lora_down.weight"].shape == (4, 20, 3, 3)
    close(made, factors, CONV)


def test_a_dora_stays_one() -> None:
    magnitude = np.ones([24, 1], np.float32)
    assert as_lora({**random_factors("lokr", LINEAR), "dora_scale": magnitude}, LINEAR)["dora_scale"] is magnitude


def test_an_unknown_or_another_shape() -> None:
    factors = random_factors("loha", CONV)
    with pytest.raises(ValueError, match="shape is needed"):
        as_lora(factors)
    with pytest.raises(ValueError, match=r"\[24,180\] are not for one of \[24, 20\]"):
        as_lora(factors, LINEAR)
