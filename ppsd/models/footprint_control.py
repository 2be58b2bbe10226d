"""What a ControlNet and a T2I-Adapter take beside a UNet: weights, and what is kept until the backward pass.

Of the UNet itself nothing is kept before the first layer that gets something of theirs: no gradient goes there.
tests/models/test_footprint_control.py has paddle list the weights and the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import paddle
from paddle import nn
from ppdiffusers import T2IAdapter, UNet2DConditionModel

from ppsd.models.controlnet import EMBEDDING_CHANNELS, decoder_layers, new_t2i_adapter
from ppsd.models.footprint_unet import Kept, kept_by_unet

COPIED = ("down_blocks", "mid_block")
"""Paths of the layers that keep something in the ControlNet's copy, and nothing in the UNet."""
_BEFORE_ADAPTER = ("down_blocks.0.resnets", "down_blocks.0.attentions")


def copied_layers(unet: UNet2DConditionModel) -> list[nn.Layer]:
    """What a ControlNet has a copy of."""
    added = getattr(unet, "add_embedding", None)  # of SDXL
    layers = [unet.conv_in, unet.time_embedding, added, unet.down_blocks, unet.mid_block]
    return [layer for layer in layers if layer is not None]


def shapes_of_layers(layers: Sequence[nn.Layer]) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for layer in layers for parameter in layer.parameters()]


def own_shapes(
    unet: UNet2DConditionModel, channels: int = 3, embedding_channels: Sequence[int] = EMBEDDING_CHANNELS
) -> list[tuple[int, ...]]:
    """Of what a ControlNet has beside its copy: the picture's embedding and the zero convolutions."""
    first, sides = int(unet.config.block_out_channels[0]), list(embedding_channels)
    steps = [(channels, sides[0])]
    for before, after in zip(sides, sides[1:]):
        steps += [(before, before), (before, after)]
    shapes: list[tuple[int, ...]] = []
    for before, after in [*steps, (sides[-1], first)]:
        shapes += [(after, before, 3, 3), (after,)]
    for c in _handed_over(unet):
        shapes += [(c, c, 1, 1), (c,)]
    return shapes


def _handed_over(unet: UNet2DConditionModel) -> Iterator[int]:
    """Channels of what the encoder gives the decoder."""
    yield int(unet.config.block_out_channels[0])
    for block in unet.down_blocks:
        yield from (int(layer.out_channels) for layer in block.resnets)
        yield from (int(layer.out_channels) for layer in getattr(block, "downsamplers", None) or [])
    yield int(unet.config.block_out_channels[-1])


def decoder_shapes(unet: UNet2DConditionModel) -> list[tuple[int, ...]]:
    """Of what --sd_locked False trains of the UNet."""
    return shapes_of_layers(decoder_layers(unet))


def adapter_shapes(unet: UNet2DConditionModel, vae_scale_factor: int) -> list[tuple[int, ...]]:
    """Of a new T2I-Adapter."""
    return shapes_of_layers([lazy_adapter(unet, vae_scale_factor)])


def lazy_adapter(unet: UNet2DConditionModel, vae_scale_factor: int) -> T2IAdapter:
    """With shapes and no memory."""
    with paddle.LazyGuard():
        return new_t2i_adapter(unet, vae_scale_factor)


def kept_with_controlnet(
    unet: UNet2DConditionModel, h: int, w: int, tokens: int, pixels: int, embedding: Sequence[int] = EMBEDDING_CHANNELS
) -> list[Kept]:
    """By the ControlNet's layers and the UNet's decoder, for one sample. h, w: of the latents; pixels: of a picture."""
    layers = kept_by_unet(unet, h, w, tokens)
    encoder = [layer for layer in layers if layer.name.startswith(COPIED)]
    side = 2 ** (len(unet.down_blocks) - 1)
    last = int(unet.config.block_out_channels[-1]) * (h // side) * (w // side)
    return [
        _embedding(list(embedding), pixels),
        *encoder,
        Kept("controlnet_mid_block", last, 0, last, 0),
        *(layer for layer in layers if not layer.name.startswith(COPIED)),
    ]


def _embedding(sides: list[int], n: int) -> Kept:
    """The picture, and of each convolution but the last one its result and the SiLU of it. n: pixels."""
    kept = 3 * n + 2 * sides[0] * n
    columns = 9 * sides[0] * n
    for before, after in zip(sides, sides[1:]):
        kept += 2 * before * n
        columns = max(columns, 9 * before * n)
        n //= 4
        kept += 2 * after * n
    return Kept("controlnet_cond_embedding", kept, 0, kept, max(columns, 9 * sides[-1] * n))


def kept_with_adapter(unet: UNet2DConditionModel, h: int, w: int, tokens: int, adapter: T2IAdapter) -> list[Kept]:
    """By the T2I-Adapter and the UNet's layers after its first features, for one sample."""
    layers = [each for each in kept_by_unet(unet, h, w, tokens) if not each.name.startswith(_BEFORE_ADAPTER)]
    return [_adapter(adapter.adapter, h * w), *layers]


def _adapter(adapter: Any, n: int) -> Kept:
    """Of a block what it pools and projects, and of each of its layers x and the ReLU. n: latents."""
    first = adapter.conv_in
    kept, columns = int(first._in_channels) * n, 9 * int(first._in_channels) * n
    before = int(first._out_channels)
    for block in adapter.body:
        if block.downsample is not None:
            kept += before * n
            n //= 4
        kept += before * n if block.in_conv is not None else 0
        before = int(block.resnets[0].block1._out_channels)
        kept += 2 * before * n * len(block.resnets)
        columns = max(columns, 9 * before * n)
    return Kept("adapter", kept, 0, kept, columns)
