"""What a run of adapters gives away: a file for each kind of tool, with what they show of its training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ppsd.interop.lora.reading import read_lora
from ppsd.sampling.compare import load_candidate
from ppsd.sampling.text import TextSettings, read_text_settings
from ppsd.trainers.candidates import find_candidates
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import jpeg_bytes
from tests.trainers.conftest import Run, assert_same_weights
from tests.trainers.image_folders import write_folder


def train_lora(tiny_run: Run, output: Path, **changes: Any) -> StableDiffusionTrainer:
    values = {"network_preset": "attn-only", "check_data": "off", "max_steps": 2, "save_steps": 2, **changes}
    flags = tiny_run.flags(output, **values)
    return train(LoRATrainer, parse_run(LoRATrainer.own_arguments, flags, LoRATrainer.defaults))


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "np") as opened:
        return dict(opened.metadata())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In folders as kohya names them, with tags."""
    folder = tmp_path_factory.mktemp("images")
    for name, captions in (("3_red toy", ["toy, red", "toy, red, big"]), ("1_square", ["square"] * 3)):
        (folder / name).mkdir()
        for number, caption in enumerate(captions):
            (folder / name / f"{number}.jpg").write_bytes(jpeg_bytes(72, 72, number))
            (folder / name / f"{number}.txt").write_text(caption)
    return folder


def test_the_files_of_a_lora(tiny_run: Run, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "my style"
    trainer = train_lora(
        tiny_run, output, file_list=None, train_data_dir=images, train_text_encoder=True, network_alpha=2, unet_lr=0.01
    )
    kohya, diffusers = read_lora(output / "my style.safetensors"), read_lora(output)
    assert not (output / "unet").exists()
    for place, adapter in trainer.bundle.adapter.adapters.items():
        factors = adapter.factors()
        assert_same_weights(kohya.layers[place], factors)
        assert factors["alpha"] == 2
        up, down = (diffusers.layers[place][f"lora_{leaf}.weight"] for leaf in ("up", "down"))
        np.testing.assert_array_equal(up @ down, factors["lora_up.weight"] @ factors["lora_down.weight"] * 0.5)
    said = metadata(output / "my style.safetensors")
    expected = {
        "ss_output_name": "my style",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_unet_lr": "0.01",
        "ss_text_encoder_lr": "0.001",
        "ss_steps": "2",
        "ss_num_train_images": "9",
        "ss_resolution": "(64, 64)",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "my style",
    }
    assert {name: said[name] for name in expected} == expected
    assert json.loads(said["ss_tag_frequency"]) == {
        "3_red toy": {"toy": 2, "red": 2, "big": 1},
        "1_square": {"square": 3},
    }
    assert json.loads(said["ss_dataset_dirs"])["3_red toy"] == {"n_repeats": 3, "img_count": 2}
    data = (output / "my style.safetensors").read_bytes()
    assert said["sshs_model_hash"] == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert str(tmp_path) not in json.dumps(said)


@pytest.mark.parametrize(
    ("flags", "module", "args"),
    [
        ({"network_module": "locon", "network_preset": None, "conv_dim": 2}, "lycoris.kohya", {"algo": "locon"}),
        ({"conv_dim": 2, "network_preset": None}, "networks.lora", {"conv_dim": "2", "conv_alpha": "2.0"}),
        ({"network_module": "lokr", "factor": 4}, "lycoris.kohya", {"algo": "lokr", "factor": "4"}),
    ],
)
def test_other_networks_are_named_as_in_kohyas_tools(
    tiny_run: Run, tmp_path: Path, flags: dict[str, Any], module: str, args: dict[str, str]
) -> None:
    train_lora(tiny_run, tmp_path / "out", **flags)
    said = metadata(tmp_path / "out" / "out.safetensors")
    assert said["ss_network_module"] == module
    assert args.items() <= json.loads(said["ss_network_args"]).items()
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists() == (flags.get("network_module") != "lokr")


def test_class_images_are_counted_by_themselves(tiny_run: Run, tmp_path: Path) -> None:
    flags = {
        "file_list": None,
        "instance_data_dir": write_folder(tmp_path / "toy", [(72, 72)] * 2),
        "class_data_dir": write_folder(tmp_path / "class", [(72, 72)] * 3),
        "class_prompt": "a toy",
        "num_class_images": 3,
        "with_prior_preservation": True,
        "per_device_train_batch_size": 2,
    }
    train_lora(tiny_run, tmp_path / "out", **flags)
    said = metadata(tmp_path / "out" / "out.safetensors")
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("2", "3")
    assert json.loads(said["ss_reg_dataset_dirs"]) == {"class": {"n_repeats": 1, "img_count": 3}}


def test_the_average_is_what_is_given_away(tiny_run: Run, tmp_path: Path) -> None:
    trainer = train_lora(tiny_run, tmp_path / "out", use_ema=True, learning_rate=0.1)
    average = trainer.ema.state_dict()
    tensors = load_file(tmp_path / "out" / "out.safetensors")
    for name, value in average.items():
        np.testing.assert_array_equal(tensors[name], value.numpy())
    assert any(np.abs(tensors[name] - p.numpy()).max() > 0 for name, p in trainer.bundle.adapter.named_parameters())


def test_a_finished_run_gives_the_same_again(tiny_run: Run, tmp_path: Path) -> None:
    train_lora(tiny_run, tmp_path / "out")
    file = tmp_path / "out" / "out.safetensors"
    first = load_file(file)
    file.unlink()
    train_lora(tiny_run, tmp_path / "out")
    assert_same_weights(load_file(file), first)
    assert metadata(file)["ss_steps"] == "2"


def test_beginning_with_the_factors_of_a_file(tiny_run: Run, tmp_path: Path) -> None:
    train_lora(tiny_run, tmp_path / "first")
    for name in ("first.safetensors", "pytorch_lora_weights.safetensors"):
        begun = {"network_weights": tmp_path / "first" / name, "learning_rate": 0.0, "save_strategy": "no"}
        train_lora(tiny_run, tmp_path / f"from-{name}", **begun)
        found = load_file(tmp_path / f"from-{name}" / f"from-{name}.safetensors")
        assert_same_weights(found, load_file(tmp_path / "first" / "first.safetensors"))
    begun_with = tmp_path / "first" / "first.safetensors"
    for changes, said in (
        ({"network_dim": 2}, "--network_weights: at .* and alpha 2"),
        ({"network_preset": "attn-mlp"}, "--network_weights: .* other layers .*proj_in"),
        ({"network_weights": tmp_path / "none.safetensors"}, "--network_weights: .*none.safetensors"),
    ):
        with pytest.raises(ValueError, match=said):
            train_lora(tiny_run, tmp_path / "wrong", **{"network_weights": begun_with, **changes})


def test_checkpoints_are_compared_with_their_adapters(tiny_run: Run, tmp_path: Path) -> None:
    """Over a whole base: that of tiny_run is random and has no weights to begin a comparison with."""
    flags = {"unet_name_or_path": None, "use_ema": True, "learning_rate": 0.1}
    trainer = train_lora(tiny_run, tmp_path / "out", **flags)
    rows = find_candidates([str(tmp_path / "out")], None, base=True, ema=True)
    assert [row.label.split(":")[0] for row in rows] == ["base", "checkpoint-2", "checkpoint-2 (EMA)"]
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    found = []
    for row in rows:
        stand_in = vars(dict(load_candidate(row).unet.named_sublayers())[layer]).get("forward")
        found.append(None if stand_in is None else stand_in.adapters[0][0].factors()["lora_up.weight"])
    assert found[0] is None
    place = next(place for place in trainer.bundle.adapter.adapters if place.path == layer)
    np.testing.assert_array_equal(found[1], trainer.bundle.adapter.adapters[place].factors()["lora_up.weight"])
    assert np.abs(found[2] - found[1]).max() > 0


def test_the_file_of_another_run_is_named(tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """diffusers would load it from the same folder, and LoHa has none to take its place."""
    train_lora(tiny_run, tmp_path)
    assert "is not of this run" not in caplog.text
    train_lora(tiny_run, tmp_path, network_module="loha", conv_dim=0, overwrite_output_dir=True)
    assert f"{tmp_path / 'pytorch_lora_weights.safetensors'} is not of this run" in caplog.text


def test_how_captions_were_read_is_noted_beside_the_files(tiny_run: Run, tmp_path: Path) -> None:
    train_lora(tiny_run, tmp_path / "out", clip_skip=2)
    assert read_text_settings(tmp_path / "out") == TextSettings(clip_skip=2)


def test_data_is_asked_for(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="give --train_data_dir, --instance_data_dir"):
        train_lora(tiny_run, tmp_path / "out", file_list=None)
