"""A small set of which one part is damaged, and what a stream makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

import numpy as np

from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.data.sample import SampleMaker
from ppsd.data.tally import Tally
from ppsd.data.tokens import TokenizeCaptions
from ppsd.types import Record, Sample
from tests.images import jpeg_bytes, part_line
from tests.tiny import WORDS, tiny_tokenizer

PARTS, PER_PART, SIDE = 3, 5, 32
EPOCH = 3  # column of a cursor
ENOUGH = 200  # more samples than any epoch here has

RECORDS = [
    Record(jpeg_bytes(36 + i, 33 + i % 5, seed=i), f"photo of {WORDS[i % 7]} {WORDS[i // 7]}")
    for i in range(PARTS * PER_PART)
]
DAMAGED = range(PER_PART, 2 * PER_PART)  # the records of the second part, which is the one that is damaged
OTHERS = [i for i in range(len(RECORDS)) if i not in DAMAGED]
TOKENIZER = tiny_tokenizer()
TOKENIZE = TokenizeCaptions(TOKENIZER, 77)

T = TypeVar("T")


@dataclass
class Epoch:
    """The samples of an epoch, and the least and the most records that it skipped."""

    samples: list[Sample]
    skipped: tuple[int, int]
    tally: Tally

    def counted(self, count: int) -> bool:
        """Whether so many records may have been used or skipped, all together."""
        used = len(self.samples)
        return used + self.skipped[0] <= count <= used + self.skipped[1]


def config_of(file_list: Path) -> StreamConfig:
    return StreamConfig(str(file_list), resolution=SIDE, num_lanes=1, caption_dropout_rate=0.0, buffer_size=4)


def part_of(records: Sequence[T], number: int) -> list[T]:
    """The records of part 0, 1 or 2."""
    return list(records[number * PER_PART : (number + 1) * PER_PART])


def text_of(records: Sequence[Record]) -> bytes:
    """An uncompressed part."""
    return b"".join(part_line(record.caption, record.image) for record in records)


def write_set(folder: Path, second: bytes, suffix: str = "", others: Sequence[bytes] = ()) -> Path:
    """A set of 3 parts of which the second has these bytes; returns its file list."""
    first, third = others or [text_of(part_of(RECORDS, number)) for number in (0, 2)]
    parts, lists = folder / "parts", folder / "filelist"
    for where in (parts, lists):
        where.mkdir(exist_ok=True)
    for number, data in enumerate((first, second, third), 1):
        (parts / f"part-{number}{suffix}").write_bytes(data)
    (lists / "set.filelist").write_text("".join(f"../parts/part-{n}{suffix}\n" for n in "123"))
    (lists / "set.filelist.list").write_text("../filelist/set.filelist\n")
    return lists / "set.filelist.list"


def second_part(folder: Path, suffix: str = "") -> Path:
    return folder / "parts" / f"part-2{suffix}"


def read_epoch(file_list: Path, num_workers: int = 0) -> Epoch:
    """One epoch of a stream. Raises what the loader raises, AssertionError for an epoch that does not end."""
    stream = StreamLoader(config_of(file_list), TOKENIZER, batch_size=1, num_workers=num_workers)
    batches = iter(stream)
    samples: list[Sample] = []
    try:
        while True:
            least = stream.tally.skipped
            batch = next(batches)
            if batch["cursor"][0, EPOCH] > 0:
                return Epoch(samples, (least, stream.tally.skipped), stream.tally)
            samples.append(_sample(batch))
            assert len(samples) < ENOUGH
    finally:
        batches.close()  # type: ignore[attr-defined]  # a generator


def epoch_or_error(file_list: Path) -> Union[Epoch, ValueError, OSError]:
    try:
        return read_epoch(file_list)
    except (ValueError, OSError) as error:
        return error


def _sample(batch: Any) -> Sample:
    pixels = batch["pixels"] if "pixels" in batch else batch["moments"]
    return Sample(pixels.numpy()[0], batch["input_ids"].numpy()[0], int(batch["seed"][0]))


def make(record: Record, seed: int) -> Optional[Sample]:
    """The sample of one record by itself; None where there is none."""
    made = SampleMaker(config_of(Path()), TOKENIZE)(record, seed, (SIDE, SIDE))
    return made if isinstance(made, Sample) else None


def is_of(sample: Sample, record: Record) -> bool:
    """Whether a sample is exactly what the record gives."""
    return np.array_equal(sample.input_ids, TOKENIZE(record.caption)) and shows(sample, record)


def shows(sample: Sample, record: Record) -> bool:
    """Whether a sample has the record's picture, whatever its caption."""
    made = make(record, sample.seed)
    return made is not None and np.array_equal(made.pixels, sample.pixels)


def origins(samples: Sequence[Sample]) -> list[Optional[int]]:
    """For each sample the number of the record in RECORDS that it is of; None for a sample of no such record."""
    return [next((i for i, record in enumerate(RECORDS) if is_of(sample, record)), None) for sample in samples]


def missing_from(found: Sequence[Optional[int]]) -> list[int]:
    """The records of the damaged part that have given no sample; that those of the others have is asserted."""
    assert set(OTHERS) <= set(found)
    return [i for i in DAMAGED if i not in found]


def names_a_line(epoch: Epoch, file: Path) -> bool:
    """Whether something is counted with this file and a line of it."""
    seen = [example for many in epoch.tally.examples.values() for example in many]
    return any(example.startswith(f"{file}:") and example[len(str(file)) + 1].isdigit() for example in seen)
