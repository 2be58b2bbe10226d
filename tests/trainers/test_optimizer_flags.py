"""Flags of optimizers and memory: names of three recipes mean one thing, and what cannot work is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.trainers.optimizer_state import OPTIMIZER
from tests.trainers.conftest import Run, losses, parse, weights


def args_of(*flags: str, tmp_path: Path) -> object:
    return parse(["--output_dir", str(tmp_path), *flags])[2]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "AdamW"),
        (["--optim", "adamw"], "AdamW"),
        (["--optim", "lion"], "Lion"),
        (["--use_8bit_adam"], "AdamW8bit"),
        (["--use_8bit_adam", "--optimizer_type", "adamw8bit"], "AdamW8bit"),
        (["--optimizer_type", "AdaFactor", "--optimizer_args", "relative_step=True", "beta1=0.9"], "Adafactor"),
    ],
)
def test_names_of_all_recipes(flags: list[str], expected: str, tmp_path: Path) -> None:
    args = args_of(*flags, tmp_path=tmp_path)
    args.check_optimizers()
    assert args.optimizer_type == expected


def test_gradient_checkpointing_is_recompute(tmp_path: Path) -> None:
    assert args_of("--gradient_checkpointing", tmp_path=tmp_path).recompute is True
    assert args_of(tmp_path=tmp_path).recompute is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer_type", "Lion", "--use_8bit_adam"], "--optimizer_type Lion and --use_8bit_adam exclude"),
        (["--optimizer_type", "Prodigy"], "no kept implementation for paddle"),
        (["--optim", "rmsprop"], "--optim rmsprop: not known; known are AdamW"),
    ],
)
def test_names_that_cannot_be_end_the_parsing(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        args_of(*flags, tmp_path=tmp_path)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer_type", "Lion", "--adam_beta2", "0.99"], "--adam_beta2 is AdamW's; for Lion"),
        (["--optimizer_type", "Lion", "--optimizer_args", "eps=1"], "Lion takes key=value of betas, weight_decay"),
        (
            ["--optimizer_type", "Adafactor", "--optimizer_args", "warmup_init=True"],
            "warmup_init=True needs relative_step=True",
        ),
        (
            ["--optimizer_type", "Adafactor", "--optimizer_args", "relative_step=True", "--unet_learning_rate", "1"],
            "all weights then have one step size",
        ),
        (["--frozen_dtype", "bfloat16", "--device", "cpu"], "--frozen_dtype bfloat16 needs a GPU"),
        (["--frozen_dtype", "half"], "it must be float32, bfloat16 or float16"),
        (["--frozen_dtype", "float16", "--device", "gpu", "--bf16"], "--frozen_dtype float16 needs --fp16"),
    ],
)
def test_what_cannot_work_names_the_flag(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        args_of(*flags, tmp_path=tmp_path).check_optimizers()


@pytest.mark.parametrize("name", ["AdamW8bit", "Lion", "Adafactor"])
def test_a_run_goes_on_as_if_it_had_never_stopped(name: str, tiny_run: Run, tmp_path: Path) -> None:
    flags = {"optimizer_type": name, "train_text_encoder": True, "text_encoder_learning_rate": 1e-4}
    flags["lr_scheduler_type"] = "constant"  # the default's end is that of the first run
    whole = tiny_run.train(tmp_path / "whole", max_steps=4, save_steps=2, **flags)
    tiny_run.train(tmp_path / "cut", max_steps=2, save_steps=2, **flags)
    again = tiny_run.train(tmp_path / "cut", max_steps=4, save_steps=2, **flags)
    assert losses(again)[-2:] == losses(whole)[-2:]
    one, other = weights(tmp_path / "whole" / "checkpoint-4"), weights(tmp_path / "cut" / "checkpoint-4")
    assert all(np.array_equal(one[key], other[key]) for key in one)
    states = [SafetensorsFile(tmp_path / run / "checkpoint-4" / OPTIMIZER) for run in ("whole", "cut")]
    assert states[0].metadata["optimizer"] == name
    for key in states[0].specs:
        np.testing.assert_array_equal(states[0].read(key), states[1].read(key), err_msg=key)


def test_a_run_with_another_optimizer_does_not_go_on(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=2, save_steps=2)
    with pytest.raises(ValueError, match="--optimizer_type AdamW, and this run's is Lion"):
        tiny_run.train(tmp_path, max_steps=4, optimizer_type="Lion")
