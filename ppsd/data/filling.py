"""Samples that stand in for others of their group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from ppsd.data.buckets import Size
from ppsd.data.seeds import Draw, derive_seed
from ppsd.data.settings import MakeSample
from ppsd.types import LatentRecord, Record, Sample


def stand_ins(
    good: Sequence[tuple[Union[Record, LatentRecord], Sample]], count: int, make_sample: MakeSample, size: Size
) -> list[Sample]:
    """`count` samples of records of which a sample could be made, each time differently cropped and noised."""
    samples = []
    for turn in range(count):
        record, sample = good[turn % len(good)]
        again = make_sample(record, derive_seed(sample.seed, Draw.AGAIN, turn), size)
        assert isinstance(again, Sample)
        again.record = sample.record
        samples.append(again)
    return samples
