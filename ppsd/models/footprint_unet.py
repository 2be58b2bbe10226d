"""What a UNet keeps of its forward pass until the backward pass, in numbers a sample, layer by layer.

Each formula counts the tensors that paddle's eager mode saves for a kind of layer (tests/models/test_footprint.py has
paddle list them). A tensor that two layers share is counted where it goes in, and not where it comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ppdiffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Kept:
    """Numbers a sample of one layer.

    plain: all but attention's softmax; softmax: of its attentions; entry: what is left of plain and softmax where the
    layer is computed again in the backward pass; columns: those of the widest convolution, unfolded (im2col); blocks:
    of a transformer, whose attentions are in the backward pass one after the other.
    """

    name: str
    plain: int
    softmax: int
    entry: int
    columns: int
    blocks: int = 1


def resnet(name: str, layer: Any, n: int) -> Kept:
    """Norm, SiLU, convolution, twice: x, normed, SiLU of each. n: pixels."""
    kept = 3 * layer.in_channels * n + 3 * layer.out_channels * n
    return Kept(name, kept, 0, layer.in_channels * n, 9 * max(layer.in_channels, layer.out_channels) * n)


def transformer(name: str, layer: Any, n: int, tokens: int) -> Kept:
    """Around its blocks: x, normed, and what the last projection takes.

    A block keeps 12 [N,C] (three norms' x and result; q, k, v and the joined heads of self-attention; q and the heads
    of cross-attention), k and v of the tokens, 4 [N,4C] of the GEGLU (both halves, the gate, their product), and the
    softmax of both attentions.
    """
    blocks, c = list(layer.transformer_blocks), int(layer.inner_dim)
    wide = int(blocks[0].ff.net[2].weight.shape[0])
    around, block = 3 * c * n, 12 * c * n + 4 * wide * n + 2 * tokens * c
    heads = int(blocks[0].attn1.heads)
    softmax = heads * n * (n + tokens) * len(blocks)
    return Kept(name, around + block * len(blocks), softmax, around + c * n * len(blocks), 0, len(blocks))


def kept_by_unet(unet: UNet2DConditionModel, h: int, w: int, tokens: int) -> list[Kept]:
    """h, w: of the latents. Raises ValueError for blocks of other kinds than Stable Diffusion's."""
    n, found = h * w, []
    channels = int(unet.config.block_out_channels[0])
    for place, block in _blocks(unet):
        layers = list(getattr(block, "attentions", None) or [])
        found += [resnet(f"{place}.resnets.{i}", layer, n) for i, layer in enumerate(block.resnets)]
        found += [transformer(f"{place}.attentions.{i}", layer, n, tokens) for i, layer in enumerate(layers)]
        for sampler in getattr(block, "downsamplers", None) or []:
            entry = int(sampler.channels) * n
            n //= 4
            found.append(Kept(f"{place}.downsamplers", entry, 0, entry, 9 * int(sampler.channels) * n))
        for sampler in getattr(block, "upsamplers", None) or []:
            n *= 4
            entry = int(sampler.channels) * n
            found.append(Kept(f"{place}.upsamplers", entry, 0, entry, 9 * entry))
    last = 3 * channels * n
    return [*found, Kept("conv_norm_out", last, 0, last, 9 * channels * n)]


_KNOWN = ("CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D")


def _blocks(unet: UNet2DConditionModel) -> Iterator[tuple[str, Any]]:
    named = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    named.append(("mid_block", unet.mid_block))
    named += [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    for place, block in named:
        if type(block).__name__ not in _KNOWN:
            raise ValueError(f"--model: {place} is a {type(block).__name__}; counted are {', '.join(_KNOWN)}")
        yield place, block
