"""Runs that are killed again and again, and compared with the run that was not."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ppsd.trainers.checkpoint import find_checkpoints, global_step
from tests.chaos.attempt import Spec
from tests.chaos.journal import repeated_steps, require_each_record_once
from tests.chaos.moments import Moment, Pace, random_moments
from tests.chaos.outcome import Outcome, finish, num_kills, require_ended, table
from tests.chaos.power import lose_power
from tests.chaos.recipe import Folders, Recipe
from tests.chaos.runners import Runner
from tests.chaos.whole import largest_difference, logged_losses, require_whole


def undisturbed(runner: Runner, recipe: Recipe, folder: Path) -> Folders:
    """A run that nothing happens to."""
    folders = Folders.make(folder)
    spec = folders.spec(recipe, 0)
    attempt = finish(runner, spec, runner.start(spec, recipe.ranks), random.Random(0))
    require_ended(attempt, spec, finished=True)
    require_records(folders, recipe)
    return folders


def campaign(
    runner: Runner, recipe: Recipe, folder: Path, rng: random.Random, kinds: Sequence[str], kills: int, pace: Pace
) -> tuple[list[Outcome], list[str]]:
    """Runs until so many processes were killed; each ends as the one that is left alone does. And a table of it."""
    start, attempts, repeated = time.monotonic(), list[Outcome](), 0
    moments = random_moments(rng, kinds, pace, recipe.ranks)
    plain = undisturbed(runner, recipe, folder / "undisturbed")
    while (killed := num_kills(attempts)) < kills:
        place = folder / f"disturbed-{killed}"
        ours, of_run = disturbed(runner, recipe, place, rng, moments, kills - killed)
        require_same_end(recipe, ours, plain)
        attempts += of_run
        repeated += sum(map(repeated_steps, ours.journals(recipe))) // recipe.ranks
        print(f"{num_kills(attempts)} kills, all the same so far", flush=True)
        shutil.rmtree(place)
    return attempts, table(attempts, repeated, time.monotonic() - start)


def disturbed(
    runner: Runner, recipe: Recipe, folder: Path, rng: random.Random, moments: Iterator[Moment], kills: int
) -> tuple[Folders, list[Outcome]]:
    """One run whose attempts end at `moments`, `kills` times at most, and which then is left to finish."""
    folders, attempts = Folders.make(folder), list[Outcome]()
    while not attempts or any(attempts[-1].codes):
        number = len(attempts)
        assert number < 3 * kills + 10, "the run does not get on"
        moment = next(moments) if num_kills(attempts) < kills else None
        attempts.append(one_attempt(runner, recipe, folders, folders.spec(recipe, number, moment), rng))
    return folders, attempts


def one_attempt(runner: Runner, recipe: Recipe, folders: Folders, spec: Spec, rng: random.Random) -> Outcome:
    """Start, kill, and see that nothing half-written can be found."""
    begun, known = time.time_ns(), find_checkpoints(folders.output)
    processes = runner.start(spec, recipe.ranks)
    attempt = finish(runner, spec, processes, rng)
    moment = spec.moment
    require_ended(attempt, spec, finished=moment is None)
    if moment is not None and moment.kind == "power" and any(attempt.codes):
        lose_power(folders.output, folders.work / "synced.jsonl", begun)
    require_only_whole(folders.output)
    first = global_step(known[-1]) if known else 0
    return replace(attempt, first=first, half_saved=any(folders.output.glob(".saving/*")))


def require_only_whole(output: Path) -> None:
    """Whatever has a checkpoint's name is whole, and is found."""
    found = find_checkpoints(output)
    assert found == sorted(output.glob("checkpoint-*"), key=global_step)
    for checkpoint in found:
        require_whole(checkpoint)


def require_same_end(recipe: Recipe, ours: Folders, undisturbed: Folders) -> None:
    """Weights, EMA and optimizer bit for bit, the losses, and the records of every step that counts."""
    require_records(ours, recipe)
    assert ours.steps(recipe) == undisturbed.steps(recipe), "other records, or in another order"
    last = f"checkpoint-{recipe.max_steps}"
    assert logged_losses(ours.output / last) == logged_losses(undisturbed.output / last), "other losses"
    for a, b in ((ours.output / last, undisturbed.output / last), (ours.output, undisturbed.output)):
        difference = largest_difference(a, b)
        assert difference == 0, f"{a} differs by up to {difference}"


def require_records(folders: Folders, recipe: Recipe) -> None:
    if recipe.records_per_part is not None:
        require_each_record_once(folders.steps(recipe), recipe.records_per_part, recipe.seed, recipe.max_steps)
