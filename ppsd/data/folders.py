"""Opening image folders and data sets as indexed sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.data.conditions import image_names
from ppsd.data.config import StreamConfig
from ppsd.data.dataset_records import DatasetRecords
from ppsd.data.filters import Filter
from ppsd.data.folder_records import FolderRecords
from ppsd.data.indexed import IndexedSource, choose, measured
from ppsd.data.seeds import Draw, permutation
from ppsd.data.tally import bad_records
from ppsd.formats.atomic import PathLike
from ppsd.formats.folder_index import index_folder
from ppsd.formats.hf_dataset import open_dataset
from ppsd.types import BadRecord


def folder_source(
    path: PathLike,
    config: StreamConfig,
    *,
    flag: str = "train_data_dir",
    caption: Optional[str] = None,
    loss_weight: float = 1.0,
    seed: int = 0,
) -> IndexedSource:
    """The images of a folder, read as `config` says. caption: that of images that have none of their own.

    flag: which one names the folder. Raises ValueError for a folder that cannot be read or has no image.
    """
    try:
        columns = config.image_column or "file_name", config.caption_column or "text", image_names(config)
        index = index_folder(path, *columns)
    except OSError as error:
        raise ValueError(f"--{flag} {path}: {error.strerror or error}") from error
    records = FolderRecords(index, config.max_image_pixels, caption)
    if not len(records) and not records.bad:
        raise ValueError(f"--{flag} {path}: no image in it")
    name = Path(path).resolve().name or str(path)
    source = IndexedSource(name, records, records.repeats, loss_weight, bad=records.bad)
    return _prepared(source, config, seed, f"--{flag} {path}")


def dataset_source(
    name: str,
    config: StreamConfig,
    *,
    caption: Optional[str] = None,
    loss_weight: float = 1.0,
    seed: int = 0,
) -> IndexedSource:
    """The rows of a Hugging Face data set on a disk. Raises ValueError naming the flag that is wrong."""
    dataset = open_dataset(name, config.dataset_config_name)
    columns = (config.image_column, config.caption_column)
    records = DatasetRecords(dataset, name, *columns, config.max_image_pixels, caption, image_names(config))
    if not len(records):
        raise ValueError(f"--dataset_name {name}: no row in it")
    source = IndexedSource(Path(name).name, records, loss_weight=loss_weight)
    return _prepared(source, config, seed, f"--dataset_name {name}")


def _prepared(source: IndexedSource, config: StreamConfig, seed: int, flag: str) -> IndexedSource:
    """Some of the records, as often as they shall come, with the sizes that buckets need.

    Raises ValueError, naming the flag, where nothing is left.
    """
    source = replace(source, repeats=source.counts * config.dataset_repeats)
    most = config.max_train_samples
    if most is not None and most < len(source.records):
        source = choose(source, np.sort(permutation(len(source.records), seed, Draw.SUBSET)[:most]))
    if config.filter:
        source = filtered(source, Filter(config.filter, config.max_image_pixels))
    if config.enable_bucket:
        source = measured(source)
    if not source.length:
        raise ValueError(f"{flag}: nothing in it can be used: {bad_records(source.bad)}")
    return source


def filtered(source: IndexedSource, keep: Filter) -> IndexedSource:
    """The source without the records that the filter does not let pass: each is read for it."""
    kept: list[int] = []
    bad: list[tuple[str, BadRecord]] = []
    for index in range(len(source.records)):
        record = source.records[index]
        found = record if isinstance(record, BadRecord) else keep(record)
        if found is None:
            kept.append(index)
        else:
            bad.append((source.records.where(index), found))
    return choose(source, np.array(kept, np.int32), bad)
