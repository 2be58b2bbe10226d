"""Which weights are trained, how fast, and which of them decay."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import nn

from ppsd.models.placeholder import AddedRows
from ppsd.trainers.run import Run

NORMS = (nn.LayerNorm, nn.GroupNorm)


def learning_rate_ratios(run: Run) -> dict[str, float]:
    """What to multiply `args.learning_rate` by for each trained layer that has a rate of its own."""
    args = run.args
    rates = {
        "unet": args.unet_learning_rate,
        "text_encoder": args.text_encoder_learning_rate,
        "embeddings": run.model.embedding_learning_rate,
    }
    return {name: rate / args.learning_rate for name, rate in rates.items() if rate is not None and args.learning_rate}


def trained_parameters(trained: Mapping[str, nn.Layer], rates: Mapping[str, float]) -> list:
    """The parameters of the trained layers, each with its own multiple of the scheduler's learning rate.

    `rates` maps the name of a layer to the ratio; the others have 1.
    """
    parameters = []
    for name, layer in trained.items():
        for parameter in layer.parameters():
            if not parameter.stop_gradient:  # as of layers that --clip_skip passes over
                parameter.optimize_attr["learning_rate"] = rates.get(name, 1.0)
                parameters.append(parameter)
    return parameters


def undecayed(layer: nn.Layer) -> set[str]:
    """Paddle names of every bias, every weight of a normalisation layer, and of new tokens beside other weights.

    Where new tokens are all that is trained, --weight_decay is theirs.
    """
    names = {p.name for name, p in layer.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
    for sublayer in layer.sublayers(include_self=True):
        if isinstance(sublayer, NORMS) or "Norm" in type(sublayer).__name__:
            names.update(p.name for p in sublayer.parameters(include_sublayers=False))
    new_tokens = {p.name for sub in layer.sublayers() if isinstance(sub, AddedRows) for p in sub.parameters()}
    trained = {p.name for p in layer.parameters() if not p.stop_gradient}
    return names if trained == new_tokens else names | new_tokens
