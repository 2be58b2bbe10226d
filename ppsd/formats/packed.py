"""Many short texts in two buffers: a tenth of the memory of objects, and none of it is copied where a process forks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np


class Packed(Sequence[bytes]):
    """An unchanging list of byte strings."""

    def __init__(self, data: bytes, begins: np.ndarray, ends: np.ndarray) -> None:
        self.data, self._begins, self._ends = data, begins, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.data[self._begins[index] : self._ends[index]]

    @property
    def nbytes(self) -> int:
        """What it takes of memory."""
        return len(self.data) + self._begins.nbytes + self._ends.nbytes


class Packer:
    """Makes a Packed, item by item. One that is equal to the one before it is kept once."""

    def __init__(self) -> None:
        self._data, self._begins, self._ends = bytearray(), array("q"), array("q")
        self._last = b""

    def add(self, item: bytes) -> None:
        if item == self._last and self._ends:
            begin, end = self._begins[-1], self._ends[-1]
        else:
            begin, self._last = len(self._data), item
            self._data += item
            end = len(self._data)
        self._begins.append(begin)
        self._ends.append(end)

    def packed(self) -> Packed:
        return Packed(bytes(self._data), np.array(self._begins, np.int64), np.array(self._ends, np.int64))
