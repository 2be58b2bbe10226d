"""One attempt of a run, inside its own process: the real training command, with a journal and perhaps a killer.

`python attempt.py SPEC.json` is a fresh interpreter; the zygote calls `run` in a fork of one that is ready.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from ppsd.trainers import running
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.chaos.killer import Killer
from tests.chaos.moments import Moment


@dataclass(frozen=True)
class Spec:
    """flags: the command line. work: a folder for the journal, logs and notes of all attempts.

    commands: shell commands by when they are run: "5": before step 5, "save 2": in the second save, when the optimizer
    is written and the weights are not; `before`: before all. namespace: the process whose mounts are used.
    method: "module:class" of the trainer.
    """

    flags: list[str]
    output: str
    work: str
    number: int = 0
    moment: Optional[Moment] = None
    environment: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    before: str = "true"
    namespace: Optional[int] = None
    method: str = "ppsd.trainers.trainer:StableDiffusionTrainer"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        values = json.loads(text)
        moment = values.pop("moment")
        return Spec(**values, moment=moment and Moment(**moment))


def run(spec: Spec) -> None:
    """Train to the end, or to the moment. Raises what the command raises."""
    rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
    killer = Killer(spec.moment if spec.moment and spec.moment.rank == rank else None)
    work = Path(spec.work)
    shell(spec.before)
    killer.watch_samples()
    killer.watch_files(Path(spec.output), work / "synced.jsonl")
    running.main(recording(spec, rank, killer), spec.flags)


def recording(spec: Spec, rank: int, killer: Killer) -> type[StableDiffusionTrainer]:
    """The trainer, which writes down what each micro-batch holds before it is used."""
    journal = os.open(Path(spec.work, f"journal-{rank}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    commands = dict(spec.commands) if rank == 0 else {}
    saves: list[int] = []

    module, name = spec.method.split(":")
    method: Any = getattr(importlib.import_module(module), name)

    class Recording(method):
        begun = 0

        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
            step = self.state.global_step + 1
            shell(commands.pop(str(step), "true"))
            line = {"attempt": spec.number, "step": step, "seeds": inputs["seed"].tolist()}
            os.write(journal, f"{json.dumps(line)}\n".encode())
            if step != self.begun:
                self.begun = step
                killer.reached("step")
            return super().compute_loss(model, inputs, return_outputs)

        def create_optimizer(self, lr_scheduler: Any = None) -> Any:
            if self.optimizer is None:
                optimizer = super().create_optimizer(lr_scheduler)
                trained = next(iter(self.step.trained.values()))
                watch_pass(self.bundle.unet.mid_block, trained.parameters()[-1], killer)
                watch_update(optimizer, killer)
            return self.optimizer

        def _save(self, *args: Any, **kwargs: Any) -> Any:
            saves.append(self.state.global_step)
            shell(commands.pop(f"save {len(saves)}", "true"))
            return super()._save(*args, **kwargs)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            killer.save_begins()
            super()._save_checkpoint(*args, **kwargs)

    return Recording


def shell(command: str) -> None:
    if command != "true":
        subprocess.run(["sh", "-c", command], check=True)


def watch_pass(layer: Any, parameter: Any, killer: Killer) -> None:
    layer.register_forward_post_hook(lambda *_: killer.reached("forward"))
    parameter.register_hook(lambda gradient: killer.reached("backward"))


def watch_update(optimizer: Any, killer: Killer) -> None:
    update = optimizer.step

    def updating() -> None:
        killer.reached("update")
        update()
        killer.reached("update")

    optimizer.step = updating


def exit_code(spec: Spec) -> int:
    """Run as an interpreter would: the exit code, what was raised on standard error."""
    try:
        run(spec)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  what an interpreter does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    run(Spec.from_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
