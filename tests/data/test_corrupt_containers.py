"""Generated corruptions of the other kinds of parts: tars, parquet files, cached latents.

What is missing is counted with part and record number; native readers never bring a worker down; nothing hangs. Beyond
that:

- Cached latents have a checksum a record: every sample is exactly that of its record.
- Parquet files that ppsd writes have a checksum a page: the same.
- tar has checksums of headers only: an image or a caption is what its record had, or bytes of the damaged file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from hypothesis import given, strategies

from ppsd.formats.latents import write_latents
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.parts import read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import LatentRecord, Record
from tests.data.damage import Damage, damages, examples
from tests.data.damaged_streams import (
    PARTS,
    RECORDS,
    TOKENIZE,
    Epoch,
    is_of,
    missing_from,
    names_a_line,
    origins,
    part_of,
    read_epoch,
    second_part,
    write_set,
)

pytestmark = pytest.mark.timeout(120)

LATENTS = [
    LatentRecord(np.random.default_rng(i).standard_normal((8, 4, 4), dtype=np.float32), record.caption)
    for i, record in enumerate(RECORDS)
]


def write_numbered(path: Path, records: Sequence[LatentRecord]) -> None:
    write_latents(path, enumerate(records, 1), {"vae": "tiny"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With undamaged parts of each kind, 0.tar to 2.safetensors."""
    folder = tmp_path_factory.mktemp("containers")
    for number in range(PARTS):
        write_tar(folder / f"{number}.tar", part_of(RECORDS, number))
        write_parquet(folder / f"{number}.parquet", part_of(RECORDS, number))
        write_numbered(folder / f"{number}.safetensors", part_of(LATENTS, number))
    return folder


def damaged_epoch(folder: Path, suffix: str, damage: Damage, num_workers: int) -> Epoch:
    first, second, third = ((folder / f"{number}{suffix}").read_bytes() for number in range(PARTS))
    return read_epoch(write_set(folder, damage(second), suffix, (first, third)), num_workers)


def check_exact(epoch: Epoch, file: Path, found: Sequence[Optional[int]]) -> None:
    """All samples are exactly those of records, each at most once, and what is missing is counted."""
    assert None not in found
    assert len(set(found)) == len(found)
    if missing_from(found):
        assert names_a_line(epoch, file)


@given(damages(), strategies.sampled_from([0, 0, 0, 1]))
@examples(40)
def test_tars(folder: Path, damage: Damage, num_workers: int) -> None:
    epoch = damaged_epoch(folder, ".tar", damage, num_workers)
    file, found = second_part(folder, ".tar"), origins(epoch.samples)
    if missing_from(found):
        assert names_a_line(epoch, file) or None in found
    data = file.read_bytes()
    read = [record for _, record in read_any(file) if isinstance(record, Record)]
    assert all(record.image in data and record.caption.encode() in data for record in read)
    for sample, origin in zip(epoch.samples, found):
        assert origin is not None or any(is_of(sample, record) for record in read)


@given(damages(), strategies.sampled_from([0, 0, 0, 1]))
@examples(40)
def test_parquet_files(folder: Path, damage: Damage, num_workers: int) -> None:
    epoch = damaged_epoch(folder, ".parquet", damage, num_workers)
    check_exact(epoch, second_part(folder, ".parquet"), origins(epoch.samples))


@given(damages(), strategies.sampled_from([0, 0, 0, 1]))
@examples(40)
def test_cached_latents(folder: Path, damage: Damage, num_workers: int) -> None:
    epoch = damaged_epoch(folder, ".safetensors", damage, num_workers)
    found = [
        next(
            (
                i
                for i, record in enumerate(LATENTS)
                if np.array_equal(sample.pixels, record.moments)
                and np.array_equal(sample.input_ids, TOKENIZE(record.caption))
            ),
            None,
        )
        for sample in epoch.samples
    ]
    check_exact(epoch, second_part(folder, ".safetensors"), found)
