"""Making cached latents of a data set, part by part: which parts there are, which are made, and making one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar, Union

import numpy as np
from paddle import nn

from ppsd.data.buckets import Buckets
from ppsd.data.config import StreamConfig
from ppsd.data.filters import pixel_size
from ppsd.data.sample import SampleMaker
from ppsd.data.source import open_streams
from ppsd.data.tally import Tally
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.filelist import Source, read_file_list
from ppsd.formats.latent_layout import LatentLayout, distinct_parts
from ppsd.formats.latents import Rounding, read_bad, read_origin, write_latents
from ppsd.formats.stamp import part_stamp
from ppsd.formats.urls import shown_url
from ppsd.trainers.latent_cache import Encoder, TextEncoder, encode_records, latent_fingerprint
from ppsd.types import BadRecord, Record, Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """How to encode; neither changes what is written but for the last bits."""

    batch_size: int = 16
    num_workers: int = 0


class LatentParts:
    """The parts that `config.file_list` names and their latents in `layout`.

    config: with central crops, no mirroring and no dropped captions. text: also to keep hidden states. dtype: of the
    files. Raises ValueError and OSError for a file list that cannot be used.
    """

    def __init__(
        self,
        config: StreamConfig,
        layout: LatentLayout,
        vae: nn.Layer,
        text: Optional[TextEncoder],
        dtype: str = "float32",
        speed: Speed = Speed(),
    ) -> None:
        assert config.center_crop
        assert not config.random_flip
        if text and config.caption_rule == "random":
            raise ValueError("--cache_text_encoder keeps the states of one caption: --caption_rule random cannot act")
        self._config, self.layout, self._dtype, self._speed = config, layout, dtype, speed
        self.sources: Sequence[Source] = read_file_list(config.file_list, config.dialect)
        self.numbers = distinct_parts(self.sources)
        self.rounding = Rounding()
        self.fingerprint = latent_fingerprint(vae, config, text)
        self._read = open_streams(config)[0].read
        self._encoder = Encoder(vae, text, config.chunks)
        tokenize = TokenizeCaptions(text.tokenizer, config.max_length, config.chunks) if text else _no_tokens
        self._decode = _Decode(config, SampleMaker(config, tokenize))
        self._empty_hidden = self._encoder.empty_hidden(tokenize(""))
        self._untouched = True

    def is_made(self, part: str) -> bool:
        """Whether a part's latents are there, made from the file as it is now, by these models and settings."""
        path = self.layout.part(self.numbers[part])
        try:
            return path.is_file() and read_origin(path) == (self.fingerprint, self._origin(part))
        except ValueError:  # not one that was finished
            return False

    def make(self, part: str, on_record: Callable[[], Any] = lambda: None) -> None:
        """Encode one part. Before the first one the lists go: none shall name a mixture of old and new parts."""
        if self._untouched:
            self.layout.remove_lists(self.sources)
            self._untouched = False
        number, origin = self.numbers[part], self._origin(part)
        self.layout.remove_temporaries(number)
        records = encode_records(
            self._read(part),
            self._decode,
            self._encoder,
            batch_size=self._speed.batch_size,
            num_workers=self._speed.num_workers,
            caption_rule=self._config.caption_rule,
        )
        rounding = write_latents(
            self.layout.part(number),
            _announced(records, on_record),
            self.fingerprint,
            dtype=self._dtype,
            empty_hidden=self._empty_hidden,
            origin=origin,
        )
        self.rounding = Rounding(*map(max, self.rounding, rounding))

    def tally(self) -> Tally:
        """What became of the records of all parts, which are all made."""
        tally = Tally()
        for part, number in self.numbers.items():
            count, bad = read_bad(self.layout.part(number))
            tally.used += count - len(bad)
            for record_no, record in bad:
                tally.add(record.reason, f"{shown_url(part)}:{record_no}", record.detail)
        return tally

    def write_lists(self) -> None:
        """When all parts are made."""
        self.layout.write_lists(self.sources, self.numbers)

    def _origin(self, part: str) -> str:
        """A hash of the part's place and stamp, and of the settings that are not in the fingerprint."""
        stamp = part_stamp(part)
        facts: list[Any] = [part] if stamp is None else [os.path.abspath(part), *stamp]
        config = self._config
        facts += [config.dialect, config.filter, config.image_column, config.caption_column, self._dtype]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


class _Decode:
    """A record as the pixels and token ids that training would make of it. Several threads may call it."""

    def __init__(self, config: StreamConfig, make_sample: SampleMaker) -> None:
        self._size = (config.resolution, config.resolution)
        self._max_pixels = config.max_image_pixels
        self._make_sample = make_sample
        bounds = (config.min_bucket_reso, config.max_bucket_reso, config.bucket_reso_steps, config.bucket_no_upscale)
        self._buckets = Buckets(config.resolution, *bounds) if config.enable_bucket else None

    def __call__(self, record: Record) -> Union[Sample, BadRecord]:
        if self._buckets is None:
            return self._make_sample(record, 0, self._size)
        size = pixel_size(record, self._max_pixels)
        return size if isinstance(size, BadRecord) else self._make_sample(record, 0, self._buckets.of(*size))


def _no_tokens(caption: str) -> np.ndarray:
    """Where the text is not cached, training tokenises it."""
    return np.zeros(0, dtype=np.int64)


def _announced(items: Iterator[T], on_item: Callable[[], Any]) -> Iterator[T]:
    for item in items:
        on_item()
        yield item
