"""Pure pseudo-random numbers: each is a function of the integers it is drawn for, on every machine and version.

No generator has a state here, so nothing depends on which process asks, or in which order.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum

import numpy as np


class Draw(IntEnum):
    """What a number is drawn for. Each has its own stream, so turning one option on never changes another's draws."""

    PARTS = 1
    LANES = 2
    WINDOW = 3
    SOURCE = 4
    RECORD = 5
    BORROW = 6
    CROP_X = 7
    CROP_Y = 8
    FLIP = 9
    CAPTION = 10
    CHOICE = 11
    AGAIN = 12
    TAG_ORDER = 13
    TAG = 14
    INDEX = 15
    GROUPS = 16
    BRIGHTNESS = 17
    CONTRAST = 18
    SATURATION = 19
    HUE = 20
    SUBSET = 21
    HELD_OUT = 22
    MASK = 23
    ANNOTATION = 24


def derive_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) that is a hash (BLAKE2b) of 64-bit integers; negative ones are taken modulo 2^64."""
    data = struct.pack(f"<{len(numbers)}Q", *(int(number) % 2**64 for number in numbers))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def uniform(*numbers: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    return (derive_seed(*numbers) >> 10) * 2.0**-53


def permutation(count: int, *numbers: int) -> np.ndarray:
    """A random order of 0..count-1 -> int64 [count]: the ranks of `count` outputs of SplitMix64.

    https://prng.di.unimi.it/splitmix64.c
    """
    state = np.uint64(derive_seed(*numbers)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable")
