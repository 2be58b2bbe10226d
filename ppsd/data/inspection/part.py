"""Reading (some of) one part just as training would, and noting what is in it."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Callable, Union

import numpy as np
from PIL import Image

from ppsd.data.buckets import Size, buckets_of
from ppsd.data.captions import choose_caption
from ppsd.data.decode import open_image
from ppsd.data.filters import pixel_size
from ppsd.data.inspection.job import PartJob, Setup
from ppsd.data.inspection.looks import NO_LOOK, difference_hash
from ppsd.data.inspection.result import ROW, PartResult, Tile
from ppsd.data.inspection.tiles import jpeg_of, make_room, shown_of, text_of
from ppsd.data.sample import SampleMaker
from ppsd.data.seeds import Draw, derive_seed, uniform
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.laion import CORRUPT_GZIP, EMPTY_PART, TRUNCATED_GZIP, UNREADABLE_PART
from ppsd.formats.latents import NOT_LATENTS, TRUNCATED_LATENTS
from ppsd.formats.parquet import CORRUPT_PARQUET, MISSING_COLUMN
from ppsd.formats.parts import UNKNOWN_FORMAT
from ppsd.formats.stamp import part_stamp
from ppsd.formats.tar import CORRUPT_TAR, TRUNCATED_TAR
from ppsd.types import BadRecord, LatentRecord, Record, Sample

PART_FAILURES = frozenset(
    (
        *(UNREADABLE_PART, EMPTY_PART, UNKNOWN_FORMAT, TRUNCATED_GZIP, CORRUPT_GZIP, TRUNCATED_TAR, CORRUPT_TAR),
        *(CORRUPT_PARQUET, MISSING_COLUMN, NOT_LATENTS, TRUNCATED_LATENTS),
    )
)
MAX_TOKENS = 1000  # longer captions count as this long

AnyRecord = Union[Record, LatentRecord]


def inspect_part(setup: Setup, job: PartJob) -> PartResult:
    """Whatever is wrong with the part or its records is counted in the result."""
    return _inspector(setup).inspect(job)


@lru_cache(maxsize=1)
def _inspector(setup: Setup) -> _Inspector:
    """Loading a tokenizer takes long; a worker process does it once."""
    return _Inspector(setup)


class _Inspector:
    def __init__(self, setup: Setup) -> None:
        config = setup.config
        self._config, self._seed, self._details = config, setup.seed, setup.details
        self._tokenizer = pickle.loads(setup.tokenizer) if setup.tokenizer else None
        self._tokenize: Callable[[str], np.ndarray] = _no_tokens
        if self._tokenizer:
            self._tokenize = TokenizeCaptions(self._tokenizer, config.max_length, config.chunks)
        self._count = TokenizeCaptions(self._tokenizer, MAX_TOKENS) if self._tokenizer else None
        self._make = SampleMaker(config, self._tokenize)
        self._buckets = buckets_of(config)

    def inspect(self, job: PartJob) -> PartResult:
        result = PartResult(job.source, job.part, job.path, part_stamp(job.path), job.repeats)
        seed = derive_seed(derive_seed(self._seed, job.source), Draw.RECORD, 0, job.part)
        rows: list[tuple[Any, ...]] = []
        for number, record in self._records(job, result):
            if not isinstance(record, BadRecord):
                result.records += 1
                row, made = self._look_at(job, number, record, result)
                rows.append(row)
            else:
                made = record
                self._note_failure(record, result)
            if isinstance(made, Sample):
                result.tally.used += 1
                self._keep_tile(job, number, record, made, result, uniform(seed, number))
            elif not (job.again and made.reason in PART_FAILURES):
                result.tally.add(made.reason, job.where(number), made.detail)
        result.rows = np.array(rows, ROW)
        if job.limit is None or result.records < job.limit:
            result.estimate = result.records * job.every
        return result

    def _records(self, job: PartJob, result: PartResult) -> Iterator[tuple[int, Union[AnyRecord, BadRecord]]]:
        """The job's records; the time they take counts."""
        records = job.read(job.path, 0, every=job.every, offset=job.offset)
        taken = 0
        while job.limit is None or taken < job.limit:
            begin = time.perf_counter()
            item = next(records, None)
            result.seconds += time.perf_counter() - begin
            if item is None:
                break
            taken += 1
            yield item

    def _note_failure(self, bad: BadRecord, result: PartResult) -> None:
        if bad.reason in PART_FAILURES:
            result.failure = bad.reason
        else:
            result.records += 1

    def _look_at(
        self, job: PartJob, number: int, record: AnyRecord, result: PartResult
    ) -> tuple[tuple[Any, ...], Union[Sample, BadRecord]]:
        """The record's row, and what training would make of it."""
        seed = derive_seed(derive_seed(self._seed, job.source), Draw.RECORD, 0, job.part, number, -1)
        size = pixel_size(record, self._config.max_image_pixels)
        known = (0, 0) if isinstance(size, BadRecord) else size
        begin = time.perf_counter()
        made = self._make(record, seed, self._crop_size(known))
        result.seconds += time.perf_counter() - begin
        look = self._kind_and_look(record, result, isinstance(made, Sample))
        caption = choose_caption((record.caption, *record.more_captions), self._config.caption_rule, seed)
        data = record.moments.tobytes() if isinstance(record, LatentRecord) else record.image
        hashes = (_hash(data), look, _hash(caption.encode("utf-8", "surrogatepass")))
        facts = (len(data), len(caption), self._tokens(caption))
        return (number, isinstance(made, Sample), *known, *facts, *hashes), made

    def _crop_size(self, size: Size) -> Size:
        side = self._config.resolution
        return self._buckets.of(*size) if self._buckets and min(size) > 0 else (side, side)

    def _kind_and_look(self, record: AnyRecord, result: PartResult, good: bool) -> int:
        """Count the kind of image; the hash of its look if that is wanted."""
        image = None if isinstance(record, LatentRecord) else open_image(record.image, self._config.max_image_pixels)
        kind = "latents" if image is None else "unknown"
        if isinstance(image, Image.Image):
            kind = f"{image.format} {image.mode}"
        result.kinds[kind] = result.kinds.get(kind, 0) + 1
        if not (good and self._details and isinstance(image, Image.Image) and isinstance(record, Record)):
            return NO_LOOK
        return difference_hash(image, record.image)

    def _tokens(self, caption: str) -> int:
        """Tokens of the uncut caption with both ends, at most MAX_TOKENS; 0 without a tokenizer."""
        if self._count is None or self._tokenizer is None:
            return 0
        try:
            ids = self._count(caption)
        except UnicodeEncodeError:
            return 0
        ends = np.flatnonzero(ids == self._tokenizer.eos_token_id)
        return int(ends[0]) + 1 if len(ends) else MAX_TOKENS

    def _keep_tile(
        self, job: PartJob, number: int, record: Any, sample: Sample, result: PartResult, chance: float
    ) -> None:
        """Keep the sample for the contact sheet if it is among the job's luckiest."""
        limit = job.tiles if self._details and isinstance(record, Record) else 0
        if not make_room(result.tiles, limit, chance):
            return
        caption = choose_caption((record.caption, *record.more_captions), self._config.caption_rule, sample.seed)
        kept = None if self._tokenizer is None else text_of(sample.input_ids, self._tokenizer)
        tokens = self._tokens(caption)
        cut = tokens > self._config.longest_caption
        where = job.where(number)
        result.tiles.append(Tile(jpeg_of(shown_of(sample)), where, caption[:2000], kept, tokens, cut, chance))


def _no_tokens(caption: str) -> np.ndarray:
    """Ids of nothing. Raises UnicodeEncodeError for what no tokenizer takes."""
    caption.encode()
    return np.zeros(0, np.int64)


def _hash(data: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
