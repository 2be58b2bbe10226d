"""Where a ControlNet is that a user names: folders of all kinds, and what is said of others."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ppsd.trainers.controlnet_folders import (
    Scaled,
    at_once,
    controlnets_of_pipeline,
    find_controlnet,
    parse_controlnets,
)
from ppsd.trainers.manifest import seal

FLAG = "--controlnet"


def config(folder: Path, name: str = "ControlNetModel") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": name}))
    return folder


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    part = config(folder / "controlnet")
    seal(folder, step, {})
    return part


def test_folders_of_all_kinds(tmp_path: Path) -> None:
    alone = config(tmp_path / "alone")
    assert find_controlnet(str(alone), FLAG) == str(alone)
    pipeline = tmp_path / "pipeline"
    inner = config(pipeline / "controlnet")
    assert find_controlnet(str(pipeline), FLAG) == str(inner)
    adapter = config(tmp_path / "theirs" / "adapter", "T2IAdapter")
    assert find_controlnet(str(adapter.parent), FLAG) == str(adapter)
    assert find_controlnet("lllyasviel/sd-controlnet-canny", FLAG) == "lllyasviel/sd-controlnet-canny", "a hub name"


def test_of_a_run_the_export_else_the_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoint(run, 5)
    newest = checkpoint(run, 10)
    (run / "checkpoint-20" / "controlnet").mkdir(parents=True)  # half-written
    assert find_controlnet(str(run), FLAG) == str(newest)
    assert find_controlnet(str(run / "checkpoint-5"), FLAG) == str(run / "checkpoint-5" / "controlnet")
    config(run)
    assert find_controlnet(str(run), FLAG) == str(run)


def test_what_holds_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--controlnet: .*file is a file; a folder with config\.json"):
        find_controlnet(str(tmp_path / "file"), FLAG)
    with pytest.raises(ValueError, match=r"has neither config\.json nor a folder controlnet, and holds no checkpoint"):
        find_controlnet(str(tmp_path), FLAG)
    (tmp_path / "lora" / "controlnet").mkdir(parents=True)
    (tmp_path / "lora" / "controlnet" / "weights.safetensors").touch()
    with pytest.raises(ValueError, match="holds adapters beside a ControlNet; what the run exports is a whole one"):
        find_controlnet(str(tmp_path / "lora"), FLAG)
    with pytest.raises(ValueError, match=r"--controlnet: .*unet holds UNet2DConditionModel; a ControlNet's or"):
        parse_controlnets([str(config(tmp_path / "unet", "UNet2DConditionModel"))])


def test_scales_and_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = config(tmp_path / "one"), config(tmp_path / "run" / "controlnet", "T2IAdapter")
    row = parse_controlnets([f"{one}:0.5", str(two.parent)])
    assert row == [Scaled(str(one), 0.5, "one"), Scaled(str(two), 1.0, "run")]
    assert [net.label for net in parse_controlnets([str(two)])] == ["run"]
    assert parse_controlnets(["none"]) == []
    assert [at_once([]), at_once([[]]), at_once([row, [], row])] == [0, 0, 2]
    with pytest.raises(ValueError, match=r"--controlnet: rows of 1 and 2; .* as many, or none"):
        at_once([row, row[:1]])
    (two.parent / "unet").mkdir()
    with caplog.at_level(logging.INFO, "ppsd.trainers.controlnet_folders"):
        parse_controlnets([str(two.parent)])
    assert f"was trained together with a UNet: --unet {two.parent / 'unet'}" in caplog.text


def test_a_pipelines_own(tmp_path: Path) -> None:
    assert controlnets_of_pipeline(str(tmp_path)) == []
    for name in ("controlnet", "controlnet_1"):
        config(tmp_path / name)
    assert [net.label for net in controlnets_of_pipeline(str(tmp_path))] == ["controlnet", "controlnet_1"]
    assert controlnets_of_pipeline("lllyasviel/pipeline") == []
