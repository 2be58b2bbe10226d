"""The stream of batches of one device, repeatable and resumable."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Optional, Union

import numpy as np

from ppsd.data.bucket_table import source_table
from ppsd.data.buckets import buckets_of
from ppsd.data.collate import collate
from ppsd.data.conditions import BYTES_A_PIXEL
from ppsd.data.config import StreamConfig
from ppsd.data.filters import pixel_size
from ppsd.data.indexed import IndexedSource, measured
from ppsd.data.lane import Cursor, LaneSettings, LaneState, default_lanes
from ppsd.data.memory import keep_freed_memory
from ppsd.data.naming import record_names, waited_for
from ppsd.data.position import Position, merge_positions, read_position, write_position
from ppsd.data.sample import SampleMaker
from ppsd.data.source import Source, open_sources, records_per_epoch, settled
from ppsd.data.stream import SampleStream, device_lanes
from ppsd.data.tally import Tally
from ppsd.data.tokens import TokenizeCaptions
from ppsd.data.workers import WorkerPool
from ppsd.types import Batch, Sample, World

logger = logging.getLogger(__name__)

PREFETCHED_BATCHES = 2
REPORT_SECONDS = 30.0  # between two lines about epochs
MANY_PARTS = 2**30  # records that are found by number are shared by any number of lanes at no cost


class StreamLoader:
    """Iterates over batches of `batch_size` samples for the device `world.rank` of `world.size`.

    With buckets (`config.enable_bucket`) the samples of a batch have one size.

    `sources`: those of the config where they are open already.

    Iterating again goes on where the last iteration ended. With `config.num_records` an iteration ends with its epoch
    of num_records // (batch_size * world.size) batches, and where all sources are indexed with theirs, the last batch
    of which has the first records of the next epoch, otherwise never. One iteration at a time.
    `batches_per_step` (gradient accumulation): an iteration is whole steps. Where the epoch ends within one, as after a
    change of the batch size, the step's other batches are the first of the next epoch.
    The batches do not depend on `num_workers`, and those of all devices together not on their number (with buckets: as
    long as `batch_size` stays the same).
    `position`: that of an earlier run, or those of all its devices; the run goes on after it.
    `tally`: what was used and skipped so far. Raises ValueError for settings or a position that do not fit, and while
    iterating when a source has no usable record.
    """

    def __init__(
        self,
        config: StreamConfig,
        tokenizer: Any,
        *,
        batch_size: int,
        world: World = World(),  # noqa: B008  frozen
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        position: Union[Position, Iterable[Position], None] = None,
        sources: Optional[Sequence[Source]] = None,
    ) -> None:
        sources = ready_sources(config, open_sources(config, seed) if sources is None else sources)
        config = settled(config, sources)
        merged = None if position is None else merge_positions(position)
        lanes = _num_lanes(config, sources, world, merged)
        make_sample = SampleMaker(config, TokenizeCaptions(tokenizer, config.max_length, config.chunks))
        self._settings = lane_settings(config, sources, lanes, seed, make_sample, batch_size)
        if world.rank == 0:
            log_buckets(self._settings)
        states = {lane: LaneState() for lane in range(lanes)}
        self._samples = 0
        if merged is not None:
            self._samples, states = read_position(self._settings, merged)
        self._world, self._batch_size, self._num_workers = world, batch_size, num_workers
        self._batches_per_step = batches_per_step
        self._bytes_a_pixel = 3 + sum(BYTES_A_PIXEL[name] for name in config.conditions)
        self._epoch_batches = _epoch_batches(config, sources, batch_size, world)
        self._states = {lane: states[lane] for lane in self._lanes()}
        self._items: Optional[Iterator[tuple[list[Sample], Tally]]] = None
        self._pool: Optional[WorkerPool] = None
        self._epoch = self._epochs_done()
        self._epoch_tally, self._reported = Tally(), -math.inf
        self.tally = Tally()

    def __len__(self) -> int:
        if self._epoch_batches is None:
            raise TypeError("a stream without num_records has no length")
        return self._epoch_batches

    def __iter__(self) -> Iterator[Batch]:
        left = self._batches_left()
        done = False
        try:
            while left is None or left > 0:
                yield self._next_batch()
                left = None if left is None else left - 1
            done = True
        finally:
            if not done:
                self.close()

    def position(self) -> dict[str, Any]:
        """Where this device's lanes stand after the batches handed out so far: JSON, for `position` of a later run."""
        return write_position(self._settings, self._samples, self._states)

    def names(self, records: np.ndarray) -> list[str]:
        """ "part:line" of a batch's records, int64 [B,3]."""
        return record_names(self._settings.sources, records)

    def waited_for(self) -> str:
        """Where the next sample comes from, in words."""
        return waited_for(self._settings, self._states, self._num_workers)

    def close(self) -> None:
        """End the worker processes and close all files; iterating again starts them again."""
        self._items = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _lanes(self) -> list[int]:
        return device_lanes(self._settings.num_lanes, self._world, self._samples // self._settings.group_size)

    def _open(self) -> Iterator[tuple[list[Sample], Tally]]:
        keep_freed_memory()
        lanes = self._lanes()
        workers = min(self._num_workers, len(lanes))
        if not workers:
            return iter(SampleStream(self._settings, lanes, self._states))
        if workers < self._num_workers:
            logger.warning(
                "%d of %d data workers are used: this device has %d lanes (--num_lanes is the number over all devices)",
                workers,
                self._num_workers,
                len(lanes),
            )
        groups = self._batch_size // self._settings.group_size
        rounds, rest = divmod(groups, len(lanes))
        most = rounds * -(-len(lanes) // workers) + -(-rest // workers)  # groups of a batch from one worker
        makers = [partial(SampleStream, self._settings, lanes[w::workers], self._states) for w in range(workers)]
        self._pool = WorkerPool(makers, PREFETCHED_BATCHES * most, keep=most + 1, slot_bytes=self._slot_bytes())
        return self._pool.take_in_turn(len(lanes))

    def _slot_bytes(self) -> int:
        """Enough for the pixels of a group and their conditions, and as much again for what else there is."""
        buckets = self._settings.buckets
        sizes = [self._settings.size] if buckets is None else buckets.sizes
        largest = max(width * height for width, height in sizes)
        return 2**22 + 2 * self._bytes_a_pixel * largest * self._settings.group_size

    def _next_batch(self) -> Batch:
        if self._items is None:
            self._items = self._open()
        samples: list[Sample] = []
        while len(samples) < self._batch_size:
            group, tally = next(self._items)
            cursor = group[0].cursor
            assert cursor is not None
            self._states[int(cursor[0])].advance(cursor)
            self._epoch_tally.merge(tally)
            self.tally.merge(tally)
            samples += group
        self._samples += self._batch_size * self._world.size
        self._report_epoch()
        return collate(samples)

    def _batches_left(self) -> Optional[int]:
        """Batches of whole steps to the end of the epoch, which a resumed run may have begun in the middle of."""
        if self._epoch_batches is None:
            return None
        batch = self._batch_size * self._world.size
        epoch, step = self._epoch_batches * batch, batch * self._batches_per_step
        return -(-(epoch - self._samples % epoch) // step) * self._batches_per_step

    def _epochs_done(self) -> int:
        """Epochs of num_records samples that are over; without num_records, passes that all lanes have finished."""
        if self._epoch_batches is not None:
            return self._samples // (self._epoch_batches * self._batch_size * self._world.size)
        used = [index for index, source in enumerate(self._settings.sources) if source.weight != 0]
        return min(state.cursors.get(source, Cursor()).epoch for state in self._states.values() for source in used)

    def _report_epoch(self) -> None:
        """Log what an epoch used and skipped when it has just ended; of a few images, several epochs at once."""
        epoch, now = self._epochs_done(), time.monotonic()
        if epoch > self._epoch and now >= self._reported + REPORT_SECONDS:
            level = logging.WARNING if self._epoch_tally.unexpected else logging.INFO
            epochs = f"epoch {epoch}" if epoch == self._epoch + 1 else f"epochs {self._epoch + 1} to {epoch}"
            logger.log(level, "data of %s: %s", epochs, self._epoch_tally)
            self._epoch, self._epoch_tally, self._reported = epoch, Tally(), now


def lane_settings(
    config: StreamConfig,
    sources: Sequence[Source],
    num_lanes: int,
    seed: int,
    make_sample: SampleMaker,
    batch_size: int,
) -> LaneSettings:
    """What the lanes of a run have in common; with buckets, a group is the batch of one device."""
    buckets = buckets_of(config)
    return LaneSettings(
        sources,
        num_lanes,
        seed,
        config.buffer_size,
        config.shuffle_every_n_samples > 0,
        make_sample,
        size=(config.resolution, config.resolution),
        buffer_bytes=config.shuffle_buffer_mb * 2**20 / num_lanes,
        buckets=buckets,
        group_size=batch_size if buckets else 1,
        measure=partial(pixel_size, max_pixels=config.max_image_pixels),
        filter=config.filter,
        alternate=config.alternate,
    )


def log_buckets(settings: LaneSettings) -> None:
    """Say which buckets the images of indexed sources go to."""
    for source in settings.sources:
        if settings.buckets is not None and isinstance(source, IndexedSource):
            logger.info("%s", source_table(source, settings.buckets, settings.group_size))


def ready_sources(config: StreamConfig, sources: Sequence[Source]) -> list[Source]:
    """The sources, with the sizes of images where buckets need to know them before they begin."""
    wanted = config.enable_bucket
    return [measured(source) if wanted and isinstance(source, IndexedSource) else source for source in sources]


def _num_lanes(config: StreamConfig, sources: Sequence[Source], world: World, position: Optional[Position]) -> int:
    if config.num_lanes is not None:
        lanes = config.num_lanes
    elif position is not None:
        lanes = position["num_lanes"]
    else:
        shared = [len(source.parts) for source in sources if not isinstance(source, IndexedSource)]
        lanes = default_lanes(min(shared, default=MANY_PARTS), world.size)
    if lanes % world.size:
        raise ValueError(f"{lanes} lanes (--num_lanes) cannot be shared by {world.size} devices: it must be a multiple")
    return lanes


def _epoch_batches(config: StreamConfig, sources: Sequence[Source], batch_size: int, world: World) -> Optional[int]:
    """Batches of a device in an epoch: of num_records, rounded down, or of all that indexed sources have."""
    records = config.num_records
    if records is None:
        known = records_per_epoch(sources, config, batch_size)
        return -(-known // (batch_size * world.size)) if known else None
    batches = records // (batch_size * world.size)
    if not batches:
        raise ValueError(
            f"--num_records {records} is less than one batch of {batch_size} on each of {world.size} devices"
        )
    return batches
