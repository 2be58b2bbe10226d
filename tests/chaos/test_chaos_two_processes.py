"""Two processes over gloo, of which one is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from tests.chaos.campaign import campaign, require_only_whole, require_same_end, undisturbed
from tests.chaos.moments import KINDS, Moment, Pace
from tests.chaos.outcome import SURVIVOR_LIMIT_S, log_of, num_continued, num_kills
from tests.chaos.recipe import Folders, Recipe
from tests.chaos.runners import Launcher, Zygote


@pytest.fixture(scope="session")
def of_two(recipe: Recipe) -> Recipe:
    """The same global batches on two processes."""
    return replace(recipe, ranks=2, micro_batch=2, max_steps=30)


def test_10_kills_of_one_process_change_nothing(
    zygote: Zygote, of_two: Recipe, tmp_path: Path, show: Callable[[list[str]], None]
) -> None:
    """The other process ends, too: within a minute where nobody ends it (see `finish`)."""
    pace = Pace(8, of_two.micro_batches, of_two.micro_batch, step_s=0.3)
    outcomes, table = campaign(zygote, of_two, tmp_path, random.Random(10), list(KINDS), 10, pace)
    show(table)
    assert num_kills(outcomes) == 10
    assert num_continued(outcomes) >= 4


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    runner = Launcher()
    yield runner
    runner.close()


def test_under_the_launcher(zygote: Zygote, launcher: Launcher, of_two: Recipe, tmp_path: Path) -> None:
    """One process dies: the launcher ends the other and says so by its exit code; the same command goes on."""
    short = replace(of_two, max_steps=8, workers=[1])
    plain = undisturbed(zygote, short, tmp_path / "undisturbed")
    ours = Folders.make(tmp_path / "disturbed")
    for number, moment in enumerate([Moment("backward", count=9, rank=1), None]):
        spec = ours.spec(short, number, moment)
        [process] = launcher.start(spec, ranks=2)
        codes = launcher.wait([process], SURVIVOR_LIMIT_S + 60)
        assert process in codes, log_of(spec)
        assert bool(codes[process]) == (moment is not None), log_of(spec)
        require_only_whole(ours.output)
    assert "continuing from" in log_of(spec)
    require_same_end(short, ours, plain)
