from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppsd.sampling.pipeline import build_scheduler, generate, load_pipeline, starting_noise
from tests.tiny import SCHEDULER_CONFIG, tiny_pipeline, tiny_pipeline_dir

SETTINGS = {"guidance_scale": 3.0, "num_inference_steps": 3, "seed": 5}


def test_a_picture_depends_on_seed_and_place_alone() -> None:
    pipe = tiny_pipeline()
    prompts = ["a red circle", "a blue square", "a green circle"]
    together = generate(pipe, prompts, batch_size=3, **SETTINGS)
    one_by_one = generate(pipe, prompts, batch_size=1, **SETTINGS)
    assert np.abs(together.astype(int) - one_by_one.astype(int)).max() <= 1  # batched sums round differently
    other = generate(pipe, prompts, **{**SETTINGS, "seed": 6})
    assert (together != other).mean() > 0.1


def test_guidance_follows_the_formula() -> None:
    """One DDIM step from pure noise, by hand: eps = uncond + s (cond - uncond)."""
    import paddle

    pipe = tiny_pipeline()
    for layer in (pipe.unet, pipe.text_encoder, pipe.vae):
        layer.eval()
    scale = 4.0
    drawn = generate(pipe, ["a red circle"], guidance_scale=scale, num_inference_steps=1, seed=5)

    def hidden(text: str) -> paddle.Tensor:
        ids = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pd").input_ids
        return pipe.text_encoder(ids)[0]

    with paddle.no_grad():
        x = paddle.to_tensor(starting_noise(5, 0, (4, 8, 8)))[None]
        t = 1  # one of 1000 steps, offset 1
        cond, uncond = (
            pipe.unet(x, paddle.to_tensor([t]), encoder_hidden_states=hidden(s)).sample for s in ("a red circle", "")
        )
        eps = (uncond + scale * (cond - uncond)).numpy()
        alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
        x0 = (x.numpy() - (1 - alphas[t]) ** 0.5 * eps) / alphas[t] ** 0.5
        last = alphas[0] ** 0.5 * x0 + (1 - alphas[0]) ** 0.5 * eps
        image = pipe.vae.decode(paddle.to_tensor(last.astype("float32")) / pipe.vae.config.scaling_factor).sample
    expected = ((image.numpy()[0].transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round()
    assert np.abs(drawn[0].astype(float) - expected).max() <= 1


def test_layers_keep_their_mode() -> None:
    pipe = tiny_pipeline()
    pipe.unet.train()
    pipe.vae.eval()
    generate(pipe, ["x"], **SETTINGS)
    assert pipe.unet.training
    assert not pipe.vae.training


def test_size_is_checked_and_obeyed() -> None:
    pipe = tiny_pipeline()
    assert generate(pipe, ["x"], height=32, width=48, **SETTINGS).shape == (1, 32, 48, 3)
    with pytest.raises(ValueError, match="multiples of 8"):
        generate(pipe, ["x"], height=30, **SETTINGS)


def test_the_scheduler_keeps_betas_and_takes_the_prediction_type() -> None:
    scheduler = build_scheduler({"_class_name": "PNDMScheduler", **SCHEDULER_CONFIG}, "v_prediction")
    assert type(scheduler).__name__ == "PNDMScheduler"
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.beta_end == 0.012
    assert type(build_scheduler({"_class_name": "DDPMScheduler"}, "epsilon")).__name__ == "DDIMScheduler"
    with pytest.raises(ValueError, match="NoSuchScheduler"):
        build_scheduler({"_class_name": "NoSuchScheduler"}, "epsilon")


def test_a_folder_without_unet_asks_for_one(tmp_path: Path) -> None:
    import shutil

    folder = tiny_pipeline_dir(tmp_path)
    shutil.rmtree(folder / "unet")
    with pytest.raises(ValueError, match=r"has no UNet of its own; name one with --unet"):
        load_pipeline(str(folder))
