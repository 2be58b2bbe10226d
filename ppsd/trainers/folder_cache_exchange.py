"""What the processes of a run have to tell one another of a cache that each has made a share of."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from ppsd.compat import meet

import numpy as np
import paddle

from ppsd.formats.array_store import ArrayFolder, ArrayMemory, ArrayStore
from ppsd.trainers.processes import broadcast, everyones

_CHUNK_BYTES = 2**26
_NEWS_SECONDS = 60.0  # how long a network folder may take to show what another machine has written


def share(values: list[Any]) -> list[Any]:
    """What all processes pass, however much later than the others one is."""
    meet()
    return list(chain.from_iterable(everyones(values)))


def hand_out(store: ArrayStore, keys: Iterable[str]) -> None:
    """Give every process what each has in its memory under its `keys`, or see that the folder shows it to all.

    Raises ValueError where it does not.
    """
    if paddle.distributed.get_world_size() == 1:
        return
    if isinstance(store, ArrayMemory):
        _broadcast(store, list(keys))
    elif isinstance(store, ArrayFolder):
        _await(store, share(list(keys)))


def _broadcast(memory: ArrayMemory, keys: list[str]) -> None:
    meet()
    announced = everyones([(key, memory.arrays[key].shape) for key in keys])
    for rank, items in enumerate(announced):
        for shape, chunk in _chunks(items):
            mine = np.stack([memory.arrays[key] for key in chunk]) if rank == paddle.distributed.get_rank() else None
            arrays = broadcast(mine, (len(chunk), *shape), np.float32, rank)
            for key, array in zip(chunk, arrays):
                memory.arrays[key] = array


def _chunks(items: list[tuple[str, tuple[int, ...]]]) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """Keys of arrays of one shape, at most _CHUNK_BYTES together."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for key, shape in items:
        by_shape.setdefault(shape, []).append(key)
    for shape, keys in by_shape.items():
        count = max(1, _CHUNK_BYTES // (4 * int(np.prod(shape))))
        yield from ((shape, keys[start : start + count]) for start in range(0, len(keys), count))


def _await(store: ArrayFolder, keys: Iterable[str]) -> None:
    end = time.monotonic() + _NEWS_SECONDS
    for key in keys:
        while not store.path(key).exists():
            if time.monotonic() > end:
                raise ValueError(
                    f"--latents_cache_dir: {store.path(key)}, which another process has written, is not there; it must"
                    " be a folder that all machines share"
                )
            time.sleep(0.5)
