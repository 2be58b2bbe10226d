from __future__ import annotations

import numpy as np
import paddle

from ppsd.models.latents import encode, reconstruct, to_unit
from tests.tiny import tiny_vae

PIXELS = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype("uint8"))


def test_pixels_become_minus_one_to_one() -> None:
    np.testing.assert_allclose(to_unit(paddle.to_tensor([0, 255], dtype="uint8")).numpy(), [-1.0, 1.0])


def test_latents_are_mean_plus_std_times_noise_scaled() -> None:
    vae = tiny_vae()
    vae.eval()
    noise = paddle.randn([2, 4, 4, 4])
    with paddle.no_grad():
        moments = vae.quant_conv(vae.encoder(PIXELS.astype("float32") / 127.5 - 1)).numpy()
    mean, log_variance = moments[:, :4], moments[:, 4:]
    expected = (mean + np.exp(0.5 * np.clip(log_variance, -30, 20)) * noise.numpy()) * vae.config.scaling_factor
    latents = encode(vae, PIXELS, noise)
    assert latents.stop_gradient
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_reconstruction_is_a_picture() -> None:
    vae = tiny_vae()
    vae.eval()
    picture = reconstruct(vae, PIXELS).numpy()
    assert picture.shape == (2, 3, 32, 32)
    assert 0 <= picture.min() < picture.max() <= 1
