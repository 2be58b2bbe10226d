from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from ppsd.data.inspection.looks import NEAR_BITS, NO_LOOK, difference_hash, near_hashes, popcount
from tests.images import encode, photographs


def look(data: bytes) -> int:
    return difference_hash(Image.open(io.BytesIO(data)), data)


def bits_apart(a: int, b: int) -> int:
    return bin(a ^ b).count("1")


def test_bits_say_where_it_gets_lighter() -> None:
    ramp = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (80, 1))
    ramp[40:] = ramp[40:, ::-1]
    assert look(encode(Image.fromarray(ramp), "PNG")) == 2**32 - 1


def test_copies_that_were_shrunk_and_compressed_look_alike_and_others_do_not() -> None:
    looks = []
    for data in photographs().values():
        image = Image.open(io.BytesIO(data)).convert("RGB")
        small = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
        copies = [encode(image, quality=90), encode(small, quality=60), encode(small, "WEBP"), encode(image, "PNG")]
        near = [bits_apart(look(data), look(copy)) for copy in copies]
        assert max(near) <= NEAR_BITS, near
        assert bits_apart(look(data), look(encode(ImageOps.mirror(image)))) > 10
        looks.append(look(data))
    apart = [bits_apart(a, b) for i, a in enumerate(looks) for b in looks[:i]]
    assert min(apart) > 10


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_flat_images_have_no_look(mode: str) -> None:
    flat = Image.new(mode, (300, 200), 100 if mode == "L" else tuple([100] * len(mode)))
    assert look(encode(flat, "PNG" if mode == "RGBA" else "JPEG")) == NO_LOOK


def test_transparent_pixels_do_not_count() -> None:
    image = Image.effect_noise((90, 80), 90).resize((300, 200)).convert("RGB")
    hidden = image.copy()
    hidden.putalpha(0)
    assert look(encode(image, "PNG")) != NO_LOOK
    assert look(encode(hidden, "PNG")) == NO_LOOK


def test_popcount() -> None:
    numbers = np.array([0, 1, 2**64 - 1, 0xF0F0, 1 << 63], np.uint64)
    assert popcount(numbers).tolist() == [0, 1, 64, 8, 1]


def test_near_ones_are_those_that_comparing_all_finds() -> None:
    random = np.random.default_rng(3)
    centres = random.integers(0, 2**64, 120, dtype=np.uint64)
    hashes = [*centres.tolist()]
    for centre in centres.tolist():
        for distance in random.integers(1, 7, 2).tolist():
            flips = random.choice(64, distance, replace=False)
            hashes.append(centre ^ sum(1 << int(flip) for flip in flips))
    unique = np.unique(np.array(hashes, np.uint64))
    distances = popcount(unique[:, None] ^ unique[None, :])
    np.fill_diagonal(distances, 64)
    near = near_hashes(unique)
    assert near.flags.tolist() == (distances.min(axis=1) <= NEAR_BITS).tolist()
    assert 50 < near.flags.sum() < len(unique)
    assert len(near.pairs) == 10
    assert all(distances[a, b] <= NEAR_BITS and a < b for a, b in near.pairs)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_hashes(count: int) -> None:
    near = near_hashes(np.arange(count, dtype=np.uint64))
    assert near.flags.tolist() == [count == 2] * count
    assert near.pairs == [(0, 1)][: count - 1 if count else 0]


def test_many_that_agree_take_bounded_work() -> None:
    """20,000 hashes with the same 44 bits: 200 million pairs if all were compared."""
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**20, 20_000, dtype=np.uint64))
    near = near_hashes(hashes)
    assert near.flags.mean() > 0.9
