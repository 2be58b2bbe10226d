"""A trainer that writes down what it trains on, and layouts to run it in: here, or in processes of the launcher.

As a script it takes a JSON file with the flags of several runs and makes one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ppsd import compat  # isort: skip

import paddle

from ppsd.trainers import pretrain
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.parsing import parse_arguments
from ppsd.trainers.trainer import StableDiffusionTrainer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Layout:
    """Who takes the records of an optimizer step."""

    processes: int
    batch: int
    accumulation: int = 1

    @property
    def flags(self) -> dict[str, int]:
        return {"per_device_train_batch_size": self.batch, "gradient_accumulation_steps": self.accumulation}


@dataclass
class Step:
    """The records of one optimizer step over all processes, by seed and by caption, and its learning rates."""

    seeds: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


class RecordingTrainer(StableDiffusionTrainer):
    """Fills `steps`, by the number of the optimizer step, with what this process takes."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> paddle.Tensor:
        steps = self.__dict__.setdefault("steps", {})
        step = steps.setdefault(self.state.global_step + 1, Step())
        decode = self.bundle.tokenizer.decode
        step.seeds += inputs["seed"].tolist()
        step.captions += [decode(row, skip_special_tokens=True) for row in inputs["input_ids"].tolist()]
        step.rates.append(self.optimizer.get_lr())
        return super().compute_loss(model, inputs, return_outputs)


def record(flags: Sequence[str]) -> None:
    """Train in this process; `output_dir/rank-N.json` says what it did."""
    arguments = parse_arguments((ModelArguments, DataArguments, SDTrainingArguments), flags)
    with mock.patch.object(pretrain, "StableDiffusionTrainer", RecordingTrainer):
        trainer = pretrain.pretrain(*arguments)
    steps = {number: vars(step) for number, step in trainer.steps.items()}  # type: ignore[attr-defined]
    answer = {"steps": steps, "log": trainer.state.log_history}
    Path(trainer.args.output_dir, f"rank-{trainer.args.process_index}.json").write_text(json.dumps(answer))


def record_all(processes: int, runs: Sequence[Sequence[str]], folder: Path) -> None:
    """Make runs one after the other, on one process here or on several started by the launcher."""
    if processes == 1:
        for flags in runs:
            record(flags)
        return
    file = folder / f"runs-{len(list(folder.glob('runs-*.json')))}.json"
    file.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    command += ["--log_dir", str(file.with_suffix(".log")), __file__, str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


class Recorded:
    """What a recorded run did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
        self.log: list[dict[str, Any]] = ranks[0]["log"]
        self.steps: dict[int, Step] = {}
        for rank in ranks:
            for number, taken in rank["steps"].items():
                step = self.steps.setdefault(int(number), Step())
                for name, values in taken.items():
                    getattr(step, name).extend(values)

    def seeds(self) -> dict[int, list[int]]:
        """The records of each step, in no order."""
        return {number: sorted(step.seeds) for number, step in self.steps.items()}

    def logged(self, name: str) -> dict[int, float]:
        return {entry["global_step"]: entry[name] for entry in self.log if name in entry and "loss" in entry}

    def names(self, pattern: str) -> set[str]:
        return {path.name for path in self.folder.glob(pattern)}


def main() -> None:
    for flags in json.loads(Path(sys.argv[1]).read_text()):
        record(flags)
    compat.leave_process_group()


if __name__ == "__main__":
    main()
