"""Adapters learn from any data: folders, DreamBooth's, streamed parts, cached latents and states, and new tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.interop.embeddings import load_embeddings
from ppsd.models.saving import read_weights
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.trainers.adapter_runs import learn, network, saved
from tests.trainers.conftest import Run, assert_same_weights, losses, weights
from tests.trainers.image_folders import write_folder

TOKENS = {"placeholder_token": "<toy>", "num_vectors": 2, "initializer_token": "circle"}
SUBJECT = {"file_list": None, "instance_prompt": "a photo of sks circle", "per_device_train_batch_size": 2}
PRIOR = {"with_prior_preservation": True, "class_prompt": "a photo of a circle", "num_class_images": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos") / "a", [(72, 80)] * 5)


def test_dreambooths_data_by_either_way(tiny_run: Run, photos: Path, tmp_path: Path) -> None:
    """The class images are drawn by the models alone, before there are adapters."""
    options = {**SUBJECT, **PRIOR, "max_steps": 3, "instance_data_dir": photos}
    found = []
    for method, output in ((LoRATrainer, tmp_path / "a"), (DreamBoothTrainer, tmp_path / "b")):
        trainer = learn(tiny_run, output, method, class_data_dir=output / "class", **options)
        found.append((losses(trainer), saved(output / "checkpoint-3")))
    assert found[0][0] == found[1][0]
    assert_same_weights(found[0][1], found[1][1])


def test_streamed_parts_by_either_way(tiny_run: Run, tmp_path: Path) -> None:
    """As the script of the public recipe, and as train_lora.py; the order does not depend on the workers."""
    options = {"lr_scheduler_type": "constant", "caption_dropout_rate": 0.0, "max_steps": 3}
    learn(tiny_run, tmp_path / "a", StableDiffusionTrainer, **options)
    learn(tiny_run, tmp_path / "b", dataloader_num_workers=2, **options)
    assert_same_weights(*(saved(tmp_path / run / "checkpoint-3") for run in "ab"))


def test_what_is_made_once_is_what_is_made_each_time(tiny_run: Run, photos: Path, tmp_path: Path) -> None:
    """Latents, and the states of a text encoder without adapters. With them its states change."""
    data = {"file_list": None, "train_data_dir": photos, "center_crop": True, "max_steps": 3}
    made = learn(tiny_run, tmp_path / "a", **data)
    once = learn(tiny_run, tmp_path / "b", **data, cache_latents=True, cache_text_encoder_outputs=True)
    np.testing.assert_allclose(losses(once), losses(made), rtol=1e-6)
    other = saved(tmp_path / "b" / "checkpoint-3")
    for name, value in saved(tmp_path / "a" / "checkpoint-3").items():
        np.testing.assert_allclose(other[name], value, atol=2e-5, err_msg=name)
    for flag in ("train_text_encoder", "network_train_text_encoder_only"):
        with pytest.raises(ValueError, match="--cache_text_encoder_outputs: this run trains text_encoder"):
            learn(tiny_run, tmp_path / "c", **data, cache_text_encoder_outputs=True, **{flag: True})


def test_cached_latents_with_adapters_in_the_text_encoder(tiny_run: Run, photos: Path, tmp_path: Path) -> None:
    data = {"file_list": None, "train_data_dir": photos, "center_crop": True, "max_steps": 2}
    made = learn(tiny_run, tmp_path / "a", **data, train_text_encoder=True)
    once = learn(tiny_run, tmp_path / "b", **data, train_text_encoder=True, cache_latents=True)
    np.testing.assert_allclose(losses(once), losses(made), rtol=1e-6)


@pytest.fixture(scope="module")
def named(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Captions that have the token."""
    folder = tmp_path_factory.mktemp("named")
    lines = [part_line(f"a <toy> on {i % 3}", jpeg_bytes(80, 80, i)) for i in range(40)]
    return replace(tiny_run, file_list=write_lists(folder, {"named": [write_lines(folder / "part", lines)]}))


@pytest.mark.parametrize("flags", [{}, {"train_text_encoder": True}])
def test_pivotal_tuning_trains_adapters_and_the_rows(named: Run, tmp_path: Path, flags: dict[str, Any]) -> None:
    """The rows are saved and exported beside the adapters; nothing else has changed, and it goes on where it was."""
    options = {**TOKENS, **flags, "embedding_learning_rate": 1e-2, "save_steps": 2, "max_steps": 4}
    trainer = learn(named, tmp_path, **options)
    assert list(trainer.step.trained) == ["adapter", "embeddings"]
    rows = weights(tmp_path / "checkpoint-4", "embeddings")["<toy>"]
    ((token, exported),) = load_embeddings(tmp_path / "learned_embeds.safetensors")
    assert token == "<toy>"
    np.testing.assert_array_equal(exported, rows)
    assert np.abs(rows - weights(tmp_path / "checkpoint-2", "embeddings")["<toy>"]).min() > 0
    now = {name: parameter.numpy() for name, parameter in trainer.bundle.text_encoder.state_dict().items()}
    for name, before in weights(named.pipeline, "text_encoder").items():
        np.testing.assert_array_equal(now[name], before, err_msg=name)
    adapter = saved(tmp_path / "checkpoint-4")
    assert any(name.startswith("lora_te_") for name in adapter) == bool(flags)
    assert all(value.any() for value in adapter.values())
    assert len(network(trainer).adapters) == sum(name.endswith(".alpha") for name in adapter)
    for file in (tmp_path / "checkpoint-4").glob("**/*"):
        if file.is_file():
            file.unlink()
    again = learn(named, tmp_path, **options)
    assert again.begun_at == 2
    assert_same_weights(saved(tmp_path / "checkpoint-4"), adapter)
    np.testing.assert_array_equal(weights(tmp_path / "checkpoint-4", "embeddings")["<toy>"], rows)


def test_the_average_of_pivotal_tuning_is_of_the_adapters(named: Run, tmp_path: Path) -> None:
    learn(named, tmp_path, **TOKENS, use_ema=True, max_steps=3)
    averaged = read_weights(tmp_path / "checkpoint-3" / "adapter" / "weights.ema.safetensors")
    exported = read_weights(tmp_path / f"{tmp_path.name}.safetensors")
    up = next(name for name in averaged if name.endswith("lora_up.weight"))
    np.testing.assert_array_equal(exported[up], averaged[up])
    ((_, rows),) = load_embeddings(tmp_path / "learned_embeds.safetensors")
    np.testing.assert_array_equal(rows, weights(tmp_path / "checkpoint-3", "embeddings")["<toy>"])


def test_textual_inversion_has_no_adapters(named: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--network_module"):
        learn(named, tmp_path, TextualInversionTrainer, **TOKENS)
