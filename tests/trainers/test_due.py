from __future__ import annotations

import pytest

from ppsd.trainers.due import Every


def steps_due(every: Every, until: int) -> list[int]:
    return [step for step in range(1, until + 1) if every.due(step)]


def test_by_steps_and_by_epochs() -> None:
    assert steps_due(Every(steps=4), 10) == [4, 8]
    assert steps_due(Every(epochs=2, epoch_steps=3), 13) == [6, 12]
    assert steps_due(Every(4, 2, 3), 13) == [4, 6, 8, 12]


@pytest.mark.parametrize("never", [Every(), Every(steps=-1), Every(steps=0, epochs=0, epoch_steps=5), Every(epochs=-1)])
def test_never(never: Every) -> None:
    assert not never.ever
    assert steps_due(never, 20) == []


def test_an_epoch_that_ends_within_a_step_ends_with_it() -> None:
    assert steps_due(Every(epochs=1, epoch_steps=2.5), 10) == [3, 5, 8, 10]
    thirds = steps_due(Every(epochs=1, epoch_steps=10 / 3), 1000)
    assert thirds == [-(-10 * k // 3) for k in range(1, 301)]
    assert steps_due(Every(epochs=1, epoch_steps=0.5), 3) == [1, 2, 3]
