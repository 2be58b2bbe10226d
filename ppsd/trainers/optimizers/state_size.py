"""What an optimizer keeps, counted from the shapes of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ppsd.trainers.optimizers.moments import BLOCK, SMALLEST, blocks_of

_MOMENTS = {"AdamW": 2, "AdamW8bit": 2, "Lion": 1, "Lion8bit": 1, "SGDNesterov": 1}


def state_bytes(optimizer: str, shapes: Sequence[Sequence[int]]) -> int:
    """optimizer: a value of --optimizer_type (Adafactor: without beta1). Masters of AMP O2 are not counted."""
    return sum(_bytes_of(optimizer, list(shape)) for shape in shapes)


def _bytes_of(optimizer: str, shape: list[int]) -> int:
    size = prod(shape)
    if optimizer == "Adafactor":
        return 4 * (shape[0] + prod(shape[1:]) + 1) if len(shape) >= 2 else 4 * (size + 1)
    eight_bit = optimizer.endswith("8bit") and size >= SMALLEST
    moment = blocks_of(size) * (BLOCK + 4) if eight_bit else 4 * size
    powers = {"AdamW": 8, "AdamW8bit": 4}.get(optimizer, 0)
    return _MOMENTS[optimizer] * moment + powers
