"""What becomes of masks and depths, in numbers that can be worked out by hand.

Agreement with diffusers' pipelines is in tests/test_torch_conditions.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from ppsd import compat  # isort: skip  before paddle

import paddle

from ppsd.models.conditions import control_of, depth_concat, inpaint_concat
from ppsd.models.latents import encode
from tests.tiny import tiny_vae

compat.apply()


def test_control_is_from_0_to_1():
    levels = paddle.to_tensor(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(control_of(levels).numpy(), [0, 0.2, 1], rtol=1e-7)


def test_what_is_masked_is_grey_to_the_vae_and_the_rest_as_it_is():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    mask = np.zeros((2, 1, 64, 64), np.uint8)
    mask[0, :, 16:24, 32:64] = 128  # from here on painted anew
    mask[1, :, :, :] = 127  # kept
    vae, noise = tiny_vae(), paddle.to_tensor(random.standard_normal((2, 4, 8, 8)).astype(np.float32))
    found = inpaint_concat(vae, paddle.to_tensor(pixels), paddle.to_tensor(mask), noise).numpy()
    assert found.shape == (2, 5, 8, 8)
    expected = np.zeros((8, 8))
    expected[2, 4:] = 1
    np.testing.assert_array_equal(found[:, 0], [expected, np.zeros((8, 8))])
    whole = encode(vae, paddle.to_tensor(pixels), noise).numpy()
    np.testing.assert_array_equal(found[1, 1:], whole[1])
    assert np.abs(found[0, 1:] - whole[0]).max() > 1e-3
    pixels[0, :, 16:24, 32:64] = random.integers(0, 256, (3, 8, 32))  # not seen
    again = inpaint_concat(vae, paddle.to_tensor(pixels), paddle.to_tensor(mask), noise).numpy()
    np.testing.assert_array_equal(again, found)


def test_each_depth_goes_from_minus_1_to_1():
    ramp = np.linspace(0.3, 0.4, 64, dtype=np.float32)[None, None, None].repeat(64, 2)
    depth = np.concatenate([ramp, 5 * ramp, 1 - ramp])
    found = depth_concat(paddle.to_tensor(depth), (8, 8)).numpy()
    assert found.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(found[0, 0, 0], np.linspace(-1, 1, 8), atol=1e-3)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], -found[0], atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_flat_depth_is_0(level):
    """Beside one that is not, which keeps its own."""
    depth = np.full((2, 1, 48, 80), level, np.float32)
    depth[1, :, :, 40:] = 0.6
    found = depth_concat(paddle.to_tensor(depth), (6, 10)).numpy()
    assert not found[0].any()
    assert (found[1].min(), found[1].max()) == (-1, 1)
