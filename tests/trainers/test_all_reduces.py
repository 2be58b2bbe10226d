"""Gradients of accumulated micro-batches cross the network once an optimizer step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.conftest import Run

# After each micro-batch, and when the optimizer starts: how far the processes' gradients of one weight are apart.
RECORD = """
import json, pathlib, sys
import paddle
from paddlenlp.trainer import TrainerCallback
import ppsd.compat
from ppsd.trainers import pretrain, running, trainer

def apart(step):
    both = []
    paddle.distributed.all_gather(both, paddle.to_tensor(step.unet.conv_out.weight.grad.numpy()))
    return float((both[0] - both[1]).abs().max())

class Recording(trainer.StableDiffusionTrainer):
    def training_step(self, model, inputs):
        loss = super().training_step(model, inputs)
        found.append(apart(self.step))
        return loss

class AtTheOptimizer(TrainerCallback):
    def on_optimizer_begin(self, args, state, control, **kwargs):
        at_optimizer.append(apart(built[0].step))

def leaving(*code):
    if paddle.distributed.get_rank() == 0:
        pathlib.Path("apart.json").write_text(json.dumps([found, at_optimizer]))
    leave(*code)

def building(*args):
    built.append(build_trainer(*args))
    built[0].add_callback(AtTheOptimizer)
    return built[0]

found, at_optimizer, built = [], [], []
build_trainer, running.build_trainer = running.build_trainer, building
leave, ppsd.compat.leave_process_group = ppsd.compat.leave_process_group, leaving
pretrain.StableDiffusionTrainer = Recording
pretrain.main(sys.argv[1:])
"""


def differences(run: Run, folder: Path, **changes: Any) -> tuple[list[bool], list[bool]]:
    """Whether the processes' gradients differ: after each micro-batch, and at each optimizer step."""
    (folder / "record.py").write_text(RECORD)
    flags = run.flags(folder / "out", per_device_train_batch_size=2, gradient_accumulation_steps=3, **changes)
    command = [sys.executable, "-m", "ppsd.launch", "--nproc_per_node", "2", "record.py", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found, at_optimizer = json.loads((folder / "apart.json").read_text())
    return [d > 0 for d in found], [d > 0 for d in at_optimizer]


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        pytest.param(False, [True, True, False], id="reduced during the last backward pass"),
        pytest.param(True, [True, True, True], id="reduced after it"),
    ],
)
def test_only_the_last_micro_batch_is_reduced(
    tiny_run: Run, tmp_path: Path, recompute: bool, expected: list[bool]
) -> None:
    micro, at_optimizer = differences(tiny_run, tmp_path, max_steps=2, save_steps=2, recompute=recompute)
    assert micro == expected * 2
    assert at_optimizer == [False, False]
