"""The tiny run's command, and the folders of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from tests.chaos.attempt import Spec
from tests.chaos.journal import Steps, counted_steps
from tests.chaos.moments import Moment
from tests.trainers.conftest import Run


@dataclass(frozen=True)
class Recipe:
    """The tiny run. workers: the data workers of the attempts in turn, which must make no difference.

    records_per_part: of the stream; None: other data, whose records are only compared with those of the other run.
    """

    run: Run
    records_per_part: Optional[Sequence[int]]
    max_steps: int
    save_steps: int
    ranks: int = 1
    workers: Sequence[int] = (0, 2)
    micro_batch: int = 4
    micro_batches: int = 2
    seed: int = 7
    more: dict[str, object] = field(default_factory=dict)
    method: str = Spec.method

    def flags(self, output: Path, number: int) -> list[str]:
        return self.run.flags(
            output,
            **{
                "per_device_train_batch_size": self.micro_batch,
                "gradient_accumulation_steps": self.micro_batches,
                "num_records": None if self.records_per_part is None else sum(self.records_per_part),
                "max_steps": self.max_steps,
                "save_steps": self.save_steps,
                "save_total_limit": 3,
                "use_ema": True,
                "seed": self.seed,
                "check_data": "off",
                "dataloader_num_workers": self.workers[number % len(self.workers)],
                **self.more,
            },
        )


@dataclass(frozen=True)
class Folders:
    """Of one run. output: what the run writes; work: what the harness does."""

    output: Path
    work: Path

    @staticmethod
    def make(parent: Path) -> Folders:
        folders = Folders(parent / "out", parent / "work")
        folders.work.mkdir(parents=True)
        return folders

    def spec(self, recipe: Recipe, number: int, moment: Optional[Moment] = None, **more: Any) -> Spec:
        return Spec(
            recipe.flags(self.output, number),
            str(self.output),
            str(self.work),
            number,
            moment,
            method=recipe.method,
            **more,
        )

    def steps(self, recipe: Recipe) -> list[Steps]:
        return [counted_steps(journal) for journal in self.journals(recipe)]

    def journals(self, recipe: Recipe) -> list[Path]:
        return [self.work / f"journal-{rank}.jsonl" for rank in range(recipe.ranks)]
