"""Values that cannot work, refused before anything is loaded."""

from __future__ import annotations

import importlib.util
import logging
import math

from paddlenlp.trainer.trainer_utils import IntervalStrategy

from ppsd.trainers.arguments.data import DataArguments
from ppsd.trainers.arguments.model import ModelArguments
from ppsd.trainers.arguments.training import SDTrainingArguments

logger = logging.getLogger(__name__)


def check_arguments(model: ModelArguments, data: DataArguments, training: SDTrainingArguments) -> None:
    """Raise ValueError, naming the flag, for values that cannot work."""
    for arguments in (model, data, training):
        for name, allowed in _CHOICES.items():
            value = getattr(arguments, name, None)
            value = getattr(value, "value", value)  # of an enum
            if value is not None and value not in allowed:
                raise ValueError(f"--{name} is {value}; it must be {' or '.join(allowed)}")
        for name, least in _AT_LEAST.items():
            value = getattr(arguments, name, None)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
    if model.snr_gamma == 0:
        raise ValueError("--snr_gamma is 0.0; it must be above 0")
    if training.save_strategy == IntervalStrategy.STEPS and training.save_steps <= 0:
        raise ValueError(
            f"--save_steps is {training.save_steps}; it must be above 0 (--save_strategy no saves nothing)"
        )
    if training.max_steps <= 0 and not 0 < training.num_train_epochs < math.inf:
        raise ValueError(f"--num_train_epochs is {training.num_train_epochs}; it must be above 0")
    model.check_text()
    model.check_placeholder()
    model.check_adapter()
    data.check_folder()
    data.check_captions()
    data.check_cache()
    training.check_optimizers()
    training.check_validation()
    _check_reports(training)
    _check_precision_and_sharding(training)
    if model.placeholder_token:
        _check_new_tokens(model, training)
    if model.network_module:
        _check_adapter(model, training)
    _check_text_encoder(model, data, training)


def _check_reports(training: SDTrainingArguments) -> None:
    packages = {"visualdl": "visualdl", "tensorboard": "tensorboardX", "wandb": "wandb"}
    for name in training.report_to or []:
        if name not in packages:
            raise ValueError(f"--report_to {name}: known are {', '.join(packages)} and none")
        if importlib.util.find_spec(packages[name]) is None:
            raise ValueError(f"--report_to {name} needs a package that is not installed: pip install {packages[name]}")


def _check_new_tokens(model: ModelArguments, training: SDTrainingArguments) -> None:
    if model.train_text_encoder and not training.only_save_updated_model:
        raise ValueError(
            "--only_save_updated_model False: a checkpoint has no place for a text encoder with the new tokens beside"
            " the one that is trained; leave the flag out (the exported pipeline has the tokens)"
        )
    if model.embedding_learning_rate and not training.learning_rate:
        raise ValueError("--embedding_learning_rate needs a --learning_rate above 0, whose schedule it follows")
    own_rate = model.embedding_learning_rate not in (None, training.asked_learning_rate)
    if own_rate and "relative_step=True" in (training.optimizer_args or []):
        raise ValueError(
            "--optimizer_args relative_step=True: all weights have one step size; leave it out, or"
            " --embedding_learning_rate"
        )


def _check_adapter(model: ModelArguments, training: SDTrainingArguments) -> None:
    if not training.only_save_updated_model:
        raise ValueError("--only_save_updated_model False: with --network_module a checkpoint holds the adapter alone")
    if model.network_train_text_encoder_only and training.unet_learning_rate not in (0, training.asked_learning_rate):
        raise ValueError("--unet_learning_rate: --network_train_text_encoder_only leaves the UNet alone; leave it out")
    weights = (model.down_lr_weight, model.mid_lr_weight, model.up_lr_weight)
    own = model.loraplus_lr_ratio != 1 or any(value is not None for value in weights)
    if own and "relative_step=True" in (training.optimizer_args or []):
        raise ValueError(
            "--optimizer_args relative_step=True: all weights then have one step size; leave it out, or"
            " --down_lr_weight, --mid_lr_weight, --up_lr_weight and --loraplus_lr_ratio"
        )


def _check_text_encoder(model: ModelArguments, data: DataArguments, training: SDTrainingArguments) -> None:
    if training.text_encoder_learning_rate not in (0, training.asked_learning_rate) and not model.train_text_encoder:
        raise ValueError(
            "--text_encoder_learning_rate: the text encoder is not trained; add --train_text_encoder, or leave it out"
        )
    changing = {"text_encoder": model.train_text_encoder, "embeddings": model.placeholder_token}
    found = [name for name, trained in changing.items() if trained]
    if data.cache_text_encoder_outputs and found:
        raise ValueError(f"--cache_text_encoder_outputs: this run trains {found[0]}, so they do not stay the same")


def _check_precision_and_sharding(training: SDTrainingArguments) -> None:
    on_cpu = str(training.device).startswith("cpu")
    if training.bf16 and training.fp16:
        raise ValueError("--bf16 and --fp16 exclude each other")
    if (training.bf16 or training.fp16) and on_cpu:
        raise ValueError("--bf16 and --fp16 need a GPU: paddle's CPU kernels compute in float32. Leave them out here")
    if training.amp_master_grad and training.fp16:
        raise ValueError("--amp_master_grad with --fp16 clips gradients before they are unscaled; use --bf16 with it")
    if (training.bf16 or training.fp16) and training.fp16_opt_level == "O2" and training.sharding:
        raise ValueError(
            "--fp16_opt_level O2 with --sharding: no process has all weights in float32, and averages and saved weights"
            " would be rounded; use O1, or leave --sharding out"
        )
    _check_sharding(training.asked_sharding, bool(training.sharding), on_cpu)
    for word in ("split_param", "enable_stage1_tensor_fusion"):
        if word in str(training.sharding_parallel_config).split():
            raise ValueError(
                f"--sharding_parallel_config {word}: the optimizer's state is then no longer by weights, as checkpoints"
                " have it; leave the word out"
            )


def _check_sharding(asked: list[str], used: bool, on_cpu: bool) -> None:
    """asked: the words of --sharding; used: whether there are processes that share."""
    unknown = set(asked) - {"stage1", "stage2", "stage3", "offload"}
    if unknown:
        raise ValueError(f"--sharding {unknown.pop()}: known are stage1 and stage2")
    if "stage3" in asked:
        raise ValueError("--sharding stage3 keeps no whole weights to average, preview or save; use stage1 or stage2")
    if "offload" in asked:
        raise ValueError("--sharding offload: paddlenlp 2.8.1 says that it does not support it; leave the word out")
    if "stage2" in asked and on_cpu:
        raise ValueError("--sharding stage2 needs GPUs; stage1 works on the CPU too")
    if asked and not used:
        logger.warning("--sharding %s: nobody to share with, so this process keeps all of the state", asked[0])


_CHOICES = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "check_data": ("quick", "full", "off"),
    "fp16_opt_level": ("O1", "O2"),
    "on_save_error": ("stop", "continue"),
    "on_nan": ("stop", "skip"),
}
_AT_LEAST = {
    "snr_gamma": 0,
    "noise_offset": 0,
    "input_perturbation": 0,
    "num_inference_steps": 1,
    "model_max_length": 3,
    "guidance_scale": 0,
    "resolution": 8,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "seed": 0,
    "data_timeout": 0,
    "step_timeout": 0,
    "learning_rate": 0,
    "unet_learning_rate": 0,
    "text_encoder_learning_rate": 0,
    "embedding_learning_rate": 0,
    "weight_decay": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
}
