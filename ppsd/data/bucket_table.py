"""Which buckets a run has, as a table for the log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppsd.data.buckets import Buckets
from ppsd.data.epoch_plan import bucket_counts, bucket_numbers
from ppsd.data.indexed import IndexedSource


def source_table(source: IndexedSource, buckets: Buckets, batch_size: int) -> str:
    """Of all images of a source: size, images an epoch (repeats counted), batches an epoch."""
    sizes, _ = bucket_numbers(source, buckets)
    images = bucket_counts(source, buckets)
    batches = -(-images // batch_size)
    again = int(batches.sum() * batch_size - images.sum())
    filled = f"; to fill the last of each bucket {again} images come again" if again else ""
    title = f"buckets of {source.name}, images and batches of {batch_size} an epoch{filled}:"
    return _table(title, ("size", "images", "batches"), sizes, [images.tolist(), batches.tolist()])


def sample_table(sizes: np.ndarray, buckets: Buckets) -> str:
    """Of some images of a stream, by their sizes int [N,2]."""
    found, inverse = np.unique(sizes, axis=0, return_inverse=True)
    of = np.array([buckets.of(int(width), int(height)) for width, height in found]).reshape(-1, 2)
    table, counts = np.unique(of[inverse.reshape(-1)], axis=0, return_counts=True)
    shares = [f"{100 * count / len(sizes):.1f} %" for count in counts]
    title = f"buckets of {len(sizes)} images checked:"
    return _table(title, ("size", "images", "share"), table, [counts.tolist(), shares])


def _table(title: str, names: Sequence[str], sizes: np.ndarray, columns: Sequence[Sequence[object]]) -> str:
    rows = [names, *zip((f"{width} x {height}" for width, height in sizes.tolist()), *columns)]
    return "\n".join([title, *("  " + "".join(f"{cell!s:>13}" for cell in row) for row in rows)])
