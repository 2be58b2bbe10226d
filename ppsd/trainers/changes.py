"""What a continued run does otherwise than the run that saved: flags, compared by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ppsd.trainers.arguments import MEANINGLESS, SECRETS
from ppsd.trainers.run import Run

# Flags with which the weights come out the same, but for the rounding of float sums. All others are named when they
# differ. Not here: what the layout is made of (see `settings`).
HARMLESS = frozenset(
    """
    output_dir overwrite_output_dir resume_from_checkpoint do_train ignore_data_skip ignore_load_lr_and_optim
    logging_dir logging_strategy logging_first_step logging_steps disable_tqdm report_to run_name
    skip_memory_metrics skip_profile_timer
    save_strategy save_steps save_total_limit save_on_each_node only_save_updated_model on_save_error
    validation_image validation_mask validation_depth controlnet_model_name_or_path
    image_logging_steps sample_every_n_epochs validation_prompts sample_prompts num_validation_images guidance_scale
    num_inference_steps validation_steps validation_epochs max_validation_samples save_every_n_epochs
    dataloader_num_workers check_data data_cache_dir data_cache_gb num_records num_train_epochs
    cache_latents cache_latents_to_disk latents_cache_dir vae_batch_size
    cache_text_encoder_outputs cache_text_encoder_outputs_to_disk
    on_nan data_timeout step_timeout
    local_rank sharding sharding_degree sharding_parallel_degree sharding_parallel_config recompute
    unet_name_or_path initializer_token network_weights save_as_full_pipeline sample_batch_size
    prior_generation_precision
    """.split()  # noqa: SIM905  a list of words
)
_PLACES = ("file_list", "train_data_dir", "dataset_name", "instance_data_dir", "class_data_dir")
_LAYOUT = ("per_device_train_batch_size", "gradient_accumulation_steps")
BATCH = "global batch (--per_device_train_batch_size x --gradient_accumulation_steps x devices)"


def settings(run: Run) -> dict[str, Any]:
    """Every flag's value, for state.json, and the records of one optimizer step on all devices.

    --learning_rate as it was asked for: what the arguments have there is the rate that the scheduler schedules.
    """
    values = {
        field.name: _plain(getattr(arguments, field.name))
        for arguments in run.groups()
        for field in fields(arguments)
        if field.name not in MEANINGLESS and field.name not in SECRETS
    }
    args = run.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.dataset_world_size
    return {**values, "learning_rate": args.asked_learning_rate, BATCH: batch}


def changes(saved: Mapping[str, Any], now: Mapping[str, Any], restart_data: bool) -> list[str]:
    """ "--flag was OLD and is NEW" for every one that changes the result; of flags that both know.

    The data itself is compared by its digest when the stream goes on; with `restart_data` only by its name.
    """
    ignored = set(HARMLESS).union(_LAYOUT, () if restart_data else _PLACES)
    names = [name for name in now if name in saved and name not in ignored and saved[name] != now[name]]
    return [
        f"{name if name == BATCH else f'--{name}'} was {saved[name]} and is {now[name]}"
        for name in names
        if _matters(name, saved, now)
    ]


def _matters(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if name == "max_steps":  # where the schedule ends; a constant rate has no end
        return not str(now["lr_scheduler_type"]).startswith("constant")
    controls = "sd_locked" in now
    if name == "learning_rate":  # the rate of each part is what counts, and is named; this one is a ControlNet's
        return controls
    if name == "unet_learning_rate" and controls:
        return not now["sd_locked"]
    return name != "text_encoder_learning_rate" or bool(now["train_text_encoder"])


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    value = getattr(value, "value", value)  # of an enum
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
