"""Which weights are trained, how fast, and which of them decay."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import nn

from ppsd.adapters.base import DORA
from ppsd.models.bundle import Bundle
from ppsd.models.placeholder import AddedRows
from ppsd.trainers.adapter import adapter_rates
from ppsd.trainers.run import Run

NORMS = (nn.LayerNorm, nn.GroupNorm)


def learning_rate_ratios(run: Run, bundle: Bundle) -> dict[str, float]:
    """What to multiply `args.learning_rate` by for each trained layer, or parameter, that has a rate of its own."""
    args = run.args
    adapters = adapter_rates(run, bundle) if bundle.adapter is not None else {}
    rates = {
        "controlnet": args.asked_learning_rate,
        "unet": args.unet_learning_rate,
        "text_encoder": args.text_encoder_learning_rate,
        "embeddings": run.model.embedding_learning_rate,
    }
    found = {name: rate / args.learning_rate for name, rate in rates.items() if rate is not None and args.learning_rate}
    return {**found, **{f"adapter.{path}": rate for path, rate in adapters.items()}}


def trained_parameters(trained: Mapping[str, nn.Layer], rates: Mapping[str, float]) -> list:
    """The parameters of the trained layers, each with its own multiple of the scheduler's learning rate.

    `rates` maps the name of a layer, or LAYER.PARAMETER, to the ratio; the others have 1.
    """
    parameters = []
    for name, layer in trained.items():
        for path, parameter in layer.named_parameters():
            if not parameter.stop_gradient:  # as of layers that --clip_skip passes over
                parameter.optimize_attr["learning_rate"] = rates.get(f"{name}.{path}", rates.get(name, 1.0))
                parameters.append(parameter)
    return parameters


def undecayed(layer: nn.Layer) -> set[str]:
    """Paddle names of every bias, length (DoRA), weight of a normalisation layer, and of new tokens beside other
    weights.

    Where new tokens are all that is trained, --weight_decay is theirs.
    """
    names = {p.name for name, p in layer.named_parameters() if name.rsplit(".", 1)[-1] in ("bias", DORA)}
    for sublayer in layer.sublayers(include_self=True):
        if isinstance(sublayer, NORMS) or "Norm" in type(sublayer).__name__:
            names.update(p.name for p in sublayer.parameters(include_sublayers=False))
    new_tokens = {p.name for sub in layer.sublayers() if isinstance(sub, AddedRows) for p in sub.parameters()}
    trained = {p.name for p in layer.parameters() if not p.stop_gradient}
    return names if trained == new_tokens else names | new_tokens
