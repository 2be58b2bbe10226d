"""Two processes train the ControlNet that one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.trainers.controlnet import ControlNetTrainer
from tests.trainers.condition_runs import NARROW, flags_of, learn, scenes
from tests.trainers.conftest import Run, weights
from tests.trainers.test_launch import launch

SCRIPT = Path(__file__).parents[2] / "examples" / "controlnet" / "train_controlnet.py"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"sd_locked": False, "only_mid_control": True, "use_ema": True}, ["controlnet", "unet"]),
        ({"network_module": "lora", "network_dim": 2, "sharding": "stage1"}, ["controlnet"]),
    ],
    ids=["decoder", "adapters"],
)
def test_two_processes_learn_what_one_learns(
    tiny_run: Run, tmp_path: Path, flags: dict[str, Any], parts: list[str]
) -> None:
    """Also where parts of the ControlNet and of the UNet have no gradients to share."""
    folder, options = scenes(tmp_path / "set"), {"num_lanes": 4, "max_steps": 3, **NARROW, **flags}
    command = flags_of(tiny_run, tmp_path / "two", folder, **options, per_device_train_batch_size=2)
    launch(SCRIPT, command, tmp_path)
    learn(tiny_run, tmp_path / "one", ControlNetTrainer, folder, **options)
    for part in parts:
        one, two = (weights(tmp_path / run / "checkpoint-3", part) for run in ("one", "two"))
        assert one.keys() == two.keys()
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=name)
