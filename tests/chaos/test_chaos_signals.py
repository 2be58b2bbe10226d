"""SIGTERM, as a scheduler sends it: the step is finished and saved, nothing is done twice."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.campaign import disturbed, require_same_end, undisturbed
from tests.chaos.journal import repeated_steps
from tests.chaos.moments import Moment
from tests.chaos.outcome import STOPPED, Outcome
from tests.chaos.recipe import Folders, Recipe
from tests.chaos.runners import Zygote


@pytest.fixture(scope="session")
def short(recipe: Recipe) -> Recipe:
    """Where only being stopped saves, but for the end."""
    return replace(recipe, max_steps=12, save_steps=100)


def stopped_run(
    zygote: Zygote, recipe: Recipe, folder: Path, moments: Sequence[Moment]
) -> tuple[Folders, list[Outcome]]:
    """Compared with the run that was left alone."""
    plain = undisturbed(zygote, recipe, folder / "undisturbed")
    ours, attempts = disturbed(zygote, recipe, folder / "disturbed", random.Random(1), iter(moments), len(moments))
    require_same_end(recipe, ours, plain)
    return ours, attempts


def stop_at(kind: str, count: int, **more: object) -> Moment:
    return Moment(kind, count, signal=signal.SIGTERM, **more)  # type: ignore[arg-type]


def test_a_stopped_run_has_saved_its_last_step(zygote: Zygote, short: Recipe, tmp_path: Path) -> None:
    """Stopped in the first half of step 2, the second of 4, the update of 5 and while the data of 7 is read."""
    moments = [stop_at("forward", 3), stop_at("backward", 4), stop_at("update", 1), stop_at("data", 12)]
    ours, attempts = stopped_run(zygote, replace(short, workers=[0]), tmp_path, moments)
    assert [attempt.codes for attempt in attempts] == [(STOPPED,)] * 4 + [(0,)]
    saved = sorted(int(path.name.split("-")[1]) for path in ours.output.glob("checkpoint-*"))
    assert saved[-1] == 12
    assert repeated_steps(ours.work / "journal-0.jsonl") == 0


def test_the_data_workers_may_get_the_signal_too(zygote: Zygote, short: Recipe, tmp_path: Path) -> None:
    """As from Ctrl-C, or a scheduler that signals every process."""
    moments = [stop_at("forward", 3, group=True), Moment("backward", 2, signal=signal.SIGINT, group=True)]
    ours, attempts = stopped_run(zygote, replace(short, workers=[2]), tmp_path, moments)
    assert [attempt.codes for attempt in attempts] == [(STOPPED,), (STOPPED,), (0,)]
    assert repeated_steps(ours.work / "journal-0.jsonl") == 0


def test_a_second_signal_ends_at_once_and_leaves_nothing_half_written(
    zygote: Zygote, short: Recipe, tmp_path: Path
) -> None:
    """While the step is finished or the checkpoint is written; either way the end is the same."""
    rng = random.Random(3)
    moments = [stop_at("update", 2, again_s=rng.uniform(0, 0.2)) for _ in range(5)]
    _, attempts = stopped_run(zygote, short, tmp_path, moments)
    codes = {attempt.codes for attempt in attempts[:5]}
    assert (128 + signal.SIGINT,) in codes


def test_both_processes_stop_after_the_same_step(zygote: Zygote, short: Recipe, tmp_path: Path) -> None:
    """Only one of them gets the signal."""
    of_two = replace(short, ranks=2, micro_batch=2, max_steps=9)
    moments = [stop_at("forward", 3, rank=1), stop_at("update", 2, rank=0), stop_at("backward", 2, rank=1)]
    ours, attempts = stopped_run(zygote, of_two, tmp_path, moments)
    assert [attempt.codes for attempt in attempts] == [(STOPPED, STOPPED)] * 3 + [(0, 0)]
    assert [repeated_steps(journal) for journal in ours.journals(of_two)] == [0, 0]
