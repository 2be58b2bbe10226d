"""Where records come from: named, weighted lists of parts that can be read from any line on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional, Protocol, Union

from ppsd.data.buckets import buckets_of
from ppsd.data.conditions import image_names
from ppsd.data.config import StreamConfig
from ppsd.data.epoch_plan import epoch_groups
from ppsd.data.filters import Filter
from ppsd.data.folders import dataset_source, folder_source
from ppsd.data.indexed import IndexedSource
from ppsd.data.window import AnyRecord
from ppsd.formats.filelist import read_file_list
from ppsd.formats.latents import read_latents
from ppsd.formats.list_index import names_digest
from ppsd.formats.part_list import PartList
from ppsd.formats.parts import read_any
from ppsd.types import BadRecord


class ReadPart(Protocol):
    """Records of one part with their numbers (from 1), after `start` of them, of those every/offset selects.

    Whatever is wrong is a BadRecord, never an exception. The same call gives the same records.
    """

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, AnyRecord]]: ...


@dataclass(frozen=True)
class RecordSource:
    """Parts that are mixed with those of other sources by weight; None in all sources: equal probability.

    loss_weight: the weight that the loss of its samples has.
    """

    name: str
    parts: Sequence[str]
    read: ReadPart
    weight: Optional[float] = None
    loss_weight: float = 1.0


Source = Union[RecordSource, IndexedSource]


def open_sources(config: StreamConfig, seed: int = 0) -> list[Source]:
    """The folder, the data set or the filelists that `config` names; seed: of the run, for max_train_samples.

    Raises ValueError for what cannot be read, and what open_streams raises.
    """
    if config.train_data_dir is not None:
        return [folder_source(config.train_data_dir, config, seed=seed)]
    if config.dataset_name is not None:
        return [dataset_source(config.dataset_name, config, seed=seed)]
    return list(open_streams(config))


def open_streams(config: StreamConfig, more_images: Sequence[str] = ()) -> list[RecordSource]:
    """The filelists that `config.file_list` names, as sources of the records that `config.filter` lets pass.

    more_images: columns of images that the meta shall have beside those of the conditions that are wanted.
    Raises what read_file_list raises, and ValueError for a filter that cannot be understood and for flags that are for
    other data.
    """
    for flag in ("dataset_repeats", "max_train_samples", "dataset_config_name"):
        if getattr(config, flag) not in (None, 1):
            raise ValueError(f"--{flag} is for --train_data_dir and --dataset_name, not for --file_list")
    if config.latents is not None and config.conditions:
        raise ValueError(
            "--file_list: cached latents have no conditioning images, masks or depth maps; name the images"
        )
    keep = Filter(config.filter, config.max_image_pixels) if config.filter else None
    sources = []
    for source in read_file_list(config.file_list, config.dialect):
        read: ReadPart = partial(
            read_any,
            data_format=source.dialect,
            image_column=config.image_column,
            caption_column=config.caption_column,
            more_images=(*image_names(config), *more_images),
        )
        if config.latents is not None:
            read = partial(read_latents, fingerprint=config.latents)
        sources.append(RecordSource(source.name, source.parts, _Filtered(read, keep) if keep else read, source.weight))
    return sources


def settled(config: StreamConfig, sources: Sequence[Source]) -> StreamConfig:
    """The config with what it leaves to the data."""
    if config.upscale_small is not None:
        return config
    return replace(config, upscale_small=all(isinstance(source, IndexedSource) for source in sources))


@dataclass(frozen=True)
class _Filtered:
    """A reader whose records are BadRecords where the filter does not let them pass."""

    read: ReadPart
    keep: Filter

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, AnyRecord]]:
        for number, record in self.read(path, start, every=every, offset=offset):
            rejected = None if isinstance(record, BadRecord) else self.keep(record)
            yield number, rejected or record


def records_per_epoch(
    sources: Sequence[Source], config: Optional[StreamConfig] = None, batch_size: int = 1
) -> Optional[int]:
    """Samples of one pass over all sources; None where one of them is a stream, whose length nobody knows.

    Where sources alternate it is a pass over the longest. With config.enable_bucket it counts what fills batches up.
    """
    used = [source for source in sources if source.weight != 0]
    if not used or not all(isinstance(source, IndexedSource) for source in used):
        return None
    buckets = buckets_of(config) if config else None
    group = batch_size if buckets else 1
    groups = [epoch_groups(source, buckets, group) for source in used if isinstance(source, IndexedSource)]
    alternate = config is not None and config.alternate
    return group * (len(groups) * max(groups) if alternate else sum(groups))


def sources_digest(sources: Sequence[Source]) -> str:
    """A short hash of the sources' part names (without folders, so that data may move), first sizes and weights.

    Of an indexed source: of which records it has, in their order, how often, and with which sizes where they are known,
    which decide on the buckets.
    """
    return hashlib.blake2b(json.dumps([_facts(source) for source in sources]).encode(), digest_size=8).hexdigest()


def _facts(source: Source) -> list[Any]:
    if isinstance(source, IndexedSource):
        sizes = [] if source.sizes is None else [hashlib.blake2b(source.sizes.tobytes(), digest_size=8).hexdigest()]
        repeats = hashlib.blake2b(source.counts.tobytes(), digest_size=8).hexdigest()
        return [source.records.digest(), repeats, source.weight, *sizes]
    parts = source.parts
    return [_names(parts), [_size(parts[i]) for i in range(min(16, len(parts)))], source.weight]


def _names(parts: Sequence[str]) -> str:
    return parts.names_digest() if isinstance(parts, PartList) else names_digest(parts)


def _size(part: str) -> int:
    """Bytes; -1 where there is no such file."""
    try:
        return Path(part).stat().st_size
    except OSError:
        return -1
