"""Moments in 8 bits: blocks of 256 numbers, each a share of its block's largest, to the nearest of 256 values.

The values and blocks are those of bitsandbytes (block-wise dynamic quantisation, arXiv 2110.02861); stored are one byte
a number and one float32 a block, 1.02 bytes where float32 takes 4.
"""

from __future__ import annotations

import functools

import numpy as np
import paddle

BLOCK = 256
SMALLEST = 4096
"""Weights of fewer numbers keep float32 moments, as with bitsandbytes."""


@functools.cache
def code(signed: bool) -> np.ndarray:
    """The 256 values of the dynamic data type, rising, float32, -0.993 .. 1 (signed) or 0 .. 1.

    Decade i of 7 (1e-6 .. 1) has 2^i values of each sign, or 2^(i+1) of one: the midpoints of equal parts of 0.1 .. 1.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1.0, (2**i if signed else 2 ** (i + 1)) + 1)
        midpoints = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6)
        values += [*midpoints, *-midpoints] if signed else [*midpoints]
    return np.sort(np.array(values, np.float32))


@functools.cache
def _tables(signed: bool) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The values [256] and the borders between them [255]."""
    values = code(signed)
    return paddle.to_tensor(values), paddle.to_tensor((values[:-1] + values[1:]) / 2)


def blocks_of(size: int) -> int:
    return -(-size // BLOCK)


def quantize(values: paddle.Tensor, signed: bool) -> tuple[paddle.Tensor, paddle.Tensor]:
    """float32 [...] -> uint8 [blocks,256], padded with zeros, and each block's largest size, float32 [blocks,1]."""
    flat = values.reshape([-1])
    padding = blocks_of(flat.shape[0]) * BLOCK - flat.shape[0]
    if padding:
        flat = paddle.concat([flat, paddle.zeros([padding])])
    blocks = flat.reshape([-1, BLOCK])
    largest = blocks.abs().max(axis=1, keepdim=True)
    shares = blocks / paddle.where(largest > 0, largest, paddle.ones_like(largest))
    return paddle.bucketize(shares, _tables(signed)[1], out_int32=True).astype("uint8"), largest


def dequantize(codes: paddle.Tensor, largest: paddle.Tensor, signed: bool, shape: list[int]) -> paddle.Tensor:
    """What `quantize` was given, to within half a step of the code."""
    blocks = paddle.gather(_tables(signed)[0], codes.astype("int32").reshape([-1])).reshape([-1, BLOCK]) * largest
    return blocks.reshape([-1])[: int(np.prod(shape))].reshape(shape)
