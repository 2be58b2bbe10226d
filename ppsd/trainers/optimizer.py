"""Which weights are trained, how fast, and which of them decay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from paddle import nn
from paddle.optimizer import AdamW

NORMS = (nn.LayerNorm, nn.GroupNorm)


def trained_parameters(layer: nn.Layer, rates: Mapping[str, float]) -> list:
    """The trainable parameters of `layer`, each with its own multiple of the scheduler's learning rate.

    `rates` maps the name of a sublayer to the ratio; the others have 1.
    """
    parameters = []
    for name, parameter in layer.named_parameters():
        if not parameter.stop_gradient:
            parameter.optimize_attr["learning_rate"] = rates.get(name.split(".")[0], 1.0)
            parameters.append(parameter)
    return parameters


def undecayed(layer: nn.Layer) -> set[str]:
    """Paddle names of every bias and every weight of a normalisation layer."""
    names = {p.name for name, p in layer.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
    for sublayer in layer.sublayers(include_self=True):
        if isinstance(sublayer, NORMS) or "Norm" in type(sublayer).__name__:
            names.update(p.name for p in sublayer.parameters(include_sublayers=False))
    return names


class PortableAdamW(AdamW):
    """AdamW whose saved state goes by the layer's own parameter names ("unet.conv_in.weight_moment1_0").

    Paddle's names count the layers that the process has made ("conv2d_6.w_0"), so its files fit only a process that
    made the same layers in the same order.
    """

    def __init__(self, layer: nn.Layer, **kwargs: Any) -> None:
        self.own_names = {p.name: name for name, p in layer.named_parameters() if not p.stop_gradient}
        super().__init__(**kwargs)

    def state_dict(self) -> dict[str, Any]:
        return _rename(super().state_dict(), self.own_names)

    def set_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError when the state is of another set of weights."""
        paddle_names = {name: paddle_name for paddle_name, name in self.own_names.items()}
        saved = {match[1] for match in map(_ACCUMULATOR.match, state_dict) if match}
        wrong = sorted(saved ^ set(paddle_names))
        if wrong:
            raise ValueError(f"the optimizer state was saved for other weights: {len(wrong)} differ, e.g. {wrong[0]}")
        state = _rename(state_dict, paddle_names)
        for name, weight in state.get("master_weights", {}).items():
            weight.name = f"{name}_fp32_master_0"  # its accumulators are looked up by this name
        super().set_state_dict(state)

    load_state_dict = set_state_dict


def _rename(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`<parameter>_<accumulator>` keys, and those of the master weights, with the parameter's other name."""
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        if key == "master_weights":
            renamed[key] = {names[name]: weight for name, weight in value.items()}
            continue
        match = _ACCUMULATOR.match(key)
        renamed[names[match[1]] + match[2] if match else key] = value
    return renamed


_ACCUMULATOR = re.compile(
    r"^(.+?)((?:_fp32_master_\d+)?_(?:moment1|moment2|moment2_max|beta1_pow_acc|beta2_pow_acc)_\d+)$"
)
