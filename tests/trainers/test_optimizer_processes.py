"""Optimizers written in tensor operations with --sharding: each process keeps and updates a part of the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppsd.models.saving import read_weights
from ppsd.trainers.optimizer_state import OPTIMIZER
from tests.trainers.conftest import Run, weights
from tests.trainers.test_launch import SCRIPT, launch


@pytest.mark.parametrize("name", ["Adafactor"])
def test_two_processes_do_what_one_does(name: str, tiny_run: Run, tmp_path: Path) -> None:
    flags = {"max_steps": 3, "optimizer_type": name}
    launch(
        SCRIPT, tiny_run.flags(tmp_path / "two", per_device_train_batch_size=2, sharding="stage1", **flags), tmp_path
    )
    tiny_run.train(tmp_path / "one", per_device_train_batch_size=4, **flags)
    one, two = (weights(tmp_path / run / "checkpoint-3") for run in ("one", "two"))
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=2e-5, rtol=1e-3, err_msg=key)
    states = [read_weights(tmp_path / run / "checkpoint-3" / OPTIMIZER) for run in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        np.testing.assert_allclose(states[1][key], value, rtol=2e-2, atol=1e-7, err_msg=key)
