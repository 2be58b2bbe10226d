"""Encoding images in batches of one size, as they come, with their mirror images if these are wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Callable, Union

import numpy as np

from ppsd.trainers.latent_cache import NOT_FINITE, Decode, Encoder, Slot, decoded
from ppsd.types import BadRecord, Record, Sample

Moments = Union[tuple[np.ndarray, ...], BadRecord]
Fetch = Callable[[], list[tuple[int, Moments]]]


def encode_images(
    images: Iterable[tuple[int, Record]],
    decode: Decode,
    encoder: Encoder,
    *,
    mirrored: bool,
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[int, Moments]]:
    """Moments [8,h,w] of each image and perhaps of its mirror image, or what is wrong with it, in any order.

    Threads decode ahead, and a batch is fetched from the device when the next one is under way.
    """
    waiting: dict[tuple[int, ...], list[Slot]] = {}
    flying: deque[Fetch] = deque()
    for slot in decoded(images, decode, num_workers, ahead=2 * batch_size):
        if slot.sample is None:
            assert isinstance(slot.result, BadRecord)
            yield slot.number, slot.result
            continue
        slots = waiting.setdefault(slot.sample.pixels.shape, [])
        slots.append(slot)
        if len(slots) == batch_size:
            flying.append(_start(waiting.pop(slot.sample.pixels.shape), encoder, mirrored))
        if len(flying) > 1:
            yield from flying.popleft()()
    for fetch in flying:
        yield from fetch()
    for slots in waiting.values():
        yield from _start(slots, encoder, mirrored)()


def _start(slots: list[Slot], encoder: Encoder, mirrored: bool) -> Fetch:
    """Begin to encode; calling the result waits."""
    samples = [slot.sample for slot in slots if slot.sample is not None]
    begun = [encoder.start(samples)]
    if mirrored:
        begun.append(encoder.start([_mirrored(sample) for sample in samples]))

    def fetch() -> list[tuple[int, Moments]]:
        moments: Iterator[Any] = zip(*(fetch()[0] for fetch in begun))
        return [(slot.number, _checked(found)) for slot, found in zip(slots, moments)]

    return fetch


def _mirrored(sample: Sample) -> Sample:
    return replace(sample, pixels=np.ascontiguousarray(sample.pixels[..., ::-1]))


def _checked(moments: tuple[np.ndarray, ...]) -> Moments:
    if all(np.isfinite(array).all() for array in moments):
        return moments
    return BadRecord(NOT_FINITE, "the VAE gives values that are not finite for this image")
