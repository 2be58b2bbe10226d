"""Every flag, its default and its meaning. Names are those of the public recipes."""

import importlib.util
import logging
import math
import os
from dataclasses import dataclass, field
from typing import Any, Optional

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import IntervalStrategy

logger = logging.getLogger(__name__)


def flag(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """What is trained and how its loss is made."""

    pretrained_model_name_or_path: str = flag(
        "CompVis/stable-diffusion-v1-4", "Pipeline folder or hub name: vae, text encoder, tokenizer, unet, scheduler."
    )
    vae_name_or_path: Optional[str] = flag(None, "VAE folder or hub name; overrides the pipeline's.")
    text_encoder_name_or_path: Optional[str] = flag(None, "CLIP text encoder folder or hub name; overrides.")
    unet_name_or_path: Optional[str] = flag(
        None, "UNet folder or hub name; overrides. A .json config means a randomly initialised UNet."
    )
    tokenizer_name: Optional[str] = flag(None, "Tokenizer folder or hub name; overrides.")
    model_max_length: int = flag(77, "Tokens a caption is padded or cut to.")
    prediction_type: Optional[str] = flag(
        None, "epsilon, v_prediction or sample. Default: what the pipeline's scheduler says."
    )
    num_inference_steps: int = flag(50, "Denoising steps of a preview.")
    train_text_encoder: bool = flag(False, "Train the text encoder too.")
    noise_offset: float = flag(0.0, "Scale of offset noise (crosslabs.org, diffusion with offset noise).")
    snr_gamma: Optional[float] = flag(None, "Gamma of Min-SNR loss weights (arXiv 2303.09556); 5.0 is recommended.")
    input_perturbation: float = flag(0.0, "Scale of input perturbation (arXiv 2301.11706); 0.1 is recommended.")

    def paths(self) -> list[Optional[str]]:
        """What is read."""
        return [
            self.pretrained_model_name_or_path,
            self.vae_name_or_path,
            self.text_encoder_name_or_path,
            self.unet_name_or_path,
            self.tokenizer_name,
        ]


@dataclass
class DataArguments:
    """What the stream reads."""

    file_list: str = flag(
        "./data/filelist/train.filelist.list", "A .filelist.list (filelists, optionally weighted) or one .filelist."
    )
    data_format: str = flag(
        "auto",
        "What the parts are: laion400m, laion_aes, webdataset, parquet, image_folder, latents, or auto (by content).",
    )
    num_records: Optional[int] = flag(
        None, "Records an epoch, for --num_train_epochs and epoch reports. Default: the stream is endless."
    )
    buffer_size: int = flag(100, "Undecoded records a lane shuffles at a time. Order is seeded, so any size repeats.")
    shuffle_every_n_samples: int = flag(
        5, "0: the records of a part keep their order. Any other value: each window of --buffer_size is shuffled whole."
    )
    shuffle_buffer_mb: float = flag(256.0, "MiB of undecoded records that the lanes of all devices hold at most.")
    interpolation: str = flag(
        "lanczos", "nearest, bilinear, bicubic, lanczos, box, hamming, area (faster) or lanczos_simd (pip: ppsd[simd])."
    )
    scaled_jpeg: bool = flag(False, "Decode JPEGs of twice the size and more at a reduced scale: faster, less exact.")
    num_lanes: Optional[int] = flag(
        None, "Parallel lanes of the stream, a multiple of the devices. The order depends on it. Default: by the data."
    )
    center_crop: bool = flag(False, "Crop the centre instead of a random place.")
    random_flip: bool = flag(False, "Mirror half of the images.")
    caption_dropout_rate: float = flag(0.1, "Share of captions replaced by the empty one (for guidance).")
    caption_rule: str = flag("first", "Of several captions a record: first, random, longest or shortest.")
    image_column: Optional[str] = flag(
        None, "Column of the image in webdataset, parquet or folder data. Default: the usual."
    )
    caption_column: Optional[str] = flag(None, "Column of the caption there. Default: the usual ones.")
    filter: Optional[str] = flag(
        None, 'Which records are used, e.g. "width>=512 and pwatermark<0.8". The others are counted by condition.'
    )
    enable_bucket: bool = flag(False, "Crop to the nearest of several aspect ratios instead of to squares.")
    min_bucket_reso: int = flag(256, "Shortest side of a bucket, in pixels.")
    max_bucket_reso: int = flag(1024, "Longest side of a bucket, in pixels.")
    bucket_reso_steps: int = flag(64, "Sides of buckets are multiples of it, which is a multiple of 8.")
    bucket_no_upscale: bool = flag(False, "Small images go to buckets of their own size instead of being enlarged.")
    check_data: str = flag("quick", "Before training: quick (a sample), full (every record) or off.")
    data_cache_dir: Optional[str] = flag(None, "Folder that keeps parts read from URLs. Default: they are not kept.")
    data_cache_gb: float = flag(20.0, "Size limit of --data_cache_dir; the parts used longest ago are deleted.")


@dataclass
class SDTrainingArguments(TrainingArguments):
    """paddlenlp's TrainingArguments and what ppsd adds."""

    do_train: bool = flag(True, "False: check flags, data and models, and stop before the first step.")
    resolution: int = flag(512, "Side of the square training images, a multiple of the VAE's factor (8).")
    overwrite_output_dir: bool = flag(False, "Delete the checkpoints of an earlier run in --output_dir and start over.")
    resume_from_checkpoint: Optional[str] = flag(
        None, "A checkpoint folder, latest, or none. Default: the newest of --output_dir, if there is one."
    )
    ignore_data_skip: bool = flag(False, "When continuing: start the data over instead of where it stopped.")
    disable_tqdm: bool = flag(False, "No progress bar.")
    optim: str = flag("adamw", "Only adamw so far.")
    device: Optional[str] = flag(None, "gpu, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")
    report_to: Optional[list[str]] = flag(["visualdl"], "Where scalars and pictures go: visualdl, or none.")
    image_logging_steps: int = flag(1000, "Draw previews every so many steps; -1 never.")
    validation_prompts: Optional[list[str]] = flag(
        None, "Prompts of the previews. Default: the first batch's captions."
    )
    guidance_scale: float = flag(7.5, "Guidance of the previews.")
    use_ema: bool = flag(False, "Keep an average of the UNet's weights, for previews and the exported pipeline.")
    ema_decay: float = flag(0.9999, "Decay of the average (it warms up from 0.18).")
    enable_xformers_memory_efficient_attention: bool = flag(False, "Paddle's memory-efficient attention (GPU).")
    fused_linear: bool = flag(False, "Use paddle.incubate.nn.FusedLinear for every linear layer (GPU).")
    on_save_error: str = flag("stop", "A checkpoint that cannot be written: stop, or continue (tried again later).")
    only_save_updated_model: bool = flag(True, "Checkpoints hold only trained weights; False: the whole pipeline.")
    unet_learning_rate: Optional[float] = flag(None, "Learning rate of the UNet. Default: --learning_rate.")
    text_encoder_learning_rate: Optional[float] = flag(None, "Of the text encoder. Default: --learning_rate.")
    on_nan: str = flag(
        "stop", "At a NaN or infinite loss or gradient: stop, or skip the update (10 in a row stop); names the records."
    )
    data_timeout: float = flag(900.0, "End with code 76 after so many seconds without a batch; 0 never.")
    step_timeout: float = flag(
        1800.0, "The same without progress of a step; an hour for saving, previews, the first step."
    )

    def __post_init__(self) -> None:
        self.report_to = [{"custom_visualdl": "visualdl"}.get(name, name) for name in self.report_to or ["none"]]
        if self.device is None:
            self.device = paddle.get_device().split(":")[0]
        self.asked_sharding = str(self.sharding).split()  # the base forgets it where there is one process
        super().__post_init__()
        if self.unet_learning_rate is None:
            self.unet_learning_rate = self.learning_rate
        if self.text_encoder_learning_rate is None:
            self.text_encoder_learning_rate = self.learning_rate
        # the rate that the scheduler schedules and the log shows
        self.learning_rate: float = self.unet_learning_rate or self.text_encoder_learning_rate
        self.restart_data = self.ignore_data_skip
        self.ignore_data_skip = True  # the base must not drain batches: ppsd's stream goes on at its own position

    def to_dict(self) -> dict[str, Any]:
        """For logs and files, which get no secrets."""
        return {name: value for name, value in super().to_dict().items() if name not in SECRETS}


SECRETS = ("wandb_api_key",)

RECIPE_VARIABLES = {
    "FLAG_USE_EMA": "use_ema",
    "FLAG_RECOMPUTE": "recompute",
    "FLAG_XFORMERS": "enable_xformers_memory_efficient_attention",
    "FLAG_FUSED_LINEAR": "fused_linear",
}


def recipe_defaults() -> dict[str, bool]:
    """Defaults that the public recipe's environment variables set; a flag on the command line overrides them."""
    values = {name: os.environ[name] for name in RECIPE_VARIABLES if name in os.environ}
    return {RECIPE_VARIABLES[name]: _is_true(name, value) for name, value in values.items()}


def _is_true(name: str, value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "y", "t", "on"):
        return True
    if value.lower() in ("0", "false", "no", "n", "f", "off", ""):
        return False
    raise ValueError(f"{name} is {value!r}; it must be 0 or 1")


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
    if training.max_steps <= 0 and data.num_records is None:
        raise ValueError(
            "a stream has no known length: give --max_steps, or --num_records (an epoch's) with --num_train_epochs"
        )
    if training.max_steps <= 0 and not 0 < training.num_train_epochs < math.inf:
        raise ValueError(f"--num_train_epochs is {training.num_train_epochs}; it must be above 0")
    _check_reports(training)
    _check_precision_and_sharding(training)


def _check_reports(training: SDTrainingArguments) -> None:
    packages = {"visualdl": "visualdl", "tensorboard": "tensorboardX", "wandb": "wandb"}
    for name in training.report_to or []:
        if name not in packages:
            raise ValueError(f"--report_to {name}: known are {', '.join(packages)} and none")
        if importlib.util.find_spec(packages[name]) is None:
            raise ValueError(f"--report_to {name} needs a package that is not installed: pip install {packages[name]}")


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
    "optim": ("adamw",),
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
    "weight_decay": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
}

# Flags of paddlenlp's TrainingArguments that this trainer cannot honour: not in its help, and refused.
MEANINGLESS = frozenset(
    """
    bf16_full_eval data_parallel_config dataloader_drop_last distributed_dataloader do_eval do_export do_predict
    enable_auto_parallel eval_accumulation_steps eval_steps evaluation_strategy force_reshard_pp fp16_full_eval
    greater_is_better hybrid_parallel_topo_order ignore_save_lr_and_optim label_names lazy_data_processing
    load_best_model_at_end load_sharded_model log_on_each_node max_evaluate_steps metric_for_best_model
    minimum_eval_times no_cuda past_index per_device_eval_batch_size pipeline_parallel_config
    pipeline_parallel_degree prediction_loss_only remove_unused_columns save_sharded_model sep_parallel_degree
    tensor_parallel_config tensor_parallel_degree to_static unified_checkpoint unified_checkpoint_config
    use_expert_parallel
    """.split()  # noqa: SIM905  a list of words
)
