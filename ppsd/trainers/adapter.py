"""The adapters of a run: built beside the models, each with its learning rate."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional

import numpy as np
import paddle

from ppsd.adapters.base import Dropout
from ppsd.adapters.lora import UP
from ppsd.adapters.network import AdapterNetwork, new_adapters
from ppsd.adapters.places import Place
from ppsd.adapters.targets import Target, find_targets, is_large
from ppsd.models.bundle import Bundle
from ppsd.trainers.adapter_export import start_from
from ppsd.trainers.arguments import ModelArguments
from ppsd.trainers.run import Run

logger = logging.getLogger(__name__)

LOW_RATE = 2e-5
"""Below it adapters learn next to nothing in the usual few thousand steps."""

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")


def add_adapter(run: Run, bundle: Bundle) -> AdapterNetwork:
    """As the flags say. Raises ValueError naming them."""
    model = run.model
    models = {part: getattr(bundle, part) for part in model.adapted_parts}
    check_block_weights(run, bundle)
    targets = [
        target
        for target in find_targets(models, model.adapter_targets)
        if block_weight(run, bundle, target.place) and not is_skipped(bundle, model.clip_skip, target.place)
    ]
    check_targets(targets, models, model)
    algorithm = str(model.network_module)
    adapters = new_adapters(targets, algorithm, model.adapter_options, model.adapter_dropout, run.args.seed)
    network = AdapterNetwork(adapters)
    if model.network_weights:
        start_from(network, model.network_weights, {target.place: target.layer for target in targets})
    trained = sum(int(p.size) for p in network.parameters())
    whole = sum(int(p.size) for layer in models.values() for p in layer.parameters())
    logger.info(
        "%s beside %d layers: %d parameters, %.2f %% of the models' %d",
        *(algorithm, len(adapters), trained, 100 * trained / whole, whole),
    )
    warn_of_low_rate(run.args.learning_rate)
    return network


def warn_of_low_rate(rate: float) -> None:
    if 0 < rate < LOW_RATE:
        logger.warning("--learning_rate %g is one for whole models; adapters usually begin with 1e-4 or more", rate)


def check_targets(targets: Sequence[Target], parts: Iterable[str], model: ModelArguments) -> None:
    """Raise ValueError for flags that ask for adapters where there would be none."""
    if not targets:
        raise ValueError("--down_lr_weight, --mid_lr_weight and --up_lr_weight leave no layer to train")
    for part in set(parts) - {target.place.part for target in targets}:
        asked = "--network_targets" if model.network_targets else f"--network_preset {model.adapter_targets.preset}"
        flag = "leave --train_text_encoder out" if part == "text_encoder" else "give --network_train_text_encoder_only"
        raise ValueError(f"{asked} has no layer in {part}: {flag}, or choose other layers")
    if model.conv_dim and not any(is_large(target.layer) for target in targets):
        raise ValueError(f"--conv_dim {model.conv_dim}: no convolution larger than 1 x 1 gets an adapter; leave it out")


def adapter_rates(run: Run, bundle: Bundle) -> dict[str, float]:
    """What to multiply `args.learning_rate` by, for each parameter of the adapters."""
    args, network = run.args, bundle.adapter
    assert isinstance(network, AdapterNetwork)
    rates = {"unet": args.unet_learning_rate, "text_encoder": args.text_encoder_learning_rate}
    found = {}
    for name, place, adapter in network.named_adapters():
        own = (rates[place.part] or 0.0) / args.learning_rate if args.learning_rate else 1.0
        own *= block_weight(run, bundle, place)
        for leaf, _ in adapter.named_parameters():
            found[f"{name}.{leaf}"] = own * (run.model.loraplus_lr_ratio if leaf == UP else 1.0)
    return found


def block_weight(run: Run, bundle: Bundle, place: Place) -> float:
    """Of the learning rate, by where in the UNet a layer is; 1 where no number stands for it, and in text encoders.

    As in kohya's sd-scripts: the first number of the way down is conv_in's, and then each layer of a block (its resnet
    and attention) has one of its own, and so has a downsampler; on the way up each layer, the last of a block with the
    upsampler. 12 of each in Stable Diffusion 1 and 2.
    """
    model = run.model
    if place.part != "unet":
        return 1.0
    if place.path.startswith("mid_block."):
        return 1.0 if model.mid_lr_weight is None else model.mid_lr_weight
    if place.path == "conv_in":
        return 1.0 if model.down_lr_weight is None else model.down_lr_weight[0]
    found = _BLOCK.match(place.path)
    if found is None:
        return 1.0
    side, block, kind, index = found.group(1), int(found.group(2)), found.group(3), int(found.group(4))
    weights: Optional[list[float]] = getattr(model, f"{side}_lr_weight")
    if weights is None:
        return 1.0
    each = _numbers_of_a_block(bundle)
    inner = each - 1 if kind.endswith("samplers") else index
    return weights[block * each + inner + (1 if side == "down" else 0)]


def check_block_weights(run: Run, bundle: Bundle) -> None:
    """Raise ValueError where there are not as many numbers as layers."""
    count = _numbers_of_a_block(bundle) * len(bundle.unet.config.block_out_channels)
    for side in ("down", "up"):
        weights = getattr(run.model, f"{side}_lr_weight")
        if weights is not None and len(weights) != count:
            raise ValueError(f"--{side}_lr_weight has {len(weights)} numbers; this UNet's {side} blocks need {count}")


def _numbers_of_a_block(bundle: Bundle) -> int:
    """Of a down block the last is its downsampler's, which the last block has not; an up block has a layer more."""
    return int(bundle.unet.config.layers_per_block) + 1


def is_skipped(bundle: Bundle, clip_skip: Optional[int], place: Place) -> bool:
    """Whether it is in a layer of the text encoder that --clip_skip passes over."""
    found = re.match(r"text_model\.encoder\.layers\.(\d+)\.", place.path)
    if place.part == "unet" or found is None:
        return False
    return int(found.group(1)) > bundle.text_encoder.config.num_hidden_layers - (clip_skip or 1)


def seed_dropout(dropout: Dropout, seeds: Any) -> None:
    """Have a batch drop out the same in every run: after its samples' seeds [B], as its noise is.

    A continued run could not go on with paddle's generator where it was: 2.6.2 does not say where that is on a CPU.
    """
    if dropout != Dropout():
        entropy = np.asarray(seeds).astype(np.uint64).tolist()
        paddle.seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
