"""The data pipeline beside the public recipe's, webdataset and bare JPEG decoding: a table of goals and results.

    python -m tests.benchmarks.data_pipeline [--resolution 256] [--num_images 2000] [--rounds 5] [--quick]

Every pipeline runs in a process of its own, one after the other, round after round; results are medians over the
rounds. CPU time is user and system time of a process and its workers after the first batches, so it hardly depends on
what else the machine does; images/s do: compare them on a machine that is idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Optional

import numpy as np

from ppsd.data.config import StreamConfig
from ppsd.data.lane import default_lanes
from ppsd.data.loader import lane_settings
from ppsd.data.sample import SampleMaker
from ppsd.data.source import open_sources
from tests.benchmarks.goals import Goal, print_goals
from tests.benchmarks.photo_set import PhotoSet, make_set
from tests.benchmarks.pipeline_runs import BATCH_SIZE, Result
from tests.benchmarks.recipe_stream import shuffled
from tests.benchmarks.shuffle_delay import leaving_at_once

RUNS = {  # what is measured: (pipeline, worker processes)
    "recipe's method, in process": ("recipe", 0),
    "recipe's method, 2 workers": ("recipe", 2),
    "ppsd lanczos, in process": ("lanczos", 0),
    "ppsd lanczos, 2 workers": ("lanczos", 2),
    "ppsd lanczos by SIMD, in process": ("simd", 0),
    "ppsd lanczos by SIMD, 2 workers": ("simd", 2),
    "ppsd area, in process": ("area", 0),
    "ppsd area, 1 worker": ("area", 1),
    "ppsd area, 2 workers": ("area", 2),
    "ppsd area from tars, in process": ("tars", 0),
    "webdataset area, in process": ("webdataset", 0),
    "ppsd cached latents, in process": ("latents", 0),
    "ppsd cached latents, 2 workers": ("latents", 2),
    "JPEG decoding alone, 1 process": ("decode", 1),
    "JPEG decoding alone, 2 processes": ("decode", 2),
}
SLOW = 1000  # the recipe's method is measured over at most so many images a round: it first fills its buffer


def run(pipeline: str, workers: int, photos: PhotoSet, resolution: int, num_images: int) -> Result:
    """One run in a fresh process. Raises RuntimeError with what it wrote when it fails."""
    images = min(num_images, SLOW) if pipeline == "recipe" else num_images
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.pipeline_runs", pipeline, str(workers)]
    command += [str(photos.folder), "--resolution", str(resolution), "--num_images", str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{pipeline} with {workers} workers failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def measure_all(photos: PhotoSet, resolution: int, num_images: int, rounds: int) -> dict[tuple[str, int], Result]:
    """The median of every field over the rounds, by (pipeline, workers)."""
    results: dict[tuple[str, int], list[Result]] = {key: [] for key in RUNS.values()}
    for number in range(rounds):
        for name, key in RUNS.items():
            print(f"\rround {number + 1} of {rounds}: {name:<40}", end="", file=sys.stderr, flush=True)
            results[key].append(run(*key, photos, resolution, num_images))
    print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)
    return {key: median_result(many) for key, many in results.items()}


def median_result(results: list[Result]) -> Result:
    return Result(*(_median([getattr(result, field) for result in results]) for field in Result.__dataclass_fields__))


def _median(values: list[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def goals(results: dict[tuple[str, int], Result], recipe_at_once: float, ours_at_once: float) -> list[Goal]:
    """The goals for 256 px from 2000 JPEGs of 300 to 800 px."""
    recipe, recipe_two = results["recipe", 0], results["recipe", 2]
    area, area_two, tars = results["area", 0], results["area", 2], results["tars", 0]

    def less_cpu(name: str, factor: float) -> tuple[str, str, bool]:
        times = recipe.cpu_ms / results[name, 0].cpu_ms
        return f">= {factor}x less", f"{times:.2f}x less, {results[name, 0].cpu_ms:.2f} ms", times >= factor

    def at_most(value: Optional[float], limit: float, unit: str, other: Optional[float]) -> tuple[str, str, bool]:
        assert value is not None
        assert other is not None
        return f"<= {limit:g} {unit}", f"{value:.3g} {unit} (recipe: {other:.3g})", value <= limit

    speed = area_two.images_per_s / recipe_two.images_per_s
    limit = area_two.images_per_s / results["decode", 2].images_per_s
    latents = max(results["latents", 0].images_per_s, results["latents", 2].images_per_s) / recipe_two.images_per_s
    against = tars.cpu_ms / results["webdataset", 0].cpu_ms
    first = max(value for (name, _), value in _first_batches(results).items() if name in ("lanczos", "area"))
    return [
        Goal("CPU an image, exact Lanczos", *less_cpu("lanczos", 2.2)),
        Goal("CPU an image, area", *less_cpu("area", 4)),
        Goal("CPU an image, area", "<= 2.5 ms", f"{area.cpu_ms:.2f} ms", area.cpu_ms <= 2.5),
        Goal("CPU an image, Lanczos by SIMD", *less_cpu("simd", 5)),
        Goal("images/s, area, 2 workers", ">= 4x the recipe's", f"{speed:.2f}x", speed >= 4),
        Goal("images/s, area, 2 workers", ">= 40 % of bare decoding", f"{limit:.0%}", limit >= 0.4),
        Goal("images/s from cached latents", ">= 20x the recipe's", f"{latents:.1f}x", latents >= 20),
        Goal("CPU against webdataset, same tars", "<= 1.10x", f"{against:.2f}x", against <= 1.1),
        Goal("first batch (slowest of 0, 1, 2 workers)", *at_most(first, 0.5, "s", recipe_two.first_batch_s)),
        Goal("memory, one process", *at_most(area.memory_mb, 130, "MB", recipe.memory_mb)),
        Goal("memory, 2 workers", *at_most(area_two.memory_mb, 220, "MB", recipe_two.memory_mb)),
        Goal(
            "records that leave the buffer at once",
            "<= 1 %",
            f"{ours_at_once:.2%} (recipe: {recipe_at_once:.0%})",
            ours_at_once <= 0.01,
        ),
    ]


def _first_batches(results: dict[tuple[str, int], Result]) -> dict[tuple[str, int], float]:
    return {key: result.first_batch_s for key, result in results.items() if result.first_batch_s is not None}


def recipe_leaving_at_once(count: int = 20_000) -> float:
    """Share of records that leave the recipe's buffer as the next one after they entered."""
    read = 0

    def reading() -> object:
        nonlocal read
        while True:
            read += 1
            yield read

    drawn = shuffled(reading())  # type: ignore[arg-type]
    next(drawn)
    entered = read
    left = 0
    for item in islice(drawn, count):
        left += item == entered + 1
        entered = read
    return left / count


def ours_leaving_at_once(photos: PhotoSet, draws: int = 1000) -> float:
    """The same share of ppsd's stream with default settings, `draws` samples of each lane."""
    config = StreamConfig(str(photos.file_list))
    sources = open_sources(config)
    lanes = default_lanes(len(sources[0].parts), devices=1)
    settings = lane_settings(config, sources, lanes, 0, SampleMaker(config, lambda caption: np.zeros(1)), BATCH_SIZE)
    return leaving_at_once(settings, draws)


def print_results(results: dict[tuple[str, int], Result]) -> None:
    print(f"{'':<34}{'CPU ms/image':>13}{'images/s':>10}{'first batch s':>15}{'memory MB':>11}")
    for name, key in RUNS.items():
        result = results[key]
        first = "" if result.first_batch_s is None else f"{result.first_batch_s:.2f}"
        memory = "" if result.memory_mb is None else f"{result.memory_mb:.0f}"
        print(f"{name:<34}{result.cpu_ms:>13.2f}{result.images_per_s:>10.0f}{first:>15}{memory:>11}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--num_images", type=int, default=2000, help="images of the set, and measured in each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round over 400 images: a first impression")
    args = parser.parse_args()
    num_images, rounds = (400, 1) if args.quick else (args.num_images, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        photos = make_set(Path(folder), num_images, args.resolution)
        print(f"{num_images} JPEGs to {args.resolution} px, medians of {rounds} rounds, {os.cpu_count()} CPUs\n")
        results = measure_all(photos, args.resolution, num_images, rounds)
        at_once = ours_leaving_at_once(photos)
    print_results(results)
    print_goals(goals(results, recipe_leaving_at_once(), at_once))


if __name__ == "__main__":
    main()
