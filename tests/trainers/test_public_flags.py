"""Every flag of diffusers' scripts (v0.36) is taken, under its own name, or refused with what to do instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.foreign_flags import ALIASES, ELSEWHERE
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer

COMMON = """
--pretrained_model_name_or_path p --output_dir out --seed 3 --resolution 256 --center_crop --gradient_checkpointing
--gradient_accumulation_steps 2 --learning_rate 2e-6 --lr_scheduler polynomial --use_8bit_adam --num_train_epochs 7
--dataloader_num_workers 2 --adam_beta1 0.8 --adam_beta2 0.99 --adam_weight_decay 0.02 --adam_epsilon 1e-07
--max_grad_norm 0.5 --logging_dir logs --mixed_precision no --report_to tensorboard --local_rank -1 --snr_gamma 5
--checkpointing_steps 11 --checkpoints_total_limit 3 --resume_from_checkpoint latest --max_train_steps 13
--train_batch_size 5 --lr_warmup_steps 17 --enable_xformers_memory_efficient_attention
"""
TEXT_TO_IMAGE = """
--input_perturbation 0.1 --dataset_name d --dataset_config_name c --image_column image --caption_column text
--max_train_samples 9 --validation_prompts one two --random_flip --use_ema --prediction_type epsilon --noise_offset 0.1
--validation_epochs 4 --image_interpolation_mode bicubic
"""
DREAMBOOTH = """
--tokenizer_name t --instance_data_dir i --class_data_dir c --instance_prompt sks --class_prompt dog
--with_prior_preservation --prior_loss_weight 0.7 --num_class_images 21 --sample_batch_size 3 --train_text_encoder
--validation_prompt one --num_validation_images 2 --validation_steps 19 --prior_generation_precision fp32 --lr_power 2
--tokenizer_max_length 40
"""
TEXTUAL_INVERSION = """
--save_steps 21 --save_as_full_pipeline --num_vectors 3 --tokenizer_name t --train_data_dir d --placeholder_token <toy>
--initializer_token toy --learnable_property style --repeats 4 --validation_prompt one --num_validation_images 2
--validation_steps 19 --validation_epochs 4
"""
REFUSED = {
    StableDiffusionTrainer: """revision variant cache_dir scale_lr dream_training dream_detail_preservation allow_tf32
        offload_ema foreach_ema non_ema_revision push_to_hub hub_token hub_model_id tracker_project_name""",
    DreamBoothTrainer: """revision variant scale_lr lr_num_cycles push_to_hub hub_token hub_model_id allow_tf32
        set_grads_to_none offset_noise text_encoder_use_attention_mask skip_save_text_encoder validation_images
        class_labels_conditioning validation_scheduler""",
    TextualInversionTrainer: """revision variant scale_lr lr_num_cycles push_to_hub hub_token hub_model_id allow_tf32
        no_safe_serialization use_object_template use_style_template""",
}
ALTERED = {"mixed_precision", "local_rank", "resume_from_checkpoint"}  # no value of the same kind is kept


def values(method: type[StableDiffusionTrainer], words: list[str]) -> dict[str, Any]:
    run = parse_run(method.own_arguments, words, method.defaults)
    return {f.name: getattr(group, f.name) for group in run.groups() for f in dataclasses.fields(group)}


def given(words: list[str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            flags[word[2:]] = []
        else:
            list(flags.values())[-1].append(word)
    return flags


def same(value: Any, words: list[str]) -> bool:
    value = getattr(value, "value", value)
    if isinstance(value, list):
        return [str(item) for item in value] == words
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(words[0]) == value
    return value is True if not words else value == words[0]


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        (StableDiffusionTrainer, COMMON + TEXT_TO_IMAGE),
        (DreamBoothTrainer, COMMON + DREAMBOOTH),
        (TextualInversionTrainer, COMMON.replace("--checkpointing_steps 11 ", "") + TEXTUAL_INVERSION),
    ],
)
def test_flags_of_the_public_script_are_taken(method: type[StableDiffusionTrainer], flags: str) -> None:
    found = values(method, flags.split())
    for name, words in given(flags.split()).items():
        if name not in ALTERED:
            assert same(found[ALIASES.get(name, name)], words), (name, found[ALIASES.get(name, name)])


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method, names in REFUSED.items() for name in names.split()]
)
def test_others_are_refused_with_what_to_do(
    method: type[StableDiffusionTrainer], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_run(method.own_arguments, ["--output_dir", "out", f"--{name}", "1"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert f"unknown flag --{name}: {ELSEWHERE[name]}" in message
    assert message.count("\n") == 1


def test_a_resolution_of_two_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--resolution=64,64"], ["--resolution", "64,64"], ["--resolution", "64"]):
        assert parse_run(None, ["--output_dir", str(tmp_path), *flags]).args.resolution == 64
    with pytest.raises(SystemExit):
        parse_run(None, ["--output_dir", str(tmp_path), "--resolution=64,72"])
    assert "--resolution 64,72: pictures are squares" in capsys.readouterr().err


def test_a_schedule_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_run(None, ["--output_dir", str(tmp_path), "--lr_scheduler", "cosine_with_restarts"])
    assert "--lr_scheduler_type cosine_with_restarts: it must be linear or cosine" in capsys.readouterr().err
