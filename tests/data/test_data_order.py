"""Seeds and the order of parts are pure functions, and the order is a permutation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ppsd.data.lane import default_lanes
from ppsd.data.order import Unit, borrow_order, epoch_order
from ppsd.data.seeds import Draw, derive_seed, permutation, uniform


def test_numbers_never_change() -> None:
    """A run continued with a newer version must see the data it would have seen."""
    assert derive_seed(1, 2, 3) == 6520558355739401531
    assert derive_seed(-1) == derive_seed(2**64 - 1)
    assert permutation(8, 5, Draw.WINDOW).tolist() == [0, 1, 3, 2, 5, 7, 4, 6]
    assert uniform(7, Draw.CROP_X) == 0.20801961051954654


def test_seeds_are_63_bits_and_distinct() -> None:
    seeds = {derive_seed(a, b) for a in range(200) for b in range(200)}
    assert len(seeds) == 40000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0.49 < np.mean([seed / 2**63 for seed in seeds]) < 0.51


def test_uniform_fills_its_interval_evenly() -> None:
    numbers = np.array([uniform(seed, Draw.FLIP) for seed in range(20000)])
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_permutation_puts_every_item_everywhere() -> None:
    orders = np.array([permutation(10, seed) for seed in range(5000)])
    assert (np.sort(orders, axis=1) == np.arange(10)).all()
    for place in range(10):
        counts = np.bincount(orders[:, place], minlength=10)
        assert ((counts - 500) ** 2 / 500).sum() < 35  # chi-square, 9 degrees of freedom, p = 0.00006


@pytest.mark.parametrize(
    ("num_parts", "lanes"), [(1, 1), (1, 8), (3, 8), (8, 8), (5, 4), (100, 64), (7, 64), (640, 64)]
)
def test_epoch_order_holds_every_line_once(num_parts: int, lanes: int) -> None:
    order = epoch_order(num_parts, lanes, seed=3, epoch=1)
    lines = Counter(
        (unit.part, line) for units in order for unit in units for line in range(50) if line % unit.every == unit.offset
    )
    assert set(lines.values()) == {1}
    assert len(lines) == 50 * num_parts
    assert len(order) == lanes
    sizes = [len(units) for units in order]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_whole_parts_where_there_are_enough() -> None:
    assert all(unit == Unit(unit.part, 1, 0) for units in epoch_order(9, 8, 0, 0) for unit in units)
    assert {unit.every for units in epoch_order(3, 8, 0, 0) for unit in units} == {2, 3}


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(20, 4, seed, epoch)[0]) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_borrowing_tries_every_part() -> None:
    orders = [borrow_order(6, 0, 0, lane) for lane in range(8)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize(
    ("num_parts", "devices", "lanes"),
    [(1, 1, 8), (63, 1, 8), (64, 1, 64), (1000, 8, 64), (1000, 16, 128), (100, 16, 64), (1000, 6, 66), (5, 3, 9)],
)
def test_default_number_of_lanes(num_parts: int, devices: int, lanes: int) -> None:
    assert default_lanes(num_parts, devices) == lanes
    assert lanes % devices == 0
