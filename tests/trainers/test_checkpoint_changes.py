"""What differs between the run that saved and the one that goes on is named, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ppsd.trainers import running
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.arguments.controlnet import ControlNetArguments
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.inpainting import DepthArguments, InpaintingArguments
from ppsd.trainers.changes import BATCH, HARMLESS, changes, settings
from ppsd.trainers.run import Run as Flags
from ppsd.trainers.textual_inversion import TextualInversionArguments
from tests.tiny import UNET_CONFIG
from tests.trainers.conftest import Run, assert_same_weights, losses, parse, weights
from tests.trainers.recording import Recorded, record


def told(run: Run, output: Path, **flags: Any) -> dict[str, Any]:
    return json.loads(json.dumps(settings(Flags(*parse(run.flags(output, **flags))))))


def test_every_harmless_flag_exists() -> None:
    conditions = (ControlNetArguments, InpaintingArguments, DepthArguments)
    own = (DreamBoothArguments, TextualInversionArguments, *conditions)
    kinds: tuple[Any, ...] = (ModelArguments, DataArguments, SDTrainingArguments, *own)
    known = {field.name for kind in kinds for field in fields(kind)}
    assert known >= HARMLESS


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"seed": 8}, ["--seed was 7 and is 8"]),
        ({"resolution": 128}, ["--resolution was 64 and is 128"]),
        ({"snr_gamma": 5.0, "random_flip": True}, ["--snr_gamma was None and is 5.0", "--random_flip was False"]),
        ({"learning_rate": 0.5}, ["--unet_learning_rate was 0.001 and is 0.5"]),
        ({"learning_rate": 0.5, "train_text_encoder": True}, ["train_text", "--unet_learning", "--text_encoder_learn"]),
        ({"max_steps": 9}, ["--max_steps was 6 and is 9"]),
        ({"per_device_train_batch_size": 2}, [f"{BATCH} was 4 and is 2"]),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, []),
        ({"save_steps": 9, "logging_steps": 3, "dataloader_num_workers": 2, "report_to": "visualdl"}, []),
        ({"on_save_error": "continue", "validation_prompts": ["a", "b"], "recompute": True}, []),
        ({"file_list": "other"}, []),
        ({"file_list": None, "train_data_dir": "other"}, []),
    ],
)
def test_flags_that_change_the_result_are_named(tiny_run: Run, tmp_path: Path, flags: dict, said: list[str]) -> None:
    found = changes(told(tiny_run, tmp_path), told(tiny_run, tmp_path, **flags), restart_data=False)
    assert len(found) == len(said)
    for text, part in zip(found, said):
        assert part in text


@pytest.mark.parametrize("sd_locked", [True, False])
def test_a_controlnets_rate_is_named_as_it_was_asked_for(tiny_run: Run, tmp_path: Path, sd_locked: bool) -> None:
    def told_of(**flags: Any) -> dict[str, Any]:
        arguments = parse(tiny_run.flags(tmp_path, unet_learning_rate=1e-4, **flags))
        return settings(Flags(*arguments, own=ControlNetArguments(sd_locked=sd_locked)))

    found = changes(told_of(), told_of(learning_rate=0.5), restart_data=False)
    assert found == ["--learning_rate was 0.001 and is 0.5"]


def test_longer_runs_differ_only_where_the_schedule_ends(tiny_run: Run, tmp_path: Path) -> None:
    constant = {"lr_scheduler_type": "constant"}
    saved, now = told(tiny_run, tmp_path, **constant), told(tiny_run, tmp_path, max_steps=9, **constant)
    assert changes(saved, now, restart_data=False) == []


def test_data_that_starts_over_is_compared_by_name(tiny_run: Run, tmp_path: Path) -> None:
    saved, now = told(tiny_run, tmp_path), told(tiny_run, tmp_path, file_list="other")
    assert changes(saved, now, restart_data=True) == [f"--file_list was {tiny_run.file_list} and is other"]
    del saved["file_list"]  # of a ppsd that did not know it
    assert changes(saved, now, restart_data=True) == []


def test_no_secret_is_saved(tiny_run: Run, tmp_path: Path) -> None:
    """Nor logged."""
    assert "0123abcd" not in json.dumps(told(tiny_run, tmp_path, wandb_api_key="0123abcd"))
    tiny_run.train(tmp_path, max_steps=1, wandb_api_key="0123abcd", report_to="visualdl")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.json", "state.json"} <= {path.name for path in files}
    assert any("vdlrecords" in path.name for path in files)
    assert [path for path in files if b"0123abcd" in path.read_bytes()] == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_one_warning_names_all(tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run.train(tmp_path, max_steps=3)
    with caplog.at_level("WARNING", logger="ppsd"):
        tiny_run.train(tmp_path, max_steps=3, logging_steps=2, save_steps=1)
        assert warnings(caplog) == []
        again = tiny_run.train(tmp_path, max_steps=4, learning_rate=0.5, noise_offset=0.1, lr_scheduler_type="constant")
    assert warnings(caplog) == [
        f"{tmp_path / 'checkpoint-3'} goes on otherwise than it was begun: --noise_offset was 0.0 and is 0.1;"
        " --lr_scheduler_type was linear and is constant; --unet_learning_rate was 0.001 and is 0.5"
    ]
    assert len(losses(again)) == 4


def test_another_paddle_is_named(tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run.train(tmp_path, max_steps=1)
    version = running.paddle.__version__
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING", logger="ppsd"):
        patch.setattr(running.paddle, "__version__", "9.9")
        tiny_run.train(tmp_path, max_steps=1)
    assert [text.split(": ")[1] for text in warnings(caplog)] == [f"paddle was {version} and is 9.9"]


def test_another_network_is_refused(tiny_run: Run, tmp_path: Path) -> None:
    """Also where every weight has the same shape."""
    tiny_run.train(tmp_path, max_steps=1)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**UNET_CONFIG, "attention_head_dim": 4}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"--unet_name_or_path: .* another network: its attention_head_dim is 2, this one's 4"
    ):
        tiny_run.train(tmp_path, max_steps=2, unet_name_or_path=other)
    shutil.rmtree(tmp_path / "unet")
    with pytest.raises(ValueError, match="another network"):
        tiny_run.train(tmp_path, max_steps=1, unet_name_or_path=other)
    assert not (tmp_path / "unet").exists()


def test_a_text_encoder_is_neither_missed_nor_forgotten(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path / "a", max_steps=1)
    with pytest.raises(ValueError, match=r"--train_text_encoder: .* was saved without training it"):
        tiny_run.train(tmp_path / "a", max_steps=2, train_text_encoder=True)
    tiny_run.train(tmp_path / "b", max_steps=1, train_text_encoder=True)
    with pytest.raises(ValueError, match=r"--train_text_encoder: .* holds a trained text encoder"):
        tiny_run.train(tmp_path / "b", max_steps=2)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tiny_run.train(tmp_path, save_steps=2)
    shutil.rmtree(tmp_path / "checkpoint-6")
    file = tmp_path / "checkpoint-4" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with caplog.at_level("INFO", logger="ppsd"):
        again = tiny_run.train(tmp_path, save_steps=2)
    assert f"{file.parent} is passed over: optimizer.safetensors is damaged" in caplog.text
    assert f"continuing from {tmp_path / 'checkpoint-2'}" in caplog.text
    assert losses(again) == losses(whole)


def test_a_changed_learning_rate_counts_from_the_first_step_on(tiny_run: Run, tmp_path: Path) -> None:
    constant = {"lr_scheduler_type": "constant"}
    tiny_run.train(tmp_path, max_steps=3, **constant)
    record(tiny_run.flags(tmp_path, max_steps=5, learning_rate=5e-4, **constant))
    assert {number: step.rates for number, step in Recorded(tmp_path).steps.items()} == {4: [5e-4], 5: [5e-4]}


def test_what_is_left_behind_at_the_beginning_is_not_left_behind_again(
    tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same command, begun from a path without its optimizer and data position, and killed."""
    tiny_run.train(tmp_path / "first", save_steps=2)
    start = tmp_path / "first" / "checkpoint-6"
    flags = {"resume_from_checkpoint": start, "ignore_load_lr_and_optim": True, "ignore_data_skip": True}
    whole = tiny_run.train(tmp_path / "whole", **flags)
    assert len(losses(whole)) == 6
    tiny_run.train(tmp_path / "cut", **flags)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    with caplog.at_level("INFO", logger="ppsd"):
        again = tiny_run.train(tmp_path / "cut", **flags)
    assert f"continuing from {tmp_path / 'cut' / 'checkpoint-3'}" in caplog.text
    assert losses(again) == losses(whole)
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
