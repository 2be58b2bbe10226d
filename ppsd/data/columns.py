"""What a column of a record holds, as the number, text or condition that an expression needs.

Scores come as numbers, as texts that hold numbers (CSV, some JSON), as numpy scalars or as decimals (parquet).
"""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, NamedTuple, Protocol, Union

import numpy as np


class Lookup(Protocol):
    """The values of names, found when they are asked for; None for a column that a record lacks."""

    def __getitem__(self, name: str) -> Any: ...


class Column(NamedTuple):
    """A column of one record."""

    name: str
    value: Any


class NoValue(Exception):
    """The record lacks the column `name`, or it is not what is needed; `detail` says which."""

    def __init__(self, column: Column, needed: str) -> None:
        self.name = column.name
        lacks = column.value is None
        self.detail = f"the record has no {column.name}" if lacks else f"{describe(*column)}, not {needed}"
        super().__init__(self.detail)


def as_number(column: Column) -> Union[int, float]:
    """Raises NoValue; NaN is no number, and in a comparison would be neither large nor small."""
    number = _number(column.value)
    if number is None:
        raise NoValue(column, "a number")
    return number


def _number(value: Any) -> Union[int, float, None]:
    if isinstance(value, (Integral, np.bool_)):
        return int(value)
    if isinstance(value, (Real, Decimal, str)):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return None if math.isnan(number) else number
    return None


def as_text(column: Column) -> str:
    """Raises NoValue."""
    if not isinstance(column.value, str):
        raise NoValue(column, "a text")
    return column.value


def as_list_or_text(column: Column) -> Union[str, list[Any]]:
    """What a text can be `in`. Raises NoValue."""
    if isinstance(column.value, (list, tuple)):
        return list(column.value)
    if not isinstance(column.value, str):
        raise NoValue(column, "a text or a list")
    return column.value


def as_truth(column: Column) -> bool:
    """A boolean, a number that is not 0, or a text that says true or false. Raises NoValue."""
    if isinstance(column.value, str) and column.value.strip().lower() in ("true", "false"):
        return column.value.strip().lower() == "true"
    number = _number(column.value)
    if number is None:
        raise NoValue(column, "true or false")
    return number != 0


def describe(name: str, value: Any) -> str:
    """`name = value`, short, on one line."""
    if isinstance(value, np.generic):
        value = value.item()
    text = f"{value:.6g}" if isinstance(value, float) else repr(value[:60] if isinstance(value, str) else value)
    return f"{name} = {text[:80]}"
