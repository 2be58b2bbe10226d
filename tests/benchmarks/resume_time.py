"""How long a continued run waits for its first batch, deep in an epoch, beside a fresh start.

    python -m tests.benchmarks.resume_time [--plain_gzip] [--records 1000] [--parts 8] [--workers 0 2] [--quick]

gzip parts of photographs of 300-800 pixels, batches of 16 at 256 pixels. Nothing that was used is decoded again, and
parts as ppsd writes them are hopped over member by member (ppsd.formats.gzip_members). Those of other tools, as with
--plain_gzip, can only be read from their beginning: each lane inflates its part up to where it stands. The goal is
twice a fresh start and the time that one part takes to inflate. The last two columns have the trainer around it, with
a tiny model: from loading the model, or the checkpoint, to the first batch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Optional

from ppsd import compat  # isort: skip  # noqa: F401  before paddle

import numpy as np
from paddlenlp.trainer import TrainerCallback
from paddlenlp.utils.log import logger as paddlenlp_logger

from ppsd.data.lane import LaneState, default_lanes
from ppsd.data.loader import StreamConfig, StreamLoader, lane_settings
from ppsd.data.position import write_position
from ppsd.data.sample import SampleMaker
from ppsd.data.source import open_sources
from ppsd.data.stream import SampleStream
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.inflate import inflated, pieces
from ppsd.formats.laion import write_part
from ppsd.trainers.building import build_trainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.types import Sample
from tests.benchmarks.photo_set import make_records
from tests.images import write_lists
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir, tiny_tokenizer

BATCH_SIZE, RESOLUTION, SEED = 16, 256, 0
DEPTHS = (0.1, 0.5, 0.9, 0.99)
UNIQUE = 100  # photographs; a part repeats them
Position = Optional[dict[str, Any]]


@dataclass(frozen=True)
class Set:
    """Parts of the same records, and how many they hold together."""

    file_list: Path
    part: Path
    records: int

    @property
    def config(self) -> StreamConfig:
        return StreamConfig(str(self.file_list), resolution=RESOLUTION)


def make_set(folder: Path, parts: int, records: int, plain_gzip: bool) -> Set:
    first = folder / "part-000001.gz"
    write_part(first, islice(cycle(list(make_records(min(records, UNIQUE)))), records), gzip=not plain_gzip)
    if plain_gzip:
        first.write_bytes(gzip.compress(first.read_bytes(), 6))
    paths = [first, *(folder / f"part-{number:06d}.gz" for number in range(2, parts + 1))]
    for path in paths[1:]:
        shutil.copy(first, path)
    return Set(write_lists(folder, {"photos": paths}), first, parts * records)


def positions(data: Set, depths: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Where a run stands after these shares of an epoch, found without decoding an image."""
    sources = open_sources(data.config)
    lanes = default_lanes(len(sources[0].parts), 1)
    maker = SampleMaker(data.config, TokenizeCaptions(tiny_tokenizer(), data.config.max_length))
    settings = lane_settings(data.config, sources, lanes, SEED, maker, BATCH_SIZE)
    states = {lane: LaneState() for lane in range(lanes)}
    stream = iter(SampleStream(replace(settings, make_sample=_undecoded), list(states), states))
    taken = 0
    for depth in depths:
        wanted = int(data.records * depth) // BATCH_SIZE * BATCH_SIZE
        for group, _ in islice(stream, wanted - taken):
            cursor = group[0].cursor
            assert cursor is not None
            states[int(cursor[0])].advance(cursor)
        taken = wanted
        yield write_position(settings, taken, states)


def _undecoded(record: Any, seed: int, size: Any) -> Sample:
    return Sample(np.zeros((3, 1, 1), np.uint8), np.zeros(1, np.int64), seed)


def inflating(part: Path) -> float:
    """Seconds."""
    begin = time.perf_counter()
    with open(part, "rb") as file:
        for _ in inflated(pieces(file)):
            pass
    return time.perf_counter() - begin


def first_batch(data: Set, workers: int, position: Position) -> float:
    """Seconds from making the loader on."""
    begin = time.perf_counter()
    loader = StreamLoader(
        data.config, tiny_tokenizer(), batch_size=BATCH_SIZE, num_workers=workers, seed=SEED, position=position
    )
    next(iter(loader))
    seconds = time.perf_counter() - begin
    loader.close()
    return seconds


class FirstBatch(TrainerCallback):
    """Notes when the trainer has its first batch; the run ends after that step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.at = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


def first_step(flags: Sequence[str], workers: int, checkpoint: Optional[Path], position: Position) -> float:
    """Seconds from loading the models until the trainer has its first batch."""
    run = parse_run(None, [*flags, "--dataloader_num_workers", str(workers)])
    clock, begin = FirstBatch(), time.perf_counter()
    trainer = build_trainer(StableDiffusionTrainer, run)
    make_loader = trainer.make_loader
    trainer.make_loader = lambda positions: make_loader(position)
    trainer.add_callback(clock)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return clock.at - begin


def make_checkpoint(folder: Path, data: Set) -> tuple[list[str], Path]:
    """Flags of a run of a tiny model, and a checkpoint of it."""
    config = folder / "unet.json"
    config.write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    flags = f"""--pretrained_model_name_or_path {tiny_pipeline_dir(folder)} --unet_name_or_path {config}
        --file_list {data.file_list} --resolution {RESOLUTION} --per_device_train_batch_size {BATCH_SIZE}
        --output_dir {folder / "out"} --save_steps 1 --image_logging_steps -1 --logging_steps 1000
        --report_to none --disable_tqdm True --seed {SEED}""".split()
    train(StableDiffusionTrainer, parse_run(None, [*flags, "--max_steps", "1"]))
    return [*flags, "--max_steps", "1000", "--save_strategy", "no"], folder / "out" / "checkpoint-1"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="of a part")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3, help="results are medians over them")
    parser.add_argument("--plain_gzip", action="store_true", help="parts of one gzip member, as other tools write them")
    parser.add_argument("--quick", action="store_true", help="parts of 100 records, one round")
    args = parser.parse_args()
    if args.quick:
        args.records, args.rounds = 100, 1
    return args


def main() -> None:
    args = parse_args()
    paddlenlp_logger.set_level("ERROR")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_set(folder, args.parts, args.records, args.plain_gzip)
        starts: dict[str, Position] = {"fresh": None}
        starts.update({f"at {depth:.0%}": found for depth, found in zip(DEPTHS, positions(data, DEPTHS))})
        flags, checkpoint = make_checkpoint(folder, data)
        part = median(inflating(data.part) for _ in range(3))
        kind = "one gzip member each" if args.plain_gzip else "gzip as ppsd writes it"
        size, lanes = f"{data.part.stat().st_size / 1e6:.0f} MB", starts["at 10%"]["num_lanes"]  # type: ignore[index]
        print(f"{args.parts} parts of {args.records} records, {kind}, {size};")
        print(f"one inflates in {part:.2f} s; lanes: {lanes}; medians of {args.rounds}")
        print(f"{'workers':<9}{'start':<9}{'first batch s':>14}{'goal s':>9}{'trainer s':>14}{'goal s':>9}")
        for workers in args.workers:
            bare: dict[str, list[float]] = {start: [] for start in starts}
            around: dict[str, list[float]] = {start: [] for start in starts}
            for _ in range(args.rounds):
                for start, position in starts.items():
                    bare[start].append(first_batch(data, workers, position))
                    around[start].append(first_step(flags, workers, checkpoint if position else None, position))
            for start in starts:
                row = f"{workers:<9}{start:<9}"
                for times in (bare, around):
                    row += f"{median(times[start]):>14.2f}{2 * median(times['fresh']) + part:>9.2f}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
