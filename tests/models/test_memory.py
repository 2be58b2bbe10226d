"""What memory settings change in what is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from ppdiffusers import AutoencoderKL

from ppsd.models.bundle import Bundle
from ppsd.models.latents import decode_mean, posterior
from ppsd.models.memory import halve_frozen, parameter_bytes, use_vae_savings
from tests.tiny import tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

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


@pytest.mark.parametrize("trained", [("unet",), ("unet", "text_encoder"), ("embeddings",)])
def test_only_what_is_frozen_is_halved(trained: tuple[str, ...]) -> None:
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), tiny_unet(), {})
    parts = {"vae": bundle.vae, "text_encoder": bundle.text_encoder, "unet": bundle.unet}
    before = {name: parameter_bytes(layer) for name, layer in parts.items()}
    names = [p.name for p in bundle.vae.parameters()]
    halve_frozen(bundle, trained, "bfloat16")
    halved = {"vae"} if len(trained) == 2 or "embeddings" in trained else {"vae", "text_encoder"}
    for name, layer in parts.items():
        assert parameter_bytes(layer) == before[name] // (2 if name in halved else 1), name
    assert {p.dtype for p in bundle.vae.parameters()} == {paddle.bfloat16}
    assert [p.name for p in bundle.vae.parameters()] == names  # exports find the float32 originals by them
