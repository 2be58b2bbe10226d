"""Hugging Face data sets on a disk: what `save_to_disk` has written, and files of parquet or arrow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
_TEXTS = ("string", "large_string")


def open_dataset(name: str, config_name: Optional[str] = None) -> Dataset:
    """The training split of a data set in the folder or file `name`; images stay encoded: {"bytes", "path"}.

    Without a split `train` it is the only one. config_name: which of the configurations that the README.md of a
    downloaded data set names. Files other than those of `save_to_disk` are converted once, into the cache of the
    `datasets` library (HF_DATASETS_CACHE). Nothing is downloaded. Raises ValueError naming the flag that is wrong.
    """
    path = Path(name)
    if not path.exists():
        raise ValueError(
            f"--dataset_name {name}: no such folder or file. Data sets are read from a local disk; one of the hub comes"
            f" there with: huggingface-cli download --repo-type dataset {name} --local-dir FOLDER"
        )
    try:
        found = _open(path, config_name)
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(f"--dataset_name {name}: the datasets library cannot read it: {_one_line(error)}") from error
    return _encoded(_training_split(found, name))


def _open(path: Path, config_name: Optional[str]) -> Union[Dataset, DatasetDict]:
    import datasets

    if path.is_file():
        if path.suffix not in _BUILDERS:
            raise ValueError(f"a file must end in {' or '.join(_BUILDERS)}")
        return datasets.load_dataset(_BUILDERS[path.suffix], data_files={"train": os.path.abspath(path)})
    if any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(path))
    if not any(file.suffix in _BUILDERS for file in path.rglob("*")):
        raise ValueError("no .parquet or .arrow file in it; a folder of images is for --train_data_dir")
    return datasets.load_dataset(os.path.abspath(path), config_name, verification_mode="no_checks")


def _training_split(found: Union[Dataset, DatasetDict], name: str) -> Dataset:
    if not isinstance(found, Mapping):
        return found
    if "train" not in found and len(found) != 1:
        raise ValueError(f"--dataset_name {name}: no split train among {', '.join(found)}")
    return found["train"] if "train" in found else next(iter(found.values()))


def _encoded(dataset: Dataset) -> Dataset:
    from datasets import Image

    for column in image_columns(dataset):
        if isinstance(dataset.features[column], Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def image_columns(dataset: Dataset) -> list[str]:
    """The columns that hold images: of that type, of bytes, or of structs with bytes."""
    from datasets import Image, Value

    def holds_image(feature: Any) -> bool:
        if isinstance(feature, Mapping):
            return "bytes" in feature and holds_image(feature["bytes"])
        return isinstance(feature, Image) or (isinstance(feature, Value) and "binary" in feature.dtype)

    return [name for name, feature in dataset.features.items() if holds_image(feature)]


def text_columns(dataset: Dataset) -> list[str]:
    """The columns of texts, which may be paths of images."""
    return [name for name, feature in dataset.features.items() if getattr(feature, "dtype", "") in _TEXTS]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
