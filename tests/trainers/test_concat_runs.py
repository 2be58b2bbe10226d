"""Inpainting and depth models: they begin as the base, learn, go on where they were cut, and are pipelines to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppdiffusers import StableDiffusionDepth2ImgPipeline, StableDiffusionInpaintPipeline

from ppsd.diffusion.draws import draw
from ppsd.models.bundle import load_bundle
from ppsd.models.denoiser import PlainDenoiser
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from tests.trainers.condition_runs import Method, built, first_batch, learn, scenes, unet
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

METHODS = {"inpainting": InpaintingTrainer, "depth": DepthTrainer}
CHANNELS = {"inpainting": 9, "depth": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes") / "set")


@pytest.mark.parametrize("name", METHODS)
def test_begins_as_the_base(tiny_run: Run, tmp_path: Path, folder: Path, name: str) -> None:
    """Bit for bit, whatever the new channels show."""
    trainer = built(tiny_run, tmp_path, METHODS[name], folder)
    assert trainer.bundle.unet.config.in_channels == CHANNELS[name]
    batch = first_batch(trainer)
    draws = draw(batch["seed"], trainer.latent_shape(batch), num_train_timesteps=1000, masked=True)
    found = trainer.losses(trainer.step, batch, draws)
    trainer.step.denoiser, trainer.step._told = PlainDenoiser(load_bundle(str(tiny_run.pipeline)).unet), None
    np.testing.assert_array_equal(found.numpy(), trainer.losses(trainer.step, batch, draws).numpy())


@pytest.mark.parametrize("name", METHODS)
def test_learns_from_the_new_channels_and_goes_on(tiny_run: Run, tmp_path: Path, folder: Path, name: str) -> None:
    given: dict[str, Any] = {"save_steps": 2, "train_text_encoder": True}
    whole = learn(tiny_run, tmp_path / "whole", METHODS[name], folder, max_steps=4, **given)
    new = unet(whole)["conv_in.weight"][:, 4:]
    assert (abs(new).max(axis=(0, 2, 3)) > 0).all(), "each of the new channels is learnt from"
    learn(tiny_run, tmp_path / "cut", METHODS[name], folder, max_steps=2, **given)
    rest = learn(tiny_run, tmp_path / "cut", METHODS[name], folder, max_steps=4, **given)
    assert losses(rest)[-2:] == losses(whole)[-2:]
    for part in ("unet", "text_encoder"):
        assert_same_weights(*(weights(tmp_path / run / "checkpoint-4", part) for run in ("cut", "whole")))


@pytest.mark.parametrize(
    ("name", "cls"),
    [("inpainting", StableDiffusionInpaintPipeline), ("depth", StableDiffusionDepth2ImgPipeline)],
)
def test_the_export_is_a_pipeline_of_its_kind(tiny_run: Run, tmp_path: Path, folder: Path, name: str, cls: Any) -> None:
    trainer = learn(tiny_run, tmp_path, METHODS[name], folder, max_steps=1)
    no_estimator = {"depth_estimator": None, "feature_extractor": None} if name == "depth" else {}
    pipe = cls.from_pretrained(str(tmp_path), **no_estimator)
    assert_same_weights({key: value.numpy() for key, value in pipe.unet.state_dict().items()}, unet(trainer))
    again = built(tiny_run, tmp_path / "again", METHODS[name], folder, pretrained_model_name_or_path=tmp_path)
    assert_same_weights(unet(again), unet(trainer))


@pytest.mark.parametrize("name", METHODS)
def test_the_held_out_loss_is_of_the_conditions_too(tiny_run: Run, tmp_path: Path, folder: Path, name: str) -> None:
    """And its noise is the same whenever it is measured."""
    given = {"validation_split": 0.3, "validation_steps": 2, "learning_rate": 0.0, "max_steps": 4}
    trainer = learn(tiny_run, tmp_path, METHODS[name], folder, **given)
    found = [entry["validation_loss"] for entry in trainer.state.log_history if "validation_loss" in entry]
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_lora_is_of_a_model_that_has_the_channels(tiny_run: Run, tmp_path: Path, folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="it is a UNet of text alone"):
        built(tiny_run, tmp_path / "text", METHODS[name], folder, network_module="lora")
    learn(tiny_run, tmp_path / "base", METHODS[name], folder, max_steps=1)
    given = {"pretrained_model_name_or_path": tmp_path / "base", "network_module": "lora", "network_dim": 2}
    learn(tiny_run, tmp_path / "lora", METHODS[name], folder, max_steps=2, **given)
    assert (tmp_path / "lora" / "lora.safetensors").is_file()


def test_dreambooth_draws_class_images_in_full_masks(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """The base has 4 channels, and what has 9 draws the same before it is trained."""
    given: dict[str, Any] = {
        "train_data_dir": None,
        "instance_data_dir": folder,
        "instance_prompt": "a scene",
        "with_prior_preservation": True,
        "class_prompt": "a place",
        "num_class_images": 3,
        "max_steps": 1,
    }
    first = learn(tiny_run, tmp_path / "a", InpaintingTrainer, folder, class_data_dir=tmp_path / "c", **given)
    assert len(list((tmp_path / "c").glob("*.png"))) == 3
    batch = first_batch(first)
    assert batch["mask"].shape[0] == 8
    assert set(batch["weight"].tolist()) == {2.0}
    given["pretrained_model_name_or_path"] = tmp_path / "a"
    learn(tiny_run, tmp_path / "b", InpaintingTrainer, folder, class_data_dir=tmp_path / "d", **given)
    assert len(list((tmp_path / "d").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        (InpaintingTrainer, {"cache_latents": True}, "--cache_latents: pictures are masked anew"),
        (InpaintingTrainer, {"mask_kinds": "stars"}, "stars"),
        (InpaintingTrainer, {"mask_coverage": 0.0}, "--mask_coverage 0.0 is not above 0"),
        (InpaintingTrainer, {"class_prompt": "a dog"}, "--class_prompt is of DreamBooth"),
        (InpaintingTrainer, {"mask_column": "hole"}, "no mask"),
        (InpaintingTrainer, {"mask_column": "mask", "mask_kinds": "full"}, "--mask_kinds and --mask_column both say"),
        (DepthTrainer, {"mask_coverage": 0.5}, "--mask_coverage acts only where a mask is needed"),
        (DepthTrainer, {"annotator": "color", "cache_latents": True}, "--annotator with --cache_latents"),
        (DepthTrainer, {"depth_column": "z"}, "no depth map"),
        (DepthTrainer, {"mask_column": "mask"}, "--mask_column acts only where a mask is needed"),
    ],
)
def test_what_cannot_work_is_refused(
    tiny_run: Run, tmp_path: Path, folder: Path, method: Method, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(tiny_run, tmp_path, method, folder, **{"check_data": "quick", **flags})
