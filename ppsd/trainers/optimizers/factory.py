"""The optimizer that the flags ask for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Callable

import paddle
from paddle.optimizer import AdamW, Momentum
from paddle.optimizer.lr import LRScheduler
from paddle.regularizer import L2Decay

from ppsd.trainers.arguments.training import SDTrainingArguments
from ppsd.trainers.optimizers.adafactor import Adafactor
from ppsd.trainers.optimizers.adamw_8bit import AdamW8bit
from ppsd.trainers.optimizers.choices import MEANINGS, optimizer_options
from ppsd.trainers.optimizers.lion import Lion, Lion8bit
from ppsd.trainers.optimizers.state_size import state_bytes

logger = logging.getLogger(__name__)

_IN_TENSORS = {"AdamW8bit": AdamW8bit, "Lion": Lion, "Lion8bit": Lion8bit, "Adafactor": Adafactor}


def make_optimizer(
    args: SDTrainingArguments,
    parameters: Sequence[paddle.Tensor],
    lr_scheduler: LRScheduler,
    apply_decay: Callable[[str], bool],
) -> Any:
    """`args.optimizer_type` with `args.optimizer_args`, which go before --weight_decay and --adam_*.

    apply_decay: whether the weight of that paddle name decays. Clips nothing: the gradient judge does.
    """
    name = str(args.optimizer_type)
    if name != "AdamW":
        shapes = [parameter.shape for parameter in parameters]
        sizes = [state_bytes(kind, shapes) / 1e9 for kind in (name, "AdamW")]
        logger.info("optimizer %s: %s; %.3f GB of state, AdamW's would be %.3f GB", name, MEANINGS[name], *sizes)
    options = optimizer_options(name, args.optimizer_args or [])
    decay = float(options.pop("weight_decay", args.weight_decay))
    if name in ("AdamW", "AdamW8bit"):
        options.setdefault("betas", (args.adam_beta1, args.adam_beta2))
        options.setdefault("eps", args.adam_epsilon)
    if name in _IN_TENSORS:
        return _IN_TENSORS[name](
            lr_scheduler, parameters, weight_decay=decay, apply_decay_param_fun=apply_decay, **options
        )
    half = args.fp16_opt_level == "O2"
    if name == "SGDNesterov":
        return _sgd(lr_scheduler, parameters, decay, apply_decay, half, options.get("momentum", 0.9))
    beta1, beta2 = options["betas"]
    return AdamW(
        learning_rate=lr_scheduler,
        parameters=parameters,
        apply_decay_param_fun=apply_decay,
        weight_decay=decay,
        multi_precision=half,
        beta1=beta1,
        beta2=beta2,
        epsilon=options["eps"],
    )


def _sgd(
    lr_scheduler: LRScheduler,
    parameters: Sequence[paddle.Tensor],
    decay: float,
    apply_decay: Callable[[str], bool],
    half: bool,
    momentum: float,
) -> Momentum:
    """Its decay is added to the gradient (L2), as in torch's SGD; paddle knows exceptions by the weight's own."""
    for parameter in parameters:
        if not apply_decay(parameter.name):
            parameter.regularizer = L2Decay(0.0)
    return Momentum(
        learning_rate=lr_scheduler,
        momentum=momentum,
        parameters=list(parameters),
        use_nesterov=True,
        weight_decay=decay,
        multi_precision=half,
    )
