"""One measured run of one data pipeline in a process of its own; the last line it prints is the result as JSON.

python -m tests.benchmarks.pipeline_runs PIPELINE WORKERS FOLDER --resolution 256 --num_images 2000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Optional

import numpy as np
import psutil

from tests.benchmarks.photo_set import PhotoSet, read_tokenizer

BATCH_SIZE = 16
MEMORY_SAMPLES = 5
Batches = Iterator[Any]


@dataclass(frozen=True)
class Result:
    """What one run took. cpu_ms: user and system time per image of the process and its children together.

    first_batch_s: from before the loader is made; memory_mb: of the whole process tree above that moment's, pages that
    processes share counted once.
    """

    cpu_ms: float
    images_per_s: float
    first_batch_s: Optional[float] = None
    memory_mb: Optional[float] = None


def tree() -> list[psutil.Process]:
    """This process and all that it started."""
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def cpu_seconds() -> float:
    """User and system time of the living processes of the tree."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in tree()))


def memory_mb() -> float:
    """Proportional set size of the tree in MB (10^6 bytes)."""
    return sum(process.memory_full_info().pss for process in tree()) / 1e6


def measure(open_batches: Callable[[], Batches], num_images: int) -> Result:
    """Time the later four fifths of `num_images` images.

    So no image of a set of that size is measured twice, and the tokenizer has met the common words.
    """
    before = memory_mb()
    begin = time.perf_counter()
    batches = open_batches()
    next(batches)
    first_batch = time.perf_counter() - begin
    memory = [memory_mb()]
    warm, count = num_images // 5 // BATCH_SIZE, num_images * 4 // 5 // BATCH_SIZE - MEMORY_SAMPLES
    drain(batches, warm)
    cpu, wall = cpu_seconds(), time.perf_counter()
    drain(batches, count)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    for _ in range(MEMORY_SAMPLES):
        memory.append(memory_mb())
        drain(batches, 1)
    images = count * BATCH_SIZE
    return Result(cpu / images * 1000, images / wall, first_batch, max(memory) - before)


def drain(batches: Batches, count: int) -> None:
    """Take batches and drop them."""
    taken = sum(1 for _ in islice(batches, count))
    assert taken == count


def recipe(photos: PhotoSet, resolution: int, workers: int) -> Callable[[], Batches]:
    from tests.benchmarks.recipe_stream import recipe_loader

    tokenizer = read_tokenizer(photos.folder)
    parts = [str(part) for part in photos.parts(".gz")]
    return lambda: iter(recipe_loader(parts, resolution, tokenizer, BATCH_SIZE, workers))


def ours(
    photos: PhotoSet, resolution: int, workers: int, *, file_list: Optional[Path] = None, **settings: Any
) -> Callable[[], Batches]:
    from ppsd.data.config import StreamConfig
    from ppsd.data.loader import StreamLoader

    tokenizer = read_tokenizer(photos.folder)
    config = StreamConfig(str(file_list or photos.file_list), resolution=resolution, **settings)
    return lambda: iter(StreamLoader(config, tokenizer, batch_size=BATCH_SIZE, num_workers=workers))


def from_tars(photos: PhotoSet, resolution: int, workers: int) -> Callable[[], Batches]:
    return ours(photos, resolution, workers, file_list=photos.tar_list, interpolation="area")


def from_latents(photos: PhotoSet, resolution: int, workers: int) -> Callable[[], Batches]:
    return ours(photos, resolution, workers, file_list=photos.latent_list)


def webdataset_area(photos: PhotoSet, resolution: int, workers: int) -> Callable[[], Batches]:
    """webdataset's reading, shuffling and batching around the decoder, crop and tokenizer of ppsd."""
    assert not workers, "webdataset has worker processes only where torch is installed"
    from tests.benchmarks.webdataset_stream import webdataset_batches

    tokenizer = read_tokenizer(photos.folder)
    tars = [str(tar) for tar in photos.parts(".tar")]
    return lambda: webdataset_batches(tars, resolution, tokenizer, BATCH_SIZE)


PIPELINES: dict[str, Callable[[PhotoSet, int, int], Callable[[], Batches]]] = {
    "recipe": recipe,
    "lanczos": partial(ours, interpolation="lanczos"),
    "simd": partial(ours, interpolation="lanczos_simd"),
    "area": partial(ours, interpolation="area"),
    "tars": from_tars,
    "webdataset": webdataset_area,
    "latents": from_latents,
}


def decode_only(photos: PhotoSet, processes: int, num_images: int) -> Result:
    """JPEG decoding and nothing else, of files in memory into a reused buffer, in one or more processes at once."""
    from ppsd.formats.laion import read_part
    from ppsd.types import Record

    records = (record for part in photos.parts(".gz") for _, record in read_part(part))
    files = [record.image for record in records if isinstance(record, Record)]
    context = multiprocessing.get_context("fork")
    barrier, share = context.Barrier(processes), max(1, num_images // processes)
    with context.Pool(processes, _share_barrier, (barrier, files)) as pool:
        times = pool.map(_decode, [(first, share) for first in range(processes)], chunksize=1)
    cpu, wall = zip(*times)
    return Result(sum(cpu) / (share * processes) * 1000, share * processes / max(wall))


def _share_barrier(barrier: Any, files: Sequence[bytes]) -> None:
    global _shared
    _shared = (barrier, files)


def _decode(task: tuple[int, int]) -> tuple[float, float]:
    import simplejpeg

    barrier, files = _shared
    first, count = task
    buffer = np.empty(800 * 800 * 3, np.uint8)
    barrier.wait()
    cpu, wall = time.process_time(), time.perf_counter()
    for data in islice(cycle(files), first, first + count):
        simplejpeg.decode_jpeg(data, buffer=buffer)
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", choices=[*PIPELINES, "decode"])
    parser.add_argument("workers", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--num_images", type=int, default=2000)
    args = parser.parse_args()
    photos = PhotoSet(args.folder)
    if args.pipeline == "decode":
        result = decode_only(photos, args.workers, args.num_images)
    else:
        import cv2

        cv2.setNumThreads(1)
        result = measure(PIPELINES[args.pipeline](photos, args.resolution, args.workers), args.num_images)
    print(json.dumps(asdict(result)), flush=True)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(0)  # whatever a pipeline still has under way does not matter


if __name__ == "__main__":
    main()
