"""Which weights are trained, how fast, and which of them decay."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import nn

NORMS = (nn.LayerNorm, nn.GroupNorm)


def trained_parameters(trained: Mapping[str, nn.Layer], rates: Mapping[str, float]) -> list:
    """The parameters of the trained layers, each with its own multiple of the scheduler's learning rate.

    `rates` maps the name of a layer to the ratio; the others have 1.
    """
    parameters = []
    for name, layer in trained.items():
        for parameter in layer.parameters():
            parameter.optimize_attr["learning_rate"] = rates.get(name, 1.0)
            parameters.append(parameter)
    return parameters


def undecayed(layer: nn.Layer) -> set[str]:
    """Paddle names of every bias and every weight of a normalisation layer."""
    names = {p.name for name, p in layer.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
    for sublayer in layer.sublayers(include_self=True):
        if isinstance(sublayer, NORMS) or "Norm" in type(sublayer).__name__:
            names.update(p.name for p in sublayer.parameters(include_sublayers=False))
    return names
