"""Aspect-ratio buckets: the sizes that images are cropped to, and groups of records that are cropped to the same one.

The sizes are those of kohya's sd-scripts for the same flags (library/model_util.py make_bucket_resolutions,
library/train_util.py BucketManager): at most resolution x resolution pixels, sides that are multiples of
bucket_reso_steps. Groups are made within a window of records, so that a stream that is cut continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from ppsd.data.config import StreamConfig

Size = tuple[int, int]


class Group(NamedTuple):
    """Records of a window, by index, for samples of `size` (width, height)."""

    members: tuple[int, ...]
    size: Size


class Buckets:
    """The sizes for images of at most resolution x resolution pixels.

    no_upscale: an image goes to a bucket of its own shape and at most its own size, of which there is any number.
    """

    def __init__(self, resolution: int, shortest: int, longest: int, steps: int, no_upscale: bool = False) -> None:
        self.flags = {
            "resolution": resolution,
            "min_bucket_reso": shortest,
            "max_bucket_reso": longest,
            "bucket_reso_steps": steps,
            "bucket_no_upscale": no_upscale,
        }
        self._area, self._steps, self._no_upscale = resolution**2, steps, no_upscale
        self.sizes = bucket_sizes(resolution, shortest, longest, steps)
        self._ratios = np.array([width / height for width, height in self.sizes])

    def of(self, width: int, height: int) -> Size:
        """The bucket of an image of this size."""
        if self._no_upscale:
            return self._own_size(width, height)
        if (width, height) in self.sizes:
            return width, height
        return self.sizes[int(np.argmin(np.abs(self._ratios - width / height)))]

    def common(self, sizes: Sequence[Size], crop_only: bool = False) -> Size:
        """One size for images of several shapes: the middle one's bucket, or one that all of them can be cropped to."""
        if self._no_upscale or crop_only:
            own = [self.of(*size) for size in sizes]
            return min(width for width, _ in own), min(height for _, height in own)
        return self.of(*sorted(sizes, key=lambda size: size[0] / size[1])[len(sizes) // 2])

    def _own_size(self, width: int, height: int) -> Size:
        if width * height > self._area:
            width, height = self._shrunk(width / height)
        return max(1, width // self._steps) * self._steps, max(1, height // self._steps) * self._steps

    def _shrunk(self, ratio: float) -> Size:
        """A size of this ratio with one side a multiple of the steps: the side that keeps the ratio better."""
        by_width = self._rounded(math.sqrt(self._area * ratio))
        by_height = self._rounded(math.sqrt(self._area / ratio))
        height, width = self._rounded(by_width / ratio), self._rounded(by_height * ratio)
        if abs(by_width / height - ratio) < abs(width / by_height - ratio):
            return by_width, int(by_width / ratio + 0.5)
        return int(by_height * ratio + 0.5), by_height

    def _rounded(self, side: float) -> int:
        return max(1, int(side + 0.5) // self._steps) * self._steps


def buckets_of(config: StreamConfig) -> Optional[Buckets]:
    """Those that a stream crops to, if it does."""
    if not config.enable_bucket:
        return None
    sides = (config.min_bucket_reso, config.max_bucket_reso, config.bucket_reso_steps)
    return Buckets(config.resolution, *sides, config.bucket_no_upscale)


def bucket_sizes(resolution: int, shortest: int, longest: int, steps: int) -> list[Size]:
    """All sizes (width, height), sorted."""
    area = resolution**2
    square = resolution // steps * steps
    sizes = {(square, square)}
    for width in range(shortest, longest + 1, steps):
        height = min(longest, area // width // steps * steps)
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def make_groups(
    sizes: Sequence[Size | None], order: Sequence[int], count: int, buckets: Buckets, crop_only: bool = False
) -> list[Group]:
    """Groups of `count` records each, all records of `order` that have a size exactly once, in a mixed order.

    Records that are left over in their buckets are put together by their aspect ratio and share a bucket; if there are
    not enough of them for whole groups, the last group is short. crop_only: they cannot be resized for it.
    """
    waiting: dict[Size, list[int]] = {}
    groups = []
    for place in order:
        size = sizes[place]
        if size is None:
            continue
        bucket = buckets.of(*size)
        members = waiting.setdefault(bucket, [])
        members.append(int(place))
        if len(members) == count:
            groups.append(Group(tuple(waiting.pop(bucket)), bucket))
    left = sorted((sizes[i][0] / sizes[i][1], i) for members in waiting.values() for i in members)  # type: ignore[index]
    rest = [[i for _, i in left[start : start + count]] for start in range(0, len(left), count)]
    shared = [Group(tuple(members), buckets.common([sizes[i] for i in members], crop_only)) for members in rest]  # type: ignore[misc]
    return _spread(groups, shared)


def _spread(groups: list[Group], shared: list[Group]) -> list[Group]:
    """The shared groups evenly among the others, a short one last."""
    every = (len(groups) + 1) / (len(shared) + 1) if shared else 0
    for index, group in enumerate(shared):
        groups.insert(len(groups) if index == len(shared) - 1 else int((index + 1) * every) + index, group)
    return groups
