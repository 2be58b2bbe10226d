"""The cases of tests/fixtures/lycoris: what LyCORIS makes of given factors, and ppsd's layers and adapters for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle import nn

from ppsd.adapters.algorithms import adapter_of
from ppsd.adapters.attach import attach
from ppsd.adapters.base import Adapter

compat.apply()

FOLDER = Path(__file__).parents[1] / "fixtures" / "lycoris"
DOCUMENT: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
CASES: dict[str, Any] = DOCUMENT["cases"]
ARRAYS = load_file(FOLDER / "cases.safetensors")


def arrays(owner: str) -> dict[str, np.ndarray]:
    """Those of a case or layer, or of one of their groups."""
    return {name[len(owner) + 1 :]: value for name, value in ARRAYS.items() if name.startswith(f"{owner}.")}


def layer_of(case: str) -> nn.Layer:
    """As the case's, frozen."""
    described = DOCUMENT["layers"][CASES[case]["layer"]]
    own = arrays(described["weight"])
    out, within, *kernel = described["shape"]
    if kernel:
        layer = nn.Conv2D(within, out, kernel, described["stride"], described["padding"])
    else:
        layer = nn.Linear(within, out)
    layer.weight.set_value(own["weight"] if kernel else own["weight"].T)
    layer.bias.set_value(own["bias"])
    for parameter in layer.parameters():
        parameter.stop_gradient = True
    return layer


def attached_case(case: str) -> tuple[nn.Layer, Adapter]:
    """The layer with an adapter of the case's factors."""
    layer = layer_of(case)
    adapter = adapter_of(arrays(f"{case}.factors"), DOCUMENT["layers"][CASES[case]["layer"]]["shape"])
    attach(layer, adapter)
    return layer, adapter


def inputs(case: str) -> tuple[paddle.Tensor, paddle.Tensor]:
    """x, and the gradient of the output."""
    own = arrays(CASES[case]["layer"])
    return paddle.to_tensor(own["x"], stop_gradient=False), paddle.to_tensor(own["g"])
