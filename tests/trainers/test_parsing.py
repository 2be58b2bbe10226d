from __future__ import annotations

from pathlib import Path

import pytest

from ppsd.trainers.arguments import MEANINGLESS, RECIPE_VARIABLES, check_arguments
from tests.trainers.conftest import parse

NEEDED = ["--output_dir", "out", "--max_steps", "5"]

# The command of the public recipe, flag by flag.
RECIPE = """--do_train --output_dir ./laion400m_pretrain_output_trainer --per_device_train_batch_size 32
--gradient_accumulation_steps 1 --learning_rate 1e-4 --weight_decay 0.01 --max_steps 200000
--lr_scheduler_type constant --warmup_steps 0 --image_logging_steps 1000 --logging_steps 10 --resolution 256
--save_steps 10000 --save_total_limit 20 --seed 23 --dataloader_num_workers 4
--vae_name_or_path CompVis/stable-diffusion-v1-4/vae
--text_encoder_name_or_path CompVis/stable-diffusion-v1-4/text_encoder --unet_name_or_path ./sd/unet_config.json
--file_list list --model_max_length 77 --max_grad_norm -1 --disable_tqdm True --bf16 False --fp16_opt_level O2
--num_records 10000000 --buffer_size 100 --shuffle_every_n_samples 5 --interpolation lanczos
--tokenizer_name tok --pretrained_model_name_or_path p --prediction_type epsilon --num_inference_steps 50
--train_text_encoder --noise_offset 0.1 --snr_gamma 5 --input_perturbation 0.1 --unet_learning_rate 1e-5
--text_encoder_learning_rate 1e-6 --use_ema --enable_xformers_memory_efficient_attention
--only_save_updated_model False --recompute --fp16 False --overwrite_output_dir --report_to custom_visualdl"""


def fails(capsys: pytest.CaptureFixture[str], flags: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(flags)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, "one line"
    return message


def test_the_public_recipe_parses() -> None:
    model, data, args = parse(RECIPE.split())
    assert (model.snr_gamma, model.num_inference_steps, model.train_text_encoder) == (5.0, 50, True)
    assert (data.buffer_size, data.num_records, data.interpolation) == (100, 10_000_000, "lanczos")
    assert (args.max_grad_norm, args.use_ema, args.only_save_updated_model, args.bf16) == (-1, True, False, False)
    assert args.report_to == ["visualdl"]
    assert (args.learning_rate, args.text_encoder_learning_rate) == (1e-5, 1e-6)


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown flag --max_step; did you mean max_steps?" in fails(capsys, [*NEEDED, "--max_step", "3"])
    assert "unknown flag --push_to_hub: nothing is uploaded" in fails(capsys, [*NEEDED, "--push_to_hub"])
    assert "'stray' belongs to no flag" in fails(capsys, [*NEEDED, "stray"])


# Of the commands in diffusers' and kohya's documentation.
FOREIGN = """--output_dir out --train_batch_size 3 --max_train_steps=7 --checkpointing_steps 9 --lr_scheduler cosine
--lr_warmup_steps 4 --min_snr_gamma=5 --adam_weight_decay 0.5 --checkpoints_total_limit 2 --validation_prompt hello
--mixed_precision no --unet_lr 0.25 --gradient_checkpointing --max_data_loader_n_workers 2"""


def test_flags_of_other_recipes_mean_the_same_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _, args = parse(FOREIGN.split())
    assert (args.per_device_train_batch_size, args.max_steps, args.save_steps, args.save_total_limit) == (3, 7, 9, 2)
    assert (args.lr_scheduler_type.value, args.warmup_steps, args.weight_decay) == ("cosine", 4, 0.5)
    assert (model.snr_gamma, args.validation_prompts, args.unet_learning_rate) == (5, ["hello"], 0.25)
    assert (args.recompute, args.dataloader_num_workers) == (True, 2)
    assert parse([*NEEDED, "--mixed_precision", "bf16"])[2].bf16
    assert parse([*NEEDED, "--mixed_precision=fp16"])[2].fp16
    assert "--mixed_precision fp8: it must be one of no, bf16, fp16" in fails(
        capsys, [*NEEDED, "--mixed_precision=fp8"]
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train_batch_size: 6\nmixed_precision: bf16\n")
    args = parse([*NEEDED, "--config", str(recipe)])[2]
    assert (args.per_device_train_batch_size, args.bf16) == (6, True)
    recipe.write_text("mixed_precision: no\n")
    assert not parse([*NEEDED, "--config", str(recipe)])[2].bf16


@pytest.mark.parametrize("name", sorted(MEANINGLESS))
def test_flags_without_meaning_are_refused_and_not_offered(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--{name}: it is paddlenlp's and has no meaning" in fails(capsys, [*NEEDED, f"--{name}", "1"])
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert f"--{name} " not in capsys.readouterr().out


def test_switches_need_no_value() -> None:
    args = parse([*NEEDED, "--disable_tqdm", "--overwrite_output_dir", "--use_ema"])[2]
    assert (args.disable_tqdm, args.overwrite_output_dir, args.use_ema) == (True, True, True)


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """`--resume` must not silently mean --resume_from_checkpoint."""
    assert "unknown flag --resum" in fails(capsys, [*NEEDED, "--resum", "x"])


@pytest.mark.parametrize("name", RECIPE_VARIABLES)
def test_recipe_variables_are_defaults_that_a_flag_overrides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = RECIPE_VARIABLES[name]
    monkeypatch.delenv(name, raising=False)
    assert getattr(parse(NEEDED)[2], flag) is False
    monkeypatch.setenv(name, "1")
    assert getattr(parse(NEEDED)[2], flag) is True
    assert getattr(parse([*NEEDED, f"--{flag}", "False"])[2], flag) is False
    monkeypatch.setenv(name, "0")
    assert getattr(parse([*NEEDED, f"--{flag}"])[2], flag) is True


def test_a_recipe_variable_must_be_a_truth_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAG_USE_EMA", "maybe")
    assert "FLAG_USE_EMA is 'maybe'" in fails(capsys, NEEDED)


def test_yaml_sets_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rate: 3.0e-4\nmax_steps: 9\nuse_ema: true\nvalidation_prompts: [a red cat, two]\n")
    _, _, args = parse(["--output_dir", "out", "--config", str(recipe), "--max_steps", "4"])
    assert (args.learning_rate, args.max_steps, args.use_ema) == (3e-4, 4, True)
    assert args.validation_prompts == ["a red cat", "two"]
    assert parse(["--output_dir", "out", f"--config={recipe}"])[2].max_steps == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("- a\n", "must hold"),
        ("a: [", "is not YAML"),
        ("max_steps: many\n", "invalid int value: 'many'"),
    ],
)
def test_a_wrong_yaml_is_one_line(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(text)
    assert message in fails(capsys, [*NEEDED, "--config", str(tmp_path / "r.yaml")])


def test_a_missing_yaml_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read nowhere.yaml: No such file" in fails(capsys, [*NEEDED, "--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prediction_type", "x0"], "--prediction_type is x0; it must be epsilon or v_prediction or sample"),
        (["--dataloader_num_workers", "-1"], "--dataloader_num_workers is -1"),
        (["--num_inference_steps", "0"], "--num_inference_steps is 0"),
        (["--noise_offset", "nan"], "--noise_offset is nan"),
        (["--seed", "-1"], "--seed is -1"),
        (["--fp16_opt_level", "O3"], "--fp16_opt_level is O3"),
        (["--report_to", "wandb"], "pip install wandb"),
        (["--report_to", "paper"], "known are visualdl"),
        (["--save_steps", "0"], "--save_steps is 0"),
        (["--weight_decay", "-1"], "--weight_decay is -1"),
        (["--snr_gamma", "0"], "--snr_gamma is 0.0"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size is 0"),
        (["--bf16"], "need a GPU"),
        (["--sharding", "stage1 offload"], "--sharding offload: paddlenlp 2.8.1 says"),
        (["--sharding", "stage2"], "--sharding stage2 needs GPUs"),
        (["--sharding", "stage3 offload"], "--sharding stage3 keeps no whole weights"),
        (["--sharding", "stag1"], "--sharding stag1: known are stage1 and stage2"),
        (["--sharding_parallel_config", "split_param"], "split_param: the optimizer's state is then no longer by weig"),
        (["--max_steps", "0", "--num_records", "20", "--num_train_epochs", "0"], "--num_train_epochs is 0.0"),
    ],
)
def test_values_that_cannot_work_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_arguments(*parse([*NEEDED, *flags]))


def test_sharding_among_one_process_is_said(caplog: pytest.LogCaptureFixture) -> None:
    check_arguments(*parse([*NEEDED, "--sharding", "stage1"]))
    assert "--sharding stage1: nobody to share with" in caplog.text


def test_weights_of_half_precision_are_not_sharded() -> None:
    arguments = parse(NEEDED)
    vars(arguments[2]).update(device="gpu", bf16=True, fp16_opt_level="O2", sharding=["stage1"])
    with pytest.raises(ValueError, match="--fp16_opt_level O2 with --sharding: no process has all weights in float32"):
        check_arguments(*arguments)
    arguments[2].fp16_opt_level = "O1"
    check_arguments(*arguments)
