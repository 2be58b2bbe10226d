"""paddlenlp's flags and those that ppsd adds to them."""

from dataclasses import dataclass
from typing import Any, Optional

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import SchedulerType

from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.arguments.optimizers import OptimizerArguments
from ppsd.trainers.arguments.validation import ValidationArguments

SECRETS = ("wandb_api_key",)

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


@dataclass
class SDTrainingArguments(OptimizerArguments, ValidationArguments, TrainingArguments):
    """paddlenlp's TrainingArguments and what ppsd adds."""

    do_train: bool = flag(True, "False: check flags, data and models, and stop before the first step.")
    resolution: int = flag(512, "Side of the square training images, a multiple of the VAE's factor (8).")
    overwrite_output_dir: bool = flag(False, "Delete the checkpoints of an earlier run in --output_dir and start over.")
    resume_from_checkpoint: Optional[str] = flag(
        None, "A checkpoint folder, latest, or none. Default: the newest of --output_dir, if there is one."
    )
    ignore_data_skip: bool = flag(False, "When continuing: start the data over instead of where it stopped.")
    disable_tqdm: bool = flag(False, "No progress bar.")
    device: Optional[str] = flag(None, "gpu, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")
    report_to: Optional[list[str]] = flag(
        ["visualdl"], "Where the log goes: visualdl (with pictures), tensorboard, wandb, or none."
    )
    use_ema: bool = flag(
        False,
        "Keep an average of the trained weights for previews and the export: of the UNet, else of the adapters, the new"
        " tokens, or the ControlNet (not of a text encoder, or a decoder, that is trained beside them).",
    )
    ema_decay: float = flag(0.9999, "Decay of the average (it warms up from 0.18).")
    enable_xformers_memory_efficient_attention: bool = flag(False, "Paddle's memory-efficient attention (GPU).")
    fused_linear: bool = flag(False, "Use paddle.incubate.nn.FusedLinear for every linear layer (GPU).")
    on_save_error: str = flag("stop", "A checkpoint that cannot be written: stop, or continue (tried again later).")
    only_save_updated_model: bool = flag(True, "Checkpoints hold only trained weights; False: the whole pipeline.")
    unet_learning_rate: Optional[float] = flag(None, "Learning rate of the UNet. Default: --learning_rate.")
    text_encoder_learning_rate: Optional[float] = flag(
        None, "Learning rate of the text encoder. Default: --learning_rate."
    )
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
        schedules = [kind.value for kind in SchedulerType]
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) not in schedules:
            raise ValueError(f"--lr_scheduler_type {self.lr_scheduler_type}: it must be {' or '.join(schedules)}")
        super().__post_init__()
        self.asked_learning_rate = self.learning_rate
        if self.unet_learning_rate is None:
            self.unet_learning_rate = self.learning_rate
        if self.text_encoder_learning_rate is None:
            self.text_encoder_learning_rate = self.learning_rate
        # the rate that the scheduler schedules and the log shows
        rates = (self.unet_learning_rate, self.text_encoder_learning_rate, self.asked_learning_rate)
        self.learning_rate: float = next(filter(None, rates), 0.0)
        self.restart_data = self.ignore_data_skip
        self.ignore_data_skip = True  # the base must not drain batches: ppsd's stream goes on at its own position

    def to_dict(self) -> dict[str, Any]:
        """For logs and files, which get no secrets."""
        return {name: value for name, value in super().to_dict().items() if name not in SECRETS}
