"""Flags that say which data are read: exactly one of them."""

from __future__ import annotations

import pytest

from ppsd.trainers.arguments import DataArguments
from ppsd.trainers.arguments.folder import DEFAULT_LIST


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (DEFAULT_LIST, None, None)),
        ({"file_list": "x"}, ("x", None, None)),
        ({"train_data_dir": "x"}, (None, "x", None)),
        ({"dataset_name": "x"}, (None, None, "x")),
    ],
)
def test_the_default_list_is_for_who_names_no_data(flags: dict[str, str], expected: tuple[str | None, ...]) -> None:
    data = DataArguments(**flags)
    data.check_folder()
    assert (data.file_list, data.train_data_dir, data.dataset_name) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"file_list": "x", "train_data_dir": "y"}, "--file_list and --train_data_dir both say which data to read"),
        ({"dataset_name": "x", "train_data_dir": "y"}, "--train_data_dir and --dataset_name both say"),
        ({"train_data_dir": "x", "dataset_config_name": "y"}, "--dataset_config_name is for --dataset_name"),
        ({"train_data_dir": "x", "dataset_repeats": 0}, "--dataset_repeats is 0; it must be at least 1"),
        ({"train_data_dir": "x", "max_train_samples": -1}, "--max_train_samples is -1"),
        ({"train_data_dir": "x", "data_format": "parquet"}, "--data_format parquet is for --file_list"),
        ({"color_jitter": 3.0}, "--color_jitter is 3.0; it must be between 0 and 2"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataArguments(**flags).check_folder()  # type: ignore[arg-type]
