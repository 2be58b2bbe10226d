"""What memory settings change in what is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from ppdiffusers import AutoencoderKL

from ppsd import compat
from ppsd.adapters.base import Dropout, Options
from ppsd.adapters.control_lora import new_control_lora
from ppsd.adapters.targets import Wanted
from ppsd.models.bundle import Bundle
from ppsd.models.denoiser import ControlDenoiser
from ppsd.models.latents import decode_mean, posterior
from ppsd.models.memory import halve_frozen, parameter_bytes, use_recompute, use_vae_savings
from ppsd.types import Condition
from tests.tiny import shaken, tiny_controlnet, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

DEMO_VAE = Path(__file__).parents[2] / "examples" / "stable_diffusion" / "tiny_pipeline" / "vae"


@pytest.fixture
def vae() -> AutoencoderKL:
    """Of the demo model: trained, for 64 x 64."""
    model = AutoencoderKL.from_pretrained(str(DEMO_VAE))
    model.eval()
    return model


def pictures(size: int) -> paddle.Tensor:
    """A disc and a rectangle, uint8 [2,3,size,size]."""
    y, x = np.mgrid[0:size, 0:size] / size
    disc, box = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.33**2, (abs(x - 0.4) < 0.25) & (abs(y - 0.6) < 0.2)
    colours = ((disc, (220, 40, 60), (90, 180, 200)), (box, (30, 60, 200), (240, 240, 200)))
    planes = [[np.where(mask, a, b) for a, b in zip(inside, around)] for mask, inside, around in colours]
    return paddle.to_tensor(np.array(planes).astype("uint8"))


def test_slices_are_the_whole(vae: AutoencoderKL) -> None:
    pixels = pictures(64)
    moments = posterior(vae, pixels)
    drawn = decode_mean(vae, moments)
    calls = count_batches(vae)
    use_vae_savings(vae, slicing=True, tiling=False)
    np.testing.assert_allclose(posterior(vae, pixels).numpy(), moments.numpy(), atol=1e-5)
    np.testing.assert_allclose(decode_mean(vae, moments).numpy(), drawn.numpy(), atol=1e-5)
    assert calls == [1, 1, 1, 1]


def count_batches(vae: AutoencoderKL) -> list[int]:
    """Filled with the batch size of every pass through the encoder or decoder."""
    calls: list[int] = []
    for part in (vae.encoder, vae.decoder):
        part.register_forward_pre_hook(lambda layer, inputs: calls.append(inputs[0].shape[0]))
    return calls


def test_tiles_are_nearly_the_whole(vae: AutoencoderKL) -> None:
    """The figures that `use_vae_savings` states."""
    pixels = pictures(128)
    moments = posterior(vae, pixels)
    drawn = decode_mean(vae, moments)
    use_vae_savings(vae, slicing=False, tiling=True)
    tiled, redrawn = posterior(vae, pixels), decode_mean(vae, moments)
    assert tiled.shape == moments.shape
    difference = (redrawn - drawn).abs()
    assert 0.005 < float(difference.mean()) < 0.015
    assert float(difference.max()) < 0.45
    assert 0 < float((tiled - moments)[:, :4].abs().mean()) < 0.15 * float(moments[:, :4].std())


def test_pictures_of_the_vaes_own_size_are_not_tiled(vae: AutoencoderKL) -> None:
    pixels = pictures(64)
    moments = posterior(vae, pixels)
    use_vae_savings(vae, slicing=False, tiling=True)
    np.testing.assert_array_equal(posterior(vae, pixels).numpy(), moments.numpy())


@pytest.mark.parametrize(
    ("trained", "halved"),
    [
        (("unet",), {"vae", "text_encoder"}),
        (("unet", "text_encoder"), {"vae"}),
        (("embeddings",), {"vae", "unet"}),
        (("adapter",), {"vae", "unet", "text_encoder"}),
        (("adapter", "embeddings"), {"vae", "unet"}),
        (("controlnet",), {"vae", "unet", "text_encoder"}),
        (("controlnet", "unet"), {"vae", "text_encoder"}),  # --sd_locked False
    ],
)
def test_only_what_is_frozen_is_halved(trained: tuple[str, ...], halved: set[str]) -> None:
    unet = tiny_unet()
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), unet, {}, controlnet=tiny_controlnet(unet))
    names = ("vae", "text_encoder", "unet", "controlnet")
    before = {name: parameter_bytes(getattr(bundle, name)) for name in names}
    paddle_names = [p.name for p in bundle.vae.parameters()]
    copied = bundle.controlnet.conv_in.weight.numpy().copy()
    halve_frozen(bundle, trained, "bfloat16")
    for name in names:
        assert parameter_bytes(getattr(bundle, name)) == before[name] // (2 if name in halved else 1), name
    assert {p.dtype for p in bundle.vae.parameters()} == {paddle.bfloat16}
    assert [p.name for p in bundle.vae.parameters()] == paddle_names  # exports find the float32 originals by them
    assert bundle.controlnet.dtype == paddle.float32  # to which it casts its input, whatever the UNet's is
    np.testing.assert_array_equal(bundle.controlnet.conv_in.weight.numpy(), copied)


def controlled(recomputes: bool, adapts: bool) -> tuple[dict[str, np.ndarray], int]:
    """Gradients of a ControlNet, or of adapters in one, and how many transformers and ResNets were computed."""
    unet = shaken(tiny_unet(seed=1))
    whole = trained = shaken(tiny_controlnet(unet))
    if adapts:
        wanted = Wanted(2, 2.0, 0, 0.0, "attn-mlp")
        trained = shaken(new_control_lora(whole, wanted, "lora", Options(2), Dropout(), seed=0), seed=5)
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), unet, {}, controlnet=trained)
    bundle.freeze([trained])
    if recomputes:
        use_recompute(bundle, train_text_encoder=False)
    for layer in (unet, trained):
        layer.train()
    computed = []
    for layer in whole.sublayers():
        if type(layer).__name__ in ("BasicTransformerBlock", "ResnetBlock2D"):
            layer.register_forward_post_hook(lambda *_: computed.append(1))
    paddle.seed(3)
    condition = Condition(hidden=paddle.randn([2, 7, 16]), control=paddle.rand([2, 3, 64, 64]))
    x, t = paddle.randn([2, 4, 8, 8]), paddle.to_tensor([3, 500])
    ControlDenoiser(unet, trained)(x, t, condition).square().mean().backward()
    return {name: p.grad.numpy() for name, p in trained.named_parameters()}, len(computed)


@pytest.mark.parametrize("adapts", [False, True])
def test_all_blocks_of_a_controlnet_are_computed_again(adapts: bool) -> None:
    """ppdiffusers' switch alone leaves out the transformers and the middle block. The gradients are the same."""
    try:
        compat.require_recompute()
    except ValueError:
        pytest.skip("this paddle cannot recompute here")
    plain, once = controlled(recomputes=False, adapts=adapts)
    again, computed = controlled(recomputes=True, adapts=adapts)
    blocks = (
        1 + 1 + 2 + 1 + 1
    )  # two down blocks' ResNets, the middle block's, a transformer in the first and the middle
    assert once == blocks
    assert computed == 2 * blocks - 1  # the middle block begins with one that is not
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        np.testing.assert_allclose(again[name], gradient, atol=1e-6, err_msg=name)
