"""Samples of held-out records: the same ones whenever they are made, with nothing left to chance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

import numpy as np

from ppsd.data.buckets import Buckets
from ppsd.data.config import StreamConfig
from ppsd.data.filters import pixel_size
from ppsd.data.indexed import IndexedSource
from ppsd.data.sample import SampleMaker
from ppsd.data.source import RecordSource
from ppsd.data.tokens import TokenizeCaptions
from ppsd.data.window import AnyRecord
from ppsd.formats.urls import shown_url
from ppsd.types import BadRecord, LatentRecord, Record, Sample

_NO_CHANCE: dict[str, Any] = {
    "center_crop": True,
    "random_flip": False,
    "color_jitter": 0.0,
    "caption_dropout_rate": 0.0,
    "caption_tag_dropout_rate": 0.0,
    "shuffle_caption": False,
}


@dataclass(frozen=True)
class Named:
    """A sample and the name of the record that it was made of."""

    name: str
    sample: Sample


def collect(
    sources: Sequence[Union[RecordSource, IndexedSource]], config: StreamConfig, tokenizer: Any, most: int
) -> list[Named]:
    """Of the first `most` usable records, taken from the sources in turn; fewer where they end.

    Of an indexed source they are spread evenly over it. The seed of a sample is a hash of its record's content. Raises
    ValueError where no record can be used.
    """
    make = _Maker(without_chance(config), tokenizer)
    found: list[Named] = []
    reasons: dict[str, int] = {}
    for name, record in _in_turn([_records(source, most) for source in sources if source.weight != 0]):
        sample = record if isinstance(record, BadRecord) else make(record)
        if isinstance(sample, BadRecord):
            reasons[sample.reason] = reasons.get(sample.reason, 0) + 1
            continue
        found.append(Named(name, sample))
        if len(found) == most:
            break
    if not found:
        why = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        raise ValueError(f"--validation_split holds out no usable record ({why or 'there is none'}): raise it")
    return found


def without_chance(config: StreamConfig) -> StreamConfig:
    """The central crop, never mirrored, with the whole caption; of several captions the first, not a random one."""
    rule = "first" if config.caption_rule == "random" else config.caption_rule
    return replace(config, **_NO_CHANCE, caption_rule=rule)


def content_seed(record: Union[Record, LatentRecord]) -> int:
    """In [0, 2^63): a hash of the image's bytes or of the latents."""
    content = record.image if isinstance(record, Record) else np.ascontiguousarray(record.moments).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


class _Maker:
    def __init__(self, config: StreamConfig, tokenizer: Any) -> None:
        self._config = config
        self._make = SampleMaker(config, TokenizeCaptions(tokenizer, config.max_length, config.chunks))
        self._buckets: Optional[Buckets] = None
        if config.enable_bucket:
            shortest, longest = config.min_bucket_reso, config.max_bucket_reso
            steps, no_upscale = config.bucket_reso_steps, config.bucket_no_upscale
            self._buckets = Buckets(config.resolution, shortest, longest, steps, no_upscale)

    def __call__(self, record: Union[Record, LatentRecord]) -> Union[Sample, BadRecord]:
        size = None
        if self._buckets is not None:
            measured = pixel_size(record, self._config.max_image_pixels)
            if isinstance(measured, BadRecord):
                return measured
            size = self._buckets.of(*measured)
        return self._make(record, content_seed(record), size)


def _records(source: Union[RecordSource, IndexedSource], most: int) -> Iterator[tuple[str, AnyRecord]]:
    """With their names."""
    if isinstance(source, IndexedSource):
        for index in _spread(len(source.records), most):
            yield source.records.where(index), source.records[index]
        return
    for part in source.parts:
        for number, record in source.read(part):
            yield f"{shown_url(part)}:{number}", record


def _spread(count: int, most: int) -> list[int]:
    """0..count-1, `most` of them that are spread evenly first."""
    if count <= most:
        return list(range(count))
    first = [number * count // most for number in range(most)]
    return [*first, *sorted(set(range(count)) - set(first))]


def _in_turn(sources: Sequence[Iterator[tuple[str, AnyRecord]]]) -> Iterator[tuple[str, AnyRecord]]:
    left = list(sources)
    while left:
        for source in list(left):
            item = next(source, None)
            if item is None:
                left.remove(source)
            else:
                yield item
