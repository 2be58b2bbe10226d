"""Pictures drawn as ControlNets, masks and depths say."""

from __future__ import annotations

from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from ppdiffusers import StableDiffusionDepth2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from ppsd.models.bundle import Bundle
from ppsd.models.conditions import inpaint_concat
from ppsd.models.controlnet import new_t2i_adapter
from ppsd.models.widening import DEPTH, INPAINTING, widen_conv_in
from ppsd.sampling.control import build_control_pipeline, generate_controlled
from ppsd.sampling.depth import generate_from_depth
from ppsd.sampling.inpainting import generate_inpainted, posterior_noise
from ppsd.sampling.pipeline import build_pipeline, generate, load_pipeline, starting_noise
from ppsd.sampling.text import TextSettings, text_settings
from tests.tiny import (
    SCHEDULER_CONFIG,
    shaken,
    tiny_controlnet,
    tiny_pipeline_dir,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)

compat.apply()

PROMPTS = ["a red circle", "a blue square", "a green circle"]
SETTINGS: dict[str, Any] = {"guidance_scale": 3.0, "num_inference_steps": 3, "seed": 5}


def bundle(added: int = 0) -> Bundle:
    """added: input channels beside the latents', whose weights are no zeros."""
    unet = tiny_unet()
    if added:
        widen_conv_in(unet, 4 + added)
    return Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), shaken(unet), SCHEDULER_CONFIG)


def pictures(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def off(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def check_own_noise(draw: Any) -> np.ndarray:
    """draw(start, stop, first, batch_size): a picture depends on its own inputs, seed and number, and nothing global
    on it. The pictures."""
    paddle.seed(1)
    before = paddle.randn([4]).numpy()
    paddle.seed(1)
    together = draw(0, 3, 0, 3)
    np.testing.assert_array_equal(paddle.randn([4]).numpy(), before)
    one_by_one = np.concatenate([draw(i, i + 1, i, 1) for i in range(3)])
    assert off(together, one_by_one) <= 1  # batched sums round differently
    assert (draw(0, 3, 1, 3) != together).mean() > 0.1
    return together


def test_controlled_pictures():
    made = bundle()
    pipe = build_control_pipeline(made, [shaken(tiny_controlnet(made.unet))], "epsilon")
    condition = pictures(1, 3, 64, 64, 3)

    def draw(start: int, stop: int, first: int, batch_size: int, scale: float = 1.0) -> np.ndarray:
        return generate_controlled(
            pipe,
            PROMPTS[start:stop],
            [condition[start:stop]],
            [scale],
            first=first,
            batch_size=batch_size,
            **SETTINGS,
        )

    drawn = check_own_noise(draw)
    plain = generate(build_pipeline(made, "epsilon"), PROMPTS, **SETTINGS)
    np.testing.assert_array_equal(draw(0, 3, 0, 3, scale=0.0), plain)
    assert (drawn != plain).mean() > 0.1


def test_a_fresh_controlnet_draws_what_the_base_draws_in_other_sizes_too():
    made = bundle()
    pipe = build_control_pipeline(made, [tiny_controlnet(made.unet)], "epsilon", TextSettings(clip_skip=2))
    assert text_settings(pipe).clip_skip == 2
    drawn = generate_controlled(pipe, PROMPTS, [pictures(1, 3, 48, 80, 3)], **SETTINGS)
    assert drawn.shape == (3, 48, 80, 3)
    base = build_pipeline(made, "epsilon", TextSettings(clip_skip=2))
    np.testing.assert_array_equal(drawn, generate(base, PROMPTS, height=48, width=80, **SETTINGS))


def test_residuals_of_several_controlnets_are_added():
    """One at half scale and the same again at half scale is one at full scale."""
    made = bundle()
    controlnet = shaken(tiny_controlnet(made.unet))
    condition = pictures(1, 3, 64, 64, 3)
    one = generate_controlled(build_control_pipeline(made, [controlnet], "epsilon"), PROMPTS, [condition], **SETTINGS)
    pipe = build_control_pipeline(made, [controlnet, controlnet], "epsilon")
    assert off(one, generate_controlled(pipe, PROMPTS, [condition] * 2, [0.25, 0.75], **SETTINGS)) <= 1
    other = generate_controlled(pipe, PROMPTS, [condition, pictures(2, 3, 64, 64, 3)], [0.25, 0.75], **SETTINGS)
    assert (one != other).mean() > 0.1


def test_an_adapter_draws():
    made = bundle()
    paddle.seed(0)
    pipe = build_control_pipeline(made, [new_t2i_adapter(made.unet, 8)], "epsilon")
    condition = pictures(1, 3, 64, 64, 3)

    def draw(start: int, stop: int, first: int, batch_size: int, scale: float = 1.0) -> np.ndarray:
        own = {"first": first, "batch_size": batch_size, **SETTINGS}
        return generate_controlled(pipe, PROMPTS[start:stop], [condition[start:stop]], [scale], **own)

    plain = generate(build_pipeline(made, "epsilon"), PROMPTS, **SETTINGS)
    assert (check_own_noise(draw) != plain).mean() > 0.1
    np.testing.assert_array_equal(draw(0, 3, 0, 3, scale=0.0), plain)


def test_an_inpainting_unet_sees_mask_and_picture():
    made = bundle(INPAINTING)
    pipe = build_pipeline(made, "epsilon")
    assert isinstance(pipe, StableDiffusionInpaintPipeline)
    picture, mask = pictures(1, 3, 64, 64, 3), np.zeros((3, 64, 64), np.uint8)
    mask[:, 16:48, 16:48] = 255

    def draw(start: int, stop: int, first: int, batch_size: int, mask: np.ndarray = mask) -> np.ndarray:
        own = {"first": first, "batch_size": batch_size, **SETTINGS}
        return generate_inpainted(pipe, PROMPTS[start:stop], picture[start:stop], mask[start:stop], **own)

    drawn = check_own_noise(draw)
    picture[:, 20:40, 20:40] = 0  # not seen
    np.testing.assert_array_equal(draw(0, 3, 0, 3), drawn)
    assert (draw(0, 3, 0, 3, mask=255 - mask) != drawn).mean() > 0.1


def test_one_step_of_inpainting_is_the_formula():
    """With guidance 1 and one DDIM step at t = 1, from the conditions that training has."""
    made = bundle(INPAINTING)
    picture, mask = pictures(1, 1, 64, 64, 3), pictures(2, 1, 64, 64)
    settings = {"guidance_scale": 1.0, "num_inference_steps": 1, "seed": 5}
    drawn = generate_inpainted(build_pipeline(made, "epsilon"), PROMPTS[:1], picture, mask, **settings)
    for layer in made.layers():
        layer.eval()
    x = paddle.to_tensor(starting_noise(5, 0, (4, 8, 8)))[None]
    noise = paddle.to_tensor(posterior_noise(5, 0, (4, 8, 8)))[None]
    pixels = paddle.to_tensor(picture.transpose(0, 3, 1, 2).copy())
    concat = inpaint_concat(made.vae, pixels, paddle.to_tensor(mask[:, None]), noise)
    assert expected_picture(made, x, concat, drawn) <= 1


def expected_picture(made: Bundle, x: paddle.Tensor, concat: paddle.Tensor, drawn: np.ndarray) -> float:
    """How far `drawn` is from one step of DDIM from t = 1 to 0."""
    ids = made.tokenizer(PROMPTS[0], padding="max_length", max_length=77, truncation=True, return_tensors="pd")
    with paddle.no_grad():
        hidden = made.text_encoder(ids.input_ids)[0]
        inputs = paddle.concat([x, concat], axis=1)
        eps = made.unet(inputs, paddle.to_tensor([1]), encoder_hidden_states=hidden).sample.numpy()
        alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
        x0 = (x.numpy() - (1 - alphas[1]) ** 0.5 * eps) / alphas[1] ** 0.5
        last = alphas[0] ** 0.5 * x0 + (1 - alphas[0]) ** 0.5 * eps
        image = made.vae.decode(paddle.to_tensor(last.astype("float32")) / made.vae.config.scaling_factor).sample
    expected = ((image.numpy()[0].transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round()
    return float(np.abs(drawn[0].astype(float) - expected).max())


def test_a_depth_unet_sees_the_depth():
    made = bundle(DEPTH)
    pipe = build_pipeline(made, "epsilon")
    assert isinstance(pipe, StableDiffusionDepth2ImgPipeline)
    depth = np.random.default_rng(3).uniform(size=(3, 64, 64)).astype(np.float32)

    def draw(start: int, stop: int, first: int, batch_size: int, depth: np.ndarray = depth) -> np.ndarray:
        own = {"first": first, "batch_size": batch_size, **SETTINGS}
        return generate_from_depth(pipe, PROMPTS[start:stop], depth[start:stop], **own)

    drawn = check_own_noise(draw)
    assert (draw(0, 3, 0, 3, depth=1 - depth) != drawn).mean() > 0.1
    assert off(draw(0, 3, 0, 3, depth=0.5 * depth), drawn) <= 1  # what counts is the order
    flat = draw(0, 3, 0, 3, depth=np.ones_like(depth))
    assert flat.std() > 1


def test_depth_from_pictures_keeps_as_much_of_them_as_strength_says():
    made = bundle(DEPTH)
    pipe = build_pipeline(made, "epsilon")
    picture, depth = pictures(1, 3, 64, 64, 3), np.random.default_rng(3).uniform(size=(3, 64, 64))

    def draw(start: int, stop: int, first: int, batch_size: int, strength: float = 0.5) -> np.ndarray:
        own = {"first": first, "batch_size": batch_size, "strength": strength, **SETTINGS, "num_inference_steps": 10}
        return generate_from_depth(pipe, PROMPTS[start:stop], depth[start:stop], picture[start:stop], **own)

    half = check_own_noise(draw)
    noise = generate_from_depth(pipe, PROMPTS, depth, **{**SETTINGS, "num_inference_steps": 10})
    weak, strong = (draw(0, 3, 0, 3, strength) for strength in (0.1, 1.0))
    distance = [np.abs(one.astype(int) - noise).mean() for one in (strong, half, weak)]
    assert distance[0] < distance[1] < distance[2]


def test_what_does_not_go_together_is_refused():
    made = bundle()
    pipe = build_control_pipeline(made, [tiny_controlnet(made.unet)], "epsilon")
    condition = pictures(1, 3, 64, 64, 3)
    with pytest.raises(ValueError, match=r"condition 1 is \[3, 64, 64, 3\]; pictures of \[3, 32, 64, 3\]"):
        generate_controlled(pipe, PROMPTS, [condition], height=32, **SETTINGS)
    with pytest.raises(ValueError, match="1 ControlNets, 2 conditions and 2 scales: not"):
        generate_controlled(pipe, PROMPTS, [condition] * 2, **SETTINGS)
    with pytest.raises(ValueError, match="multiples of 8, not 60 and 64"):
        generate_controlled(pipe, PROMPTS, [condition[:, :60]], **SETTINGS)
    with pytest.raises(ValueError, match="ControlNets and T2I-Adapters do not draw together"):
        build_control_pipeline(made, [new_t2i_adapter(made.unet, 8), tiny_controlnet(made.unet)], "epsilon")
    plain = build_pipeline(made, "epsilon")
    with pytest.raises(ValueError, match="has 4 input channels; inpainting needs one with 9"):
        generate_inpainted(plain, PROMPTS, condition, condition[..., 0], **SETTINGS)
    with pytest.raises(ValueError, match="has 4 input channels; depth needs one with 5"):
        generate_from_depth(plain, PROMPTS, condition[..., 0], **SETTINGS)
    inpainting, depth = (build_pipeline(bundle(added), "epsilon") for added in (INPAINTING, DEPTH))
    with pytest.raises(ValueError, match="an inpainting UNet draws nothing of prompts alone"):
        generate(inpainting, PROMPTS, **SETTINGS)
    with pytest.raises(ValueError, match="do not go together"):
        generate_inpainted(inpainting, PROMPTS, condition, condition[:, :32, :, 0], **SETTINGS)
    with pytest.raises(ValueError, match="2 prompts, depths"):
        generate_from_depth(depth, PROMPTS[:2], condition[..., 0], **SETTINGS)


def test_pipelines_are_loaded_for_what_they_draw(tmp_path):
    folder = tiny_pipeline_dir(tmp_path)
    assert isinstance(load_pipeline(str(folder)), StableDiffusionPipeline)
    bundle(INPAINTING).unet.save_pretrained(str(tmp_path / "unet"), safe_serialization=True)
    pipe = load_pipeline(str(folder), unet=str(tmp_path / "unet"), concat_channels=INPAINTING)
    assert isinstance(pipe, StableDiffusionInpaintPipeline)
    with pytest.raises(ValueError, match="it is an inpainting UNet"):
        load_pipeline(str(folder), unet=str(tmp_path / "unet"))
