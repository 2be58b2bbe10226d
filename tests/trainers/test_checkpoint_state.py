"""What a checkpoint holds comes back exactly: optimizer, random states, loss scaler; and nothing of it is a pickle."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base import core

from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.models.saving import read_weights
from ppsd.trainers.optimizer_state import OPTIMIZER, OptimizerState, create_accumulators, load_optimizer, own_state
from ppsd.trainers.run_state import load_scaler, random_state, read_state, scaler_numbers, set_random_state
from tests.trainers.conftest import Run, losses


def layer_and_optimizer(half: bool = False, seed: int = 0) -> tuple[paddle.nn.Layer, Any]:
    paddle.seed(seed)
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.Linear(2, 1))
    if half:
        layer.to(dtype="bfloat16")
    rate = paddle.optimizer.lr.StepDecay(0.1, step_size=2)
    return layer, paddle.optimizer.AdamW(rate, parameters=layer.parameters(), multi_precision=half)


def step(layer: paddle.nn.Layer, optimizer: Any) -> None:
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


def test_the_optimizer_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    layer, first = layer_and_optimizer()
    step(layer, first)
    OptimizerState(first, layer, sharded=False).write(tmp_path)
    again, second = layer_and_optimizer(seed=1)
    again.set_state_dict(layer.state_dict())
    load_optimizer(second, again, SafetensorsFile(tmp_path / OPTIMIZER))
    for _ in range(3):
        step(layer, first)
        step(again, second)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), again.state_dict()[name].numpy())


def test_the_state_goes_by_the_weights_names(tmp_path: Path) -> None:
    layer, optimizer = layer_and_optimizer()
    step(layer, optimizer)
    OptimizerState(optimizer, layer, sharded=False).write(tmp_path)
    saved = read_weights(tmp_path / OPTIMIZER)
    kinds = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    weights = ("0.weight", "0.bias", "1.weight", "1.bias")
    assert saved.keys() == {f"{weight}.{kind}" for weight in weights for kind in kinds}
    assert saved["0.weight.moment1"].shape == (3, 2)
    np.testing.assert_allclose(saved["1.bias.beta1_pow_acc"], 0.9**2, rtol=1e-6)
    np.testing.assert_allclose(saved["1.bias.moment1"], 0.1, rtol=1e-6)  # (1 - beta1) x a gradient of 1


def test_half_precision_state_goes_round(tmp_path: Path) -> None:
    """AMP O2 keeps float32 master weights whose accumulators have names of their own."""
    layer, first = layer_and_optimizer(half=True)
    for p in layer.parameters():
        create_accumulators(first, p)
    state = own_state(first, {p.name: name for name, p in layer.named_parameters()})
    for value in state.values():
        value.set_value(paddle.rand(value.shape))
    OptimizerState(first, layer, sharded=False).write(tmp_path)
    again, second = layer_and_optimizer(half=True, seed=1)
    load_optimizer(second, again, SafetensorsFile(tmp_path / OPTIMIZER))
    restored = own_state(second, {p.name: name for name, p in again.named_parameters()})
    assert restored.keys() == state.keys()
    assert "0.weight.master_weight" in state
    for name, value in state.items():
        assert restored[name].dtype == paddle.float32
        np.testing.assert_array_equal(restored[name].numpy(), value.numpy(), err_msg=name)
    again, third = layer_and_optimizer(half=True, seed=1)
    load_optimizer(third, again, SafetensorsFile(tmp_path / OPTIMIZER), masters_only=True)
    assert len(third._master_weights) == 4
    assert not third._accumulators


def test_the_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    layer, optimizer = layer_and_optimizer()
    OptimizerState(optimizer, layer, sharded=False).write(tmp_path)  # before the first step: no tensors
    load_optimizer(optimizer, layer, SafetensorsFile(tmp_path / OPTIMIZER))
    layer[0].bias.stop_gradient = True
    with pytest.raises(ValueError, match=r"saved for other weights: 1 differ, e.g. 0.bias"):
        load_optimizer(optimizer, layer, SafetensorsFile(tmp_path / OPTIMIZER))


def test_random_states_go_round_through_json() -> None:
    random.seed(3)
    np.random.seed(4)
    paddle.seed(5)
    random.gauss(0, 1)
    np.random.standard_normal()
    state = json.loads(json.dumps(random_state()))

    def draws() -> list[Any]:
        own = [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()]
        return [*own, paddle.rand([2]).tolist(), core.default_cpu_generator().random()]

    first = draws()
    assert draws() != first
    set_random_state(state)
    assert draws() == first


def test_a_random_state_of_other_devices_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    state = random_state()
    random.seed(1)
    paddle.seed(1)
    before = paddle.get_rng_state()[0].__getstate__()
    for other in ({"device": "gpu"}, {"devices": state["devices"] * 2}, {"cpu": [1, 2, 3, "4", 5]}):
        with caplog.at_level("INFO", logger="ppsd"):
            set_random_state({**state, **other})
        assert "is not restored" in caplog.text
        assert paddle.get_rng_state()[0].__getstate__() == before
        assert random.getstate()[1] == tuple(state["python"][1])
        caplog.clear()


def enabled_scaler(scale: float, steps: int) -> paddle.amp.GradScaler:
    """On the CPU paddle makes only one that does nothing."""
    scaler = paddle.amp.GradScaler(enable=False)
    scaler._enable = True
    every = {"incr_every_n_steps": 7, "decr_every_n_nan_or_inf": 2, "incr_count": steps, "decr_count": 1}
    ratios = {"incr_ratio": 2.0, "decr_ratio": 0.5, "use_dynamic_loss_scaling": True}
    scaler.load_state_dict({"scale": np.array([scale], "float32"), **every, **ratios})
    return scaler


def test_the_loss_scaler_goes_round_through_json() -> None:
    first, second = enabled_scaler(1024.0, 3), enabled_scaler(65536.0, 0)
    numbers = json.loads(json.dumps(scaler_numbers(first)))
    load_scaler(second, None)  # a checkpoint of a run without one
    assert float(second._scale) == 65536.0
    load_scaler(second, numbers)
    assert (float(second._scale), second._incr_count, second._incr_every_n_steps) == (1024.0, 3, 7)
    assert scaler_numbers(second) == numbers


def test_nothing_is_pickled(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle")

    for module, name in ((paddle, "save"), (paddle, "load"), (pickle, "load"), (pickle, "dump")):
        monkeypatch.setattr(module, name, refused)
    tiny_run.train(tmp_path, max_steps=3, use_ema=True, train_text_encoder=True)
    again = tiny_run.train(tmp_path, max_steps=4, use_ema=True, train_text_encoder=True)
    assert len(losses(again)) == 4
    suffixes = {path.suffix for path in (tmp_path / "checkpoint-3").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ""}


def test_the_state_says_what_made_it(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=2, save_steps=2)
    state = read_state(tmp_path / "checkpoint-2")
    assert state["step"] == 2
    assert state["versions"]["paddle"] == paddle.__version__
    assert (state["flags"]["learning_rate"], state["flags"]["seed"], state["flags"]["resolution"]) == (1e-3, 7, 64)
    assert state["schedule"]["last_epoch"] == 2
    assert len(state["random"]) == 1
    (tmp_path / "checkpoint-2" / "state.json").write_text('{"version": 2}')
    with pytest.raises(ValueError, match=r"state\.json has version 2"):
        read_state(tmp_path / "checkpoint-2")


def test_losses_that_were_not_logged_yet_are_kept(tiny_run: Run, tmp_path: Path) -> None:
    """Logged are the means of steps 1 to 4 and 5 to 6; the run is cut after step 3."""
    whole = tiny_run.train(tmp_path / "whole", logging_steps=4)
    each = losses(tiny_run.train(tmp_path / "each"))
    tiny_run.train(tmp_path / "cut", logging_steps=4)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    again = tiny_run.train(tmp_path / "cut", logging_steps=4)
    assert losses(again) == losses(whole)
    np.testing.assert_allclose(losses(whole), [np.mean(each[:4]), np.mean(each[4:])], rtol=1e-6)


def test_the_mean_of_all_losses_is_of_the_steps_made(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = tiny_run.train(tmp_path)
    assert again.state.log_history[-1]["train_loss"] == pytest.approx(np.mean(losses(again)[3:]), rel=1e-5)
