"""One process, killed at random moments. Longer: `python -m tests.chaos --kills 200`."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Callable

from tests.chaos.campaign import campaign
from tests.chaos.moments import KINDS, Pace
from tests.chaos.outcome import num_continued, num_kills
from tests.chaos.recipe import Recipe
from tests.chaos.runners import Zygote


def test_20_kills_change_nothing(
    zygote: Zygote, recipe: Recipe, tmp_path: Path, show: Callable[[list[str]], None]
) -> None:
    """Nothing is lost, repeated or different, and no half-written checkpoint is ever found (see `campaign`)."""
    pace = Pace(8, recipe.micro_batches, recipe.micro_batch)
    outcomes, table = campaign(zygote, recipe, tmp_path, random.Random(20), list(KINDS), 20, pace)
    show(table)
    assert num_kills(outcomes) == 20
    assert num_continued(outcomes) >= 10


def test_a_run_that_saves_every_step_is_killed_while_saving(
    zygote: Zygote, recipe: Recipe, tmp_path: Path, show: Callable[[list[str]], None]
) -> None:
    often = replace(recipe, max_steps=12, save_steps=1, more={"save_total_limit": 1, "train_text_encoder": True})
    outcomes, table = campaign(zygote, often, tmp_path, random.Random(4), ["write", "bytes", "power"], 6, Pace(3, 2, 4))
    show(table)
    assert num_kills(outcomes) == 6
    assert num_continued(outcomes) >= 3
