"""Perceptual hashes: images that look alike have hashes that differ in few bits."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from PIL import Image

from ppsd.data.decode import decode_image
from ppsd.types import BadRecord

NO_LOOK = 0
NEAR_BITS = 3
WINDOW = 32

_FLATTEST = 8  # grey levels between the darkest and the lightest cell; below it noise makes the hash
_BLOCKS = (11, 11, 11, 11, 10, 10)
_POPCOUNT = np.array([bin(number).count("1") for number in range(2**16)], np.uint8)


def difference_hash(image: Image.Image, data: bytes) -> int:
    """The 64-bit dHash of an image of which the header has been read, and of its file; NO_LOOK for a flat image.

    Bit 8 r + c says whether in 9 x 8 grey cells the one at row r, column c + 1 is lighter than that at column c
    (N. Krawetz, "Kind of like that", 2013). A JPEG file is decoded at an eighth of its size where that is enough.
    """
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        image.draft("L", (72, 64))
    else:
        decoded = decode_image(data)
        if isinstance(decoded, BadRecord):
            return NO_LOOK
        image = decoded
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    if cells.max() - cells.min() < _FLATTEST:
        return NO_LOOK
    bits = (cells[:, 1:] > cells[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


class Near(NamedTuple):
    """Which of N hashes have another one within NEAR_BITS bits: bool [N]; and some of the pairs, by index."""

    flags: np.ndarray
    pairs: list[tuple[int, int]]


def near_hashes(hashes: np.ndarray, max_pairs: int = 10) -> Near:
    """Near ones among different hashes, uint64 [N].

    Cut into 6 blocks of bits, two hashes that differ in 3 bits agree in at least 3 whole blocks: so they are neighbours
    in one of 20 orders (Manku et al. 2007, "Detecting near-duplicates for web crawling", section 3). Where more than
    WINDOW hashes agree in the same blocks each is compared with WINDOW of them only. Needs about 60 bytes a hash.
    """
    flags = np.zeros(len(hashes), bool)
    pairs: dict[tuple[int, int], int] = {}
    for mask in _masks():
        keys = hashes & mask
        order = np.lexsort((hashes, keys))
        keys = keys[order]
        for shift in range(1, min(WINDOW, len(hashes) - 1) + 1):
            places = np.flatnonzero(keys[shift:] == keys[:-shift])
            if not len(places):
                break
            a, b = order[places], order[places + shift]
            distance = popcount(hashes[a] ^ hashes[b])
            found = np.flatnonzero(distance <= NEAR_BITS)
            flags[a[found]] = flags[b[found]] = True
            for place in found[: max_pairs - len(pairs)]:
                pair = sorted((int(a[place]), int(b[place])))
                pairs[pair[0], pair[1]] = int(distance[place])
    return Near(flags, sorted(pairs, key=lambda pair: (pairs[pair], pair)))


def _masks() -> list[np.uint64]:
    blocks, start = [], 0
    for width in _BLOCKS:
        blocks.append(((1 << width) - 1) << start)
        start += width
    return [np.uint64(sum(three)) for three in combinations(blocks, 3)]


def popcount(numbers: np.ndarray) -> np.ndarray:
    """Bits that are 1: uint64 [N] -> uint8 [N]."""
    return sum(_POPCOUNT[(numbers >> np.uint64(shift)) & np.uint64(0xFFFF)] for shift in (0, 16, 32, 48))
