"""Two processes train the adapters that one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.adapter_runs import learn, saved
from tests.trainers.conftest import Run
from tests.trainers.test_launch import launch

SCRIPT = Path(__file__).parents[2] / "examples" / "lora" / "train_lora.py"


@pytest.mark.parametrize(
    "flags",
    [
        {"train_text_encoder": True, "conv_dim": 2, "module_dropout": 1e-9, "use_ema": True},
        {"network_module": "lokr", "sharding": "stage1"},
    ],
    ids=["lora", "lokr-sharded"],
)
def test_two_processes_learn_what_one_learns(tiny_run: Run, tmp_path: Path, flags: dict[str, Any]) -> None:
    """Also where an adapter may be left out of a step in one process alone: all still have gradients to share."""
    options = {"unet_name_or_path": None, "network_module": "lora", "network_dim": 2, "num_lanes": 4, **flags}
    launch(SCRIPT, tiny_run.flags(tmp_path / "two", **options, per_device_train_batch_size=2), tmp_path)
    learn(tiny_run, tmp_path / "one", **options)
    one, two = (saved(tmp_path / run / "checkpoint-6") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=name)


def test_modules_that_are_left_out_by_one_process_alone_hang_nobody(tiny_run: Run, tmp_path: Path) -> None:
    options = {"unet_name_or_path": None, "network_dim": 2, "max_steps": 3, "num_lanes": 4}
    drops = {"module_dropout": 0.6, "rank_dropout": 0.3, "network_dropout": 0.3, "train_text_encoder": True}
    launch(SCRIPT, tiny_run.flags(tmp_path / "out", **options, **drops, per_device_train_batch_size=2), tmp_path)
    found = saved(tmp_path / "out" / "checkpoint-3")
    assert all(np.isfinite(value).all() for value in found.values())
