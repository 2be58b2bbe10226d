"""Points of faces and bodies, from columns and files, for the annotators that draw them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np

from ppsd.types import BadRecord

UNUSABLE_POINTS = "unusable points"
UNREADABLE_POINTS = "unreadable points"
MAX_POINT_BYTES = 2**22
FARTHEST = 16
"""Sides of the picture; lines to points farther away take seconds to hours to draw."""
_COUNTS = {"landmarks": (68, 70), "pose": (18,)}  # FaceSynthetics has two more points, the pupils


def read_points(name: str, value: Any, size: tuple[int, int]) -> Union[np.ndarray, BadRecord]:
    """float64 [F,N,2] in pixels of a picture of `size` (width, height): x and y of all points of `F` figures.

    name: landmarks or pose. value: numbers in nested lists or an array, the same as JSON, OpenPose's JSON, or the path
    of a file (.json, .npy, or text with a point a line). Where no number is above 1 they are shares of the picture. Of
    three numbers a point the last is left out; a pose's point is not seen where it is 0, or where both others are.
    """
    if isinstance(value, Path):
        value = _file_of(value)
    elif isinstance(value, str):
        value = _json_of(value, "the column")
    if isinstance(value, BadRecord):
        return value
    numbers = _numbers(_people(value))
    figures = numbers if isinstance(numbers, BadRecord) else _figures(name, numbers)
    if isinstance(figures, BadRecord):
        return figures
    points = figures[..., :2].copy()
    if name == "pose":
        unseen = (figures[..., 2] <= 0) if figures.shape[-1] == 3 else (points == 0).all(axis=-1)
        points[unseen] = np.nan
    elif not np.isfinite(points).all():
        return BadRecord(UNUSABLE_POINTS, "numbers that are not finite")
    if np.isinf(points).any():
        return BadRecord(UNUSABLE_POINTS, "numbers that are not finite")
    shares = not np.isnan(points).all() and np.nanmax(points) <= 1
    placed = points * size if shares else points
    if (np.abs(placed) > FARTHEST * np.array(size)).any():
        return BadRecord(UNUSABLE_POINTS, f"numbers far outside of a picture of {size[0]} x {size[1]} pixels")
    return placed


def _people(value: Any) -> Any:
    """What OpenPose writes as a plain list of people."""
    if isinstance(value, Mapping) and "people" in value:
        people = value["people"] if isinstance(value["people"], list) else [None]
        return [person.get("pose_keypoints_2d") if isinstance(person, Mapping) else None for person in people]
    return value


def _numbers(value: Any) -> Union[np.ndarray, BadRecord]:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        return BadRecord(UNUSABLE_POINTS, f"no regular table of numbers: {error}")


def _figures(name: str, numbers: np.ndarray) -> Union[np.ndarray, BadRecord]:
    """[F,N,2] or [F,N,3] of the name's number of points."""
    counts = _COUNTS[name]
    for count in counts:
        for each in (2, 3):
            shapes = {1: (count * each,), 2: (count, each), 3: (numbers.shape[0] if numbers.ndim else 0, count, each)}
            one_a_row = numbers.ndim == 2 and numbers.shape[1] == count * each
            if numbers.size and (numbers.shape == shapes.get(numbers.ndim) or one_a_row):
                return numbers.reshape(-1, count, each)[:, : counts[0]]
    wanted = " or ".join(str(count) for count in counts)
    return BadRecord(
        UNUSABLE_POINTS, f"an array of {list(numbers.shape)}; {name} need {wanted} points of 2 or 3 numbers"
    )


def _file_of(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_POINT_BYTES + 1)
    except OSError as error:
        return BadRecord(UNREADABLE_POINTS, f"{path}: {error.strerror or error}")
    if len(data) > MAX_POINT_BYTES:
        return BadRecord(UNREADABLE_POINTS, f"{path}: more than {MAX_POINT_BYTES} bytes")
    try:
        if path.suffix == ".npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        text = data.decode("utf-8")
        if path.suffix == ".json":
            return _json_of(text, str(path))
        return [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()]
    except (ValueError, EOFError, MemoryError) as error:  # an array file may say any size
        return BadRecord(UNREADABLE_POINTS, f"{path}: {error}")


def _json_of(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRecord(UNREADABLE_POINTS, f"{where}: no JSON: {error}")
