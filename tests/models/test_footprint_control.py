"""What is counted of a ControlNet and a T2I-Adapter beside a frozen UNet is what paddle has and saves."""

from __future__ import annotations

from typing import Any, Callable

import paddle
import pytest
from paddle import nn

from ppsd.models.bundle import Bundle
from ppsd.models.controlnet import new_controlnet, new_t2i_adapter
from ppsd.models.denoiser import ControlDenoiser, T2IAdapterDenoiser
from ppsd.models.footprint import numbers, read_footprint, shapes_of
from ppsd.models.footprint_control import (
    adapter_shapes,
    copied_layers,
    decoder_shapes,
    kept_with_adapter,
    kept_with_controlnet,
    own_shapes,
    shapes_of_layers,
)
from ppsd.models.footprint_unet import kept_by_unet
from ppsd.types import Condition
from tests.models.test_footprint import saved_numbers
from tests.tiny import tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

EMBEDDING = (4, 4, 8, 8)


def small_unet() -> Any:
    return tiny_unet(block_out_channels=(16, 32))


def predict(make: Callable[..., Any], unet: nn.Layer, beside: nn.Layer) -> int:
    """Numbers that a step of two pictures of 128 x 128 keeps, where only `beside` is trained."""
    Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), unet, {}, controlnet=beside).freeze([beside])
    condition = Condition(hidden=paddle.randn([2, 77, 16]), control=paddle.rand([2, 3, 128, 128]))
    x, t = paddle.randn([2, 4, 16, 16]), paddle.to_tensor([3, 500])
    weights = [*unet.parameters(), *beside.parameters()]
    return saved_numbers(lambda: make(unet, beside)(x, t, condition), weights)


def test_a_controlnets_weights_are_counted() -> None:
    unet = small_unet()
    counted = own_shapes(unet, 3, EMBEDDING) + shapes_of_layers(copied_layers(unet))
    assert sorted(counted) == sorted(shapes_of(new_controlnet(unet, embedding_channels=EMBEDDING)))
    assert sorted(decoder_shapes(unet) + shapes_of_layers(copied_layers(unet))) == sorted(shapes_of(unet))


def test_weights_of_the_public_models() -> None:
    """Figures of the published ControlNets and T2I-Adapters of Stable Diffusion 1.5."""
    sd15 = read_footprint("sd15").unet
    assert numbers(own_shapes(sd15) + shapes_of_layers(copied_layers(sd15))) == 361_279_120
    assert numbers(adapter_shapes(sd15, 8)) == 77_369_280


def test_a_controlnet_and_the_frozen_decoder_keep_what_the_formulas_say() -> None:
    """The UNet's encoder keeps nothing."""
    unet = small_unet()
    controlnet = new_controlnet(unet, embedding_channels=EMBEDDING)
    measured = predict(ControlDenoiser, unet, controlnet)
    layers = kept_with_controlnet(unet, 16, 16, 77, 128 * 128, EMBEDDING)
    counted = 2 * sum(layer.plain + layer.softmax for layer in layers)
    whole = 2 * sum(layer.plain + layer.softmax for layer in kept_by_unet(unet, 16, 16, 77))
    assert measured == pytest.approx(counted, rel=0.03)
    assert measured < 0.7 * (counted + whole)  # what a trained UNet would keep beside


def test_a_t2i_adapter_and_the_unet_after_it_keep_what_the_formulas_say() -> None:
    unet = small_unet()
    adapter = new_t2i_adapter(unet, 8)
    measured = predict(T2IAdapterDenoiser, unet, adapter)
    counted = 2 * sum(layer.plain + layer.softmax for layer in kept_with_adapter(unet, 16, 16, 77, adapter))
    assert measured == pytest.approx(counted, rel=0.04)
