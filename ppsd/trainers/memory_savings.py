"""The flags that make a run take less memory, and the cheapest sets of them with which it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Optional

from ppsd.models.footprint import Footprint
from ppsd.trainers.memory_plan import plan
from ppsd.trainers.memory_settings import Settings


@dataclass(frozen=True)
class Saving:
    """A flag, what it costs (to be compared with others), what that is in words, and what it sets."""

    flag: str
    cost: float
    words: str
    changes: tuple[tuple[str, object], ...]


SAVINGS = (
    Saving("--enable_xformers_memory_efficient_attention", 0.1, "nothing; faster", (("efficient_attention", True),)),
    Saving("--vae_slicing", 0.2, "a little time", (("vae_slicing", True),)),
    Saving("--bf16", 0.5, "some precision; faster", (("precision", "O1"),)),
    Saving(
        "--bf16 --frozen_dtype bfloat16", 0.7, "some precision; faster", (("precision", "O1"), ("half_frozen", True))
    ),
    Saving("--gradient_checkpointing", 2, "about a third more time", (("recompute", True),)),
    Saving("--bf16 --fp16_opt_level O2", 1.5, "more precision; faster", (("precision", "O2"), ("half_frozen", True))),
    Saving("--optimizer_type AdamW8bit", 2.5, "moments rounded to 8 bits", (("optimizer_type", "AdamW8bit"),)),
    Saving("--optimizer_type Adafactor", 4, "another optimizer; tune the rate", (("optimizer_type", "Adafactor"),)),
    Saving("--use_ema False", 5, "no averaged weights", (("use_ema", False),)),
)


def fitting(model: Footprint, settings: Settings, nbytes: int) -> Iterator[tuple[Sequence[Saving], int]]:
    """Sets of savings with which the run takes at most `nbytes`, those that cost least first; none has one in vain."""
    useful = [saving for saving in SAVINGS if _changed(settings, [saving]) is not None]
    sets = [chosen for count in range(len(useful) + 1) for chosen in combinations(useful, count)]
    found: list[set[Saving]] = []
    for chosen in sorted(sets, key=lambda chosen: sum(saving.cost for saving in chosen)):
        changed = _changed(settings, chosen)
        if changed is None or any(fits < set(chosen) for fits in found):
            continue
        total = sum(plan(model, changed).values())
        if total <= nbytes:
            found.append(set(chosen))
            yield chosen, total


def _changed(settings: Settings, chosen: Sequence[Saving]) -> Optional[Settings]:
    """None where a saving changes nothing, or sets what another one has set."""
    names = [name for saving in chosen for name, _ in saving.changes]
    if len(names) != len(set(names)):
        return None
    for saving in chosen:
        if all(getattr(settings, name) == value for name, value in saving.changes):
            return None
        if saving.flag.startswith("--bf16") and settings.precision == "O2":  # which is less than any of them
            return None
    return replace(settings, **{name: value for saving in chosen for name, value in saving.changes})  # type: ignore[arg-type]
