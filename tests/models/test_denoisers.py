"""Denoisers that are told more than the text begin as the base does, and hear it once they have learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppsd import compat  # isort: skip  before paddle

import paddle

from ppsd.models.bundle import Bundle, load_bundle
from ppsd.models.controlnet import (
    load_controlnet,
    mute_down_blocks,
    new_controlnet,
    new_t2i_adapter,
    trained_layers,
)
from ppsd.models.denoiser import ConcatDenoiser, ControlDenoiser, PlainDenoiser, T2IAdapterDenoiser
from ppsd.models.memory import use_recompute
from ppsd.models.saving import save_component
from ppsd.models.widening import DEPTH, INPAINTING, widen_conv_in
from ppsd.types import Condition
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

TIMESTEPS = [0, 3, 999]


def normal(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def inputs(height: int = 8, width: int = 8, **told: Any) -> tuple[paddle.Tensor, paddle.Tensor, Condition]:
    """x_t [3,4,h,w], timesteps, and hidden with what is told beside."""
    return normal(3, 4, height, width), paddle.to_tensor(TIMESTEPS), Condition(normal(3, 77, 16, seed=1), **told)


def picture(height: int = 64, width: int = 64, seed: int = 2) -> paddle.Tensor:
    return normal(3, 3, height, width, seed=seed).abs().clip(0, 1)


def test_all_that_a_controlnet_shares_with_sdxl_s_unet_is_copied():
    """diffusers' from_unet copies the embedding of size and pooled text, ppdiffusers' forgets it."""
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2}
    unet = shaken(tiny_unet(**told, projection_class_embeddings_input_dim=16))
    controlnet = tiny_controlnet(unet)
    own = {name: value for name, value in controlnet.state_dict().items() if name in unet.state_dict()}
    assert any(name.startswith("add_embedding.") for name in own)
    for name, value in own.items():
        np.testing.assert_array_equal(value.numpy(), unet.state_dict()[name].numpy())


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
@pytest.mark.parametrize("only_mid_control", [False, True])
def test_a_fresh_controlnet_changes_no_bit(only_mid_control, size):
    unet = shaken(tiny_unet())
    height, width = size
    given = inputs(height, width, control=picture(8 * height, 8 * width))
    with paddle.no_grad():
        base = PlainDenoiser(unet)(*given)
        found = ControlDenoiser(unet, tiny_controlnet(unet), only_mid_control)(*given)
    np.testing.assert_array_equal(found.numpy(), base.numpy())


def test_a_fresh_controlnet_is_the_encoder_and_can_learn():
    """Copied weights are the UNet's, zero convolutions exactly 0, and the first step reaches them."""
    unet = shaken(tiny_unet())
    controlnet, own = tiny_controlnet(unet), unet.state_dict()
    copied = [name for name in controlnet.state_dict() if name in own]
    assert {name.split(".")[0] for name in copied} == {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    for name in copied:
        np.testing.assert_array_equal(controlnet.state_dict()[name].numpy(), own[name].numpy())
    embedding = controlnet.controlnet_cond_embedding
    zeros = [controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    zero = [p for layer in (*zeros, embedding.conv_out) for p in layer.parameters()]
    assert len(zero) == 2 * 6
    assert not any(p.numpy().any() for p in zero)
    (ControlDenoiser(unet, controlnet)(*inputs(control=picture())) - 1.0).square().mean().backward()
    for layer in zeros:
        assert all(np.abs(p.grad.numpy()).max() > 0 for p in layer.parameters())


def test_the_picture_is_seen_as_drawn_in_the_paper():
    """Gaussian, of He's size (diffusers' begin as torch's convolutions do: uniform, and 2.4 times as small)."""
    paddle.seed(0)
    embedding = new_controlnet(tiny_unet()).controlnet_cond_embedding
    layers = [embedding.conv_in, *embedding.blocks]
    for layer in layers[2:]:
        weight = layer.weight.numpy()
        assert weight.std() == pytest.approx((2 / weight[0].size) ** 0.5, rel=0.05)
        assert np.abs(weight).max() > 2.5 * weight.std()  # a uniform one ends at 1.73
    assert [layer._stride for layer in layers] == [[1, 1], *[[1, 1], [2, 2]] * 3]


def test_only_mid_control_leaves_the_down_blocks_alone():
    """Equal to a ControlNet whose residuals for the down blocks are 0, and not to one that has both."""
    unet = shaken(tiny_unet())
    controlnet = shaken(tiny_controlnet(unet))
    given = inputs(control=picture())
    with paddle.no_grad():
        both, middle = (ControlDenoiser(unet, controlnet, only)(*given).numpy() for only in (False, True))
        mute_down_blocks(controlnet)
        expected = ControlDenoiser(unet, controlnet)(*given).numpy()
        base = PlainDenoiser(unet)(*given).numpy()
    np.testing.assert_array_equal(middle, expected)
    assert np.abs(middle - base).max() > 1e-2
    assert np.abs(middle - both).max() > 1e-2


def test_another_picture_gives_another_prediction():
    unet = shaken(tiny_unet())
    paddle.seed(0)
    controlnet, adapter = shaken(tiny_controlnet(unet)), new_t2i_adapter(unet, 8)
    with paddle.no_grad():
        for denoise in (ControlDenoiser(unet, controlnet), T2IAdapterDenoiser(unet, adapter)):
            one, other = (denoise(*inputs(control=picture(seed=seed))).numpy() for seed in (2, 3))
            np.testing.assert_array_equal(denoise(*inputs(control=picture())).numpy(), one)
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("added", [INPAINTING, DEPTH])
def test_a_widened_unet_begins_as_it_was(added):
    """Bit for bit, whatever the new inputs are; and each of them can learn."""
    unet = shaken(tiny_unet())
    given = inputs()
    with paddle.no_grad():
        base = PlainDenoiser(unet)(*given).numpy()
    before = unet.conv_in.weight.numpy()
    widen_conv_in(unet, 4 + added)
    for seed, size in ((5, 1.0), (6, 100.0), (7, 0.0)):
        given[2].concat = size * normal(3, added, 8, 8, seed=seed)
        with paddle.no_grad():
            np.testing.assert_array_equal(ConcatDenoiser(unet)(*given).numpy(), base)
    assert (unet.config.in_channels, unet.conv_in.weight.shape) == (4 + added, [8, 4 + added, 3, 3])
    np.testing.assert_array_equal(unet.conv_in.weight.numpy()[:, :4], before)
    given[2].concat = normal(3, added, 8, 8)
    (ConcatDenoiser(unet)(*given) - 1.0).square().mean().backward()
    assert (np.abs(unet.conv_in.weight.grad.numpy()).max(axis=(0, 2, 3)) > 0).all()
    with pytest.raises(ValueError, match=f"has {4 + added} input channels already"):
        widen_conv_in(unet, 4 + added)


def test_a_widened_unet_is_saved_and_loaded(tmp_path):
    folder = tiny_pipeline_dir(tmp_path)
    bundle = load_bundle(str(folder), concat_channels=INPAINTING, widen=True)
    assert bundle.unet.config.in_channels == 9
    save_component(shaken(bundle.unet), tmp_path / "unet")
    again = load_bundle(str(folder), unet=str(tmp_path / "unet"), concat_channels=INPAINTING)
    np.testing.assert_array_equal(again.unet.conv_in.weight.numpy(), bundle.unet.conv_in.weight.numpy())
    assert np.abs(again.unet.conv_in.weight.numpy()[:, 4:]).min() > 0
    with pytest.raises(
        ValueError, match="beside 5 of the condition and the UNet's in_channels is 4: it is a UNet of text alone"
    ):
        load_bundle(str(folder), concat_channels=INPAINTING)
    with pytest.raises(ValueError, match="in_channels is 9: it is an inpainting UNet"):
        load_bundle(str(folder), unet=str(tmp_path / "unet"))
    with pytest.raises(ValueError, match="4 latent channels beside 1 of the condition and the UNet's in_channels is 9"):
        load_bundle(str(folder), unet=str(tmp_path / "unet"), concat_channels=DEPTH)


def test_what_is_trained():
    """The lock is the UNet's; zero convolutions that have no say are left out."""
    unet = tiny_unet()
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), unet, SCHEDULER_CONFIG)
    bundle.controlnet = tiny_controlnet(unet)
    assert bundle.layers()[-1] is bundle.controlnet

    def free(**options: bool) -> set[str]:
        bundle.freeze(trained_layers(bundle, **options))
        named = [("unet", unet), ("control", bundle.controlnet), ("vae", bundle.vae), ("text", bundle.text_encoder)]
        return {
            f"{part}.{name.split('.')[0]}"
            for part, layer in named
            for name, parameter in layer.named_parameters()
            if not parameter.stop_gradient
        }

    control = {f"control.{name.split('.')[0]}" for name, _ in bundle.controlnet.named_parameters()}
    decoder = {"unet.up_blocks", "unet.conv_norm_out", "unet.conv_out"}
    assert free() == control
    assert free(sd_locked=False) == control | decoder
    assert free(only_mid_control=True) == control - {"control.controlnet_down_blocks"}


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="that paddle cannot recompute on the CPU")
def test_recomputation_reaches_the_controlnet():
    unet = tiny_unet()
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), unet, SCHEDULER_CONFIG)
    bundle.controlnet = tiny_controlnet(unet)
    use_recompute(bundle, False)
    assert [block.gradient_checkpointing for block in bundle.controlnet.down_blocks] == [True, True]
    bundle.controlnet = new_t2i_adapter(unet, 8)  # has no such thing
    use_recompute(bundle, False)


def test_a_controlnet_is_saved_and_loaded(tmp_path):
    unet = tiny_unet()
    controlnet = shaken(tiny_controlnet(unet))
    save_component(controlnet, tmp_path)
    again = load_controlnet(str(tmp_path), unet)
    assert list(again.config.conditioning_embedding_out_channels) == [4, 4, 8, 8]
    for name, value in controlnet.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy())


def test_a_controlnet_of_another_model_is_refused(tmp_path):
    save_component(tiny_controlnet(tiny_unet()), tmp_path / "control")
    with pytest.raises(ValueError, match=r"its cross_attention_dim is 16, and the UNet's 24"):
        load_controlnet(str(tmp_path / "control"), tiny_unet(cross_attention_dim=24))
    other = r"--controlnet: .*its block_out_channels is \[8, 16\], and the UNet's \[8, 8\]"
    with pytest.raises(ValueError, match=other):
        load_controlnet(str(tmp_path / "control"), tiny_unet(block_out_channels=(8, 8)), "--controlnet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--controlnet_model_name_or_path: .*is empty"):
        load_controlnet(str(tmp_path / "empty"), tiny_unet())
    unet = tiny_unet()
    widen_conv_in(unet, 9)
    with pytest.raises(ValueError, match="with 4 input channels; this one has 9"):
        new_controlnet(unet)
