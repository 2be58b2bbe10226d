"""Which records a step was made of, written down for the user."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

KEPT = ("record", "seed", "input_ids")


class StepRecords:
    """The batches of one step of this process, without their images.

    names: of records int64 [B,3]. captions: of input_ids int64 [B,L].
    """

    def __init__(self, rank: int, names: Callable[[Any], list[str]], captions: Callable[[Any], list[str]]) -> None:
        self.rank, self._names, self._captions = rank, names, captions
        self.batches: list[dict[str, Any]] = []

    def add(self, inputs: dict[str, Any]) -> None:
        self.batches.append({name: inputs[name] for name in KEPT})

    def clear(self) -> None:
        self.batches = []

    def describe(self, losses: Sequence[float]) -> list[dict[str, Any]]:
        """One entry a sample. losses: of each micro-batch, divided by their number; JSON has no NaN, so as text."""
        entries = []
        for number, (batch, loss) in enumerate(zip(self.batches, losses)):
            shared = {"rank": self.rank, "micro_batch": number, "loss": str(loss * len(losses))}
            rows = zip(self._names(batch["record"]), self._captions(batch["input_ids"]), batch["seed"].tolist())
            entries += [{**shared, "record": name, "caption": text, "seed": seed} for name, text, seed in rows]
        return entries


def write_report(file: Path, step: int, what: str, gradients: Sequence[str], records: Sequence[Any]) -> None:
    """JSON: what was not finite, in which parameters' gradients, and the records of all processes."""
    report = {"step": step, "not_finite": what, "gradients": list(gradients), "records": list(records)}
    file.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


def suspects(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of the micro-batches whose loss is not finite; all of them where every loss is."""
    bad = [entry for entry in records if not math.isfinite(float(entry["loss"]))]
    return bad or list(records)
