"""The latents of images that have numbers: which there are already, and encoding the others."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Optional, Union

import numpy as np
from paddle import nn

from ppsd.data.buckets import Size, buckets_of
from ppsd.data.cached_records import Entry
from ppsd.data.conditions import without_conditions
from ppsd.data.config import StreamConfig
from ppsd.data.indexed import IndexedSource
from ppsd.data.sample import SampleMaker
from ppsd.formats.array_store import ArrayStore
from ppsd.models.fingerprint import vae_fingerprint
from ppsd.trainers.folder_cache_encoding import encode_images
from ppsd.trainers.latent_cache import AnyRecord, Encoder, in_threads
from ppsd.types import BadRecord, LatentRecord, Record, Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sized(Record):
    """An image and the width and height of its crop."""

    crop: Size = (0, 0)


class LatentFiller:
    """Encodes what a store lacks of the central crops of images and, with config.random_flip, of their mirror images.

    The key is a hash of the image file's bytes, of the VAE and of what is done to the image; so an image that has
    changed has another, and one that is there twice the same. written: files or arrays, bytes: theirs, of this process.
    """

    def __init__(
        self, vae: nn.Layer, config: StreamConfig, store: ArrayStore, *, batch_size: int, num_workers: int
    ) -> None:
        self._config, self._store = config, store
        self._batch_size, self._num_workers = batch_size, num_workers
        self._encoder = Encoder(vae, None)
        plain = replace(without_conditions(config), center_crop=True, random_flip=False, caption_dropout_rate=0.0)
        self._make_sample = SampleMaker(plain, _no_tokens)
        self._buckets = buckets_of(config)
        self._facts = latent_facts(vae, config)
        self._seen: set[str] = set()
        self._bad: dict[str, BadRecord] = {}
        self.written = self.bytes = 0

    def fill(
        self, source: IndexedSource, indices: Iterable[int], on_record: Callable[[], Any]
    ) -> list[tuple[int, Union[Entry, BadRecord]]]:
        """What the records of these indices are; afterwards the store has their latents."""
        entries: dict[int, Union[Entry, BadRecord]] = {}
        images = self._missing(source, indices, entries, on_record)
        for index, moments in encode_images(
            images,
            self._decode,
            self._encoder,
            mirrored=self._config.random_flip,
            batch_size=self._batch_size,
            num_workers=self._num_workers,
        ):
            entry = entries[index]
            assert isinstance(entry, Entry)
            if isinstance(moments, BadRecord):
                self._bad[entry.key] = moments
                continue
            for key, array in zip((entry.key, entry.mirrored), moments):
                if key is not None:
                    self._store.write(key, array)
                    self.written, self.bytes = self.written + 1, self.bytes + array.nbytes
        return [(i, self._bad.get(e.key, e) if isinstance(e, Entry) else e) for i, e in entries.items()]

    def _missing(
        self,
        source: IndexedSource,
        indices: Iterable[int],
        entries: dict[int, Union[Entry, BadRecord]],
        on_record: Callable[[], Any],
    ) -> Iterator[tuple[int, _Sized]]:
        """The images that have to be encoded; `entries` gets all."""
        records = ((index, source.records[index]) for index in indices)
        look_up = partial(self._look_up, source)
        for index, entry, missing in in_threads(look_up, records, self._num_workers, ahead=4 * self._num_workers):
            on_record()
            entries[index] = entry
            if missing is not None and isinstance(entry, Entry) and entry.key not in self._seen:
                self._seen.add(entry.key)
                yield index, missing

    def _look_up(
        self, source: IndexedSource, job: tuple[int, AnyRecord]
    ) -> tuple[int, Union[Entry, BadRecord], Optional[_Sized]]:
        """What a record is, and its image where that has to be encoded. Several threads may call it."""
        index, record = job
        if isinstance(record, BadRecord):
            return index, record, None
        if isinstance(record, LatentRecord):
            raise ValueError(f"--cache_latents: {source.records.where(index)} is of latents already")
        crop = self._crop(source, index)
        entry = self._entry(record, crop)
        known = entry.key in self._seen or self._is_there(entry)
        return index, entry, None if known else _Sized(record.image, "", crop=crop)

    def _crop(self, source: IndexedSource, index: int) -> Size:
        if self._buckets is None:
            return self._config.resolution, self._config.resolution
        assert source.sizes is not None, "measured() comes first"
        width, height = source.sizes[index].tolist()
        return self._buckets.of(width, height)

    def _entry(self, record: Record, crop: Size) -> Entry:
        image = hashlib.blake2b(record.image, digest_size=16).hexdigest()
        key, mirrored = (_hash([*self._facts, image, *crop, flip]) for flip in (False, True))
        return Entry.of(record, key, mirrored if self._config.random_flip else None)

    def _is_there(self, entry: Entry) -> bool:
        """Whether all of it is; what is damaged is not."""
        try:
            return all(key is None or self._store.read(key) is not None for key in (entry.key, entry.mirrored))
        except ValueError as error:
            logger.warning("%s; the image is encoded anew", error)
            return False

    def _decode(self, record: Record) -> Union[Sample, BadRecord]:
        assert isinstance(record, _Sized)
        return self._make_sample(record, 0, record.crop)


def latent_facts(vae: nn.Layer, config: StreamConfig) -> list[Any]:
    """What the latents of an image depend on beside the image and the size of its crop."""
    tiled = bool(getattr(vae, "use_tiling", False))
    fit = "cover the bucket" if config.enable_bucket else "square, enlarged" if config.upscale_small else "square"
    return [vae_fingerprint(vae), str(vae.dtype), tiled, config.interpolation, config.scaled_jpeg, "center", fit]


def _no_tokens(caption: str) -> np.ndarray:
    return np.zeros(0, np.int64)


def _hash(facts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
