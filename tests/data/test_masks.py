"""Masks that are drawn: how much they cover, of what they are made, and that a seed gives one mask."""

from __future__ import annotations

import numpy as np
import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.masks import KINDS, kinds_of, random_mask
from ppsd.data.sample import SampleMaker
from ppsd.types import Record, Sample
from tests.images import jpeg_bytes


def coverages(count: int, width: int = 64, height: int = 64, **how: object) -> np.ndarray:
    return np.array([(random_mask(width, height, seed, **how) == 255).mean() for seed in range(count)])  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [KINDS, ("rectangles",), ("strokes",), ("ellipses",), ("strokes", "full")])
def test_a_quarter_is_covered_on_average(kinds: tuple[str, ...]) -> None:
    found = coverages(600, kinds=kinds)
    assert abs(found.mean() - 0.25) < 0.03
    partial = found[found < 1]
    assert 0.02 < partial.min() < 0.1 < 0.27 < partial.max() < 0.5
    whole = (found == 1).mean()
    assert (0.06 < whole < 0.14) if "full" in kinds else whole == 0


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("size", [(64, 64), (40, 120)])
def test_other_coverages(coverage: float, size: tuple[int, int]) -> None:
    assert abs(coverages(300, *size, coverage=coverage).mean() - coverage) < 0.04


def test_whole_masks() -> None:
    assert coverages(20, kinds=("full",)).tolist() == coverages(20, coverage=1.0).tolist() == [1.0] * 20


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (8, 8), (64, 32)])
def test_never_empty_and_of_the_size(size: tuple[int, int]) -> None:
    for seed in range(60):
        mask = random_mask(*size, seed, KINDS, 1e-6)
        assert (mask.shape, mask.dtype) == ((1, size[1], size[0]), np.uint8)
        assert mask.max() == 255
        assert set(np.unique(mask)) <= {0, 255}


def test_a_seed_gives_one_mask_and_another_seed_another() -> None:
    masks = [random_mask(64, 64, seed, ("rectangles", "strokes", "ellipses")).tobytes() for seed in range(100)]
    assert masks == [random_mask(64, 64, seed, ("rectangles", "strokes", "ellipses")).tobytes() for seed in range(100)]
    assert len(set(masks)) == 100


def test_every_place_is_masked_about_as_often() -> None:
    share = np.mean([random_mask(32, 32, seed)[0] for seed in range(1500)], axis=0) / 255
    assert 0.1 < share.min() < share.max() < 0.4
    assert abs(share[:, :16].mean() - share[:, 16:].mean()) < 0.03
    assert abs(share[:16].mean() - share[16:].mean()) < 0.03


def test_rectangles_have_right_angles() -> None:
    """Each row of a mask of boxes is one of few patterns; a round figure has nearly as many as rows."""
    boxes = [len(np.unique(random_mask(128, 128, seed, ("rectangles",))[0], axis=0)) for seed in range(40)]
    rounds = [len(np.unique(random_mask(128, 128, seed, ("ellipses",))[0], axis=0)) for seed in range(40)]
    assert np.median(boxes) < 12 < 25 < np.median(rounds)


def test_kinds_by_name() -> None:
    assert kinds_of(None) == kinds_of("") == ()
    assert kinds_of(" strokes, full,strokes") == ("strokes", "full")
    with pytest.raises(ValueError, match="--mask_kinds 'box' is not one of rectangles, strokes, ellipses, full"):
        kinds_of("strokes,box")


def sample_of(record: Record, seed: int, **settings: object) -> Sample:
    config = StreamConfig("x", resolution=64, caption_dropout_rate=0.0, conditions=("mask",), **settings)  # type: ignore[arg-type]
    sample = SampleMaker(config, lambda caption: np.zeros(4, np.int64))(record, seed)
    assert isinstance(sample, Sample)
    return sample


def test_samples_without_a_mask_get_one_of_their_seed() -> None:
    record = Record(jpeg_bytes(90, 80), "x")
    for seed in range(5):
        found = sample_of(record, seed, mask_kinds="strokes", mask_coverage=0.4).extras["mask"]
        assert np.array_equal(found, random_mask(64, 64, seed, ("strokes",), 0.4))
        wide = sample_of(
            record, seed, mask_kinds="strokes", enable_bucket=True, min_bucket_reso=64, max_bucket_reso=128
        )
        assert wide.extras["mask"].shape == (1, 64, 64)


def test_a_named_column_is_never_replaced() -> None:
    config = StreamConfig("x", resolution=64, conditions=("mask",), mask_column="m", mask_kinds="full")
    bad = SampleMaker(config, lambda caption: np.zeros(4, np.int64))(Record(jpeg_bytes(90, 80), "x"), 0)
    assert bad == SampleMaker(config, lambda caption: np.zeros(4, np.int64))(Record(jpeg_bytes(90, 80), "x"), 1)
    assert not isinstance(bad, Sample)
    assert bad.reason == "no mask"
