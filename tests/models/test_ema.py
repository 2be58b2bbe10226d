from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.models.ema import EMA
from ppsd.models.saving import spec_of


def layer_of(value: float) -> paddle.nn.Layer:
    layer = paddle.nn.Linear(2, 1)
    for p in layer.parameters():
        p.set_value(paddle.full(p.shape, value))
    return layer


def test_decay_warms_up_as_the_formula_says() -> None:
    layer = layer_of(0.0)
    ema = EMA(layer, decay=0.5)
    expected = 0.0
    for n in range(1, 12):
        layer.weight.set_value(paddle.full([2, 1], float(n)))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    np.testing.assert_allclose(ema.average["weight"].numpy(), expected, rtol=1e-6)


def test_applied_swaps_and_restores_even_after_an_error() -> None:
    layer = layer_of(1.0)
    ema = EMA(layer)
    layer.weight.set_value(paddle.full([2, 1], 5.0))
    seen = []
    with suppress(RuntimeError), ema.applied():
        seen.append(float(layer.weight.max()))
        raise RuntimeError
    assert seen == [1.0]
    assert float(layer.weight.max()) == 5.0


def test_frozen_weights_are_left_out() -> None:
    layer = layer_of(1.0)
    layer.bias.stop_gradient = True
    assert set(EMA(layer).average) == {"weight"}


def test_state_goes_round_and_counts_on(tmp_path: Path) -> None:
    layer = layer_of(0.0)
    first, second = EMA(layer, decay=0.9), EMA(layer_of(3.0), decay=0.9)
    layer.weight.set_value(paddle.full([2, 1], 2.0))
    first.update()
    specs = {name: spec_of(value) for name, value in first.state_dict().items()}
    write_safetensors(tmp_path / "ema", specs, lambda name: first.average[name].numpy(), {"ema_updates": "1"})
    second.load(SafetensorsFile(tmp_path / "ema"))
    second.layer.weight.set_value(paddle.full([2, 1], 7.0))
    layer.weight.set_value(paddle.full([2, 1], 7.0))
    first.update()
    second.update()
    np.testing.assert_array_equal(first.average["weight"].numpy(), second.average["weight"].numpy())


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "ema", {"weight": Spec("F32", (3, 1))}, lambda name: np.zeros((3, 1), np.float32))
    with pytest.raises(ValueError, match="does not say how many EMA updates"):
        EMA(layer_of(0.0)).load(SafetensorsFile(tmp_path / "ema"))
    specs, count = {"weight": Spec("F32", (3, 1))}, {"ema_updates": "1"}
    write_safetensors(tmp_path / "ema", specs, lambda name: np.zeros((3, 1), np.float32), count)
    with pytest.raises(ValueError, match="does not fit"):
        EMA(layer_of(0.0)).load(SafetensorsFile(tmp_path / "ema"))
    with pytest.raises(ValueError, match="--ema_decay"):
        EMA(layer_of(0.0), decay=1.5)
