"""What beside a merged pipeline says how to take LoRAs out of it again, bit for bit: lora_merge.safetensors.

Of each changed tensor FILE:NAME it holds `FILE:NAME:at` and `FILE:NAME:values` (see `exact.Kept`). Its metadata have
JSON in the entry `merge`: version, loras (name, sha256 and weights of each, in their order) and sha256 (of each tensor
as it was, by FILE:NAME).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.interop.lora.exact import Kept

RECORD = "lora_merge.safetensors"
KEY = "ppsd.merged_lora"
"""In the metadata of merged weights: a JSON list of what was merged, as in the record."""
VERSION = 1
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32", "int64": "I64"}


class RecordWriter:
    """Keeps on the disk, until `finish`, what it is given: as much as all weights where these are DoRA's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = Path(tempfile.mkdtemp(prefix=".merge", dir=folder))
        self._specs: dict[str, Spec] = {}
        self._sums: dict[str, str] = {}

    def add(self, file: str, name: str, original: np.ndarray, record: Kept) -> None:
        tensor = f"{file}:{name}"
        self._sums[tensor] = checksum(original)
        for leaf, value in record._asdict().items():
            key = f"{tensor}:{leaf}"
            np.save(self._part(len(self._specs)), value)
            self._specs[key] = Spec(_DTYPES[value.dtype.name], value.shape)

    def finish(self, loras: Sequence[dict[str, object]]) -> None:
        """Write the record into the folder."""
        numbers = {key: number for number, key in enumerate(self._specs)}
        about = json.dumps({"version": VERSION, "loras": loras, "sha256": self._sums})
        write_safetensors(
            self._folder / RECORD, self._specs, lambda key: np.load(self._part(numbers[key])), {"merge": about}
        )
        shutil.rmtree(self._parts)

    def _part(self, number: int) -> Path:
        return self._parts / f"{number}.npy"


class Record:
    """loras: what was merged; sums: sha256 of the original tensors. Raises ValueError where there is no record."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        if not self.path.is_file():
            raise ValueError(f"{folder} has no {RECORD}: nothing was merged into it that can be taken out again")
        self._file = SafetensorsFile(self.path)
        try:
            about: dict[str, Any] = json.loads(self._file.metadata["merge"])
            if about["version"] != VERSION:
                raise ValueError(f"version {about['version']}, and this ppsd knows {VERSION}")
            self.loras: list[dict[str, Any]] = about["loras"]
            self.sums: dict[str, str] = about["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is no record of a merge: {error!r}") from error

    def kept(self, tensor: str) -> Kept:
        """tensor: FILE:NAME"""
        return Kept(self._file.read(f"{tensor}:at"), self._file.read(f"{tensor}:values"))


def checksum(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
