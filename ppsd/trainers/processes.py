"""What the processes of a run tell one another. With one process, nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TypeVar

from ppsd.compat import first_alone

import numpy as np
import paddle

from ppsd.formats.safetensors_file import DTYPES, SafetensorsFile

T = TypeVar("T")


def everyones(value: Any) -> list[Any]:
    """What each process passes, by rank. All call it at about the same time (see `first_alone` where they do not)."""
    if paddle.distributed.get_world_size() == 1:
        return [value]
    values: list[Any] = []
    paddle.distributed.all_gather_object(values, value)
    return values


def from_first(work: Callable[[], T]) -> T:
    """What `work` returns in the first process, which alone does it, however long that takes; in all of them.

    A ValueError or OSError of it is raised in all of them.
    """
    outcome: list[tuple[Optional[T], Optional[Exception]]] = [(None, None)]

    def attempt() -> None:
        try:
            outcome[0] = (work(), None)
        except (ValueError, OSError) as error:
            outcome[0] = (None, error)

    first_alone(attempt)
    value, error = everyones(outcome[0])[0]
    if error is not None:
        raise error
    return value


def broadcast(array: Optional[np.ndarray], shape: tuple[int, ...], dtype: Any, source: int) -> np.ndarray:
    """The array that process `source` has; the others pass None."""
    if paddle.distributed.get_world_size() == 1:
        assert array is not None
        return array
    tensor = paddle.to_tensor(np.zeros(shape, dtype) if array is None else array)
    paddle.distributed.broadcast(tensor, src=source)
    return np.asarray(tensor.numpy()).reshape(shape)


class SharedFile:
    """A SafetensorsFile that only the first process reads and all get: the others may not see its folder.

    Every process must read the same names in the same order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Optional[SafetensorsFile] = None

        def header() -> tuple[Any, Any]:
            self._file = SafetensorsFile(path)
            return self._file.specs, self._file.metadata

        self.specs, self.metadata = from_first(header)

    def read(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        return broadcast(self._file.read(name) if self._file else None, spec.shape, DTYPES[spec.dtype], 0)
