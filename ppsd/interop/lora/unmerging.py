"""Taking LoRAs out of the weights of a pipeline again: every bit is as it was before the merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile, write_safetensors
from ppsd.interop.lora.changes import WeightedLora, read_weighted
from ppsd.interop.lora.exact import is_whole, restored
from ppsd.interop.lora.folders import publishing
from ppsd.interop.lora.merge_record import KEY, RECORD, Record, checksum
from ppsd.interop.lora.merging import stored_change
from ppsd.interop.lora.model_weights import Component, layers_per_block, open_parts


def unmerge(folder: Path, target: Path, paths: Sequence[str]) -> list[dict[str, object]]:
    """`target`: a new folder, with the weights that `folder` had before the merge. Returns what was taken out.

    paths: the LoRA files that were merged, in any order. Raises ValueError where one is missing or another file, and
    where a tensor does not come out as it was, because it has been changed since.
    """
    parts, record = open_parts(folder), Record(folder)
    loras = matching(record, paths, layers_per_block(folder))
    skip = {source.path for part in parts.values() for source in [*part.files, *part.variants]}
    with publishing(folder, target, skip={*skip, record.path}) as staging:
        left = set(record.sums)
        for component in parts.values():
            for source in [*component.files, *component.variants]:
                left -= _write(component, source, staging, loras, record)
        if left:
            raise ValueError(f"{folder} lacks {len(left)} tensors that {RECORD} is about, e.g. {min(left)}")
    return record.loras


def matching(record: Record, paths: Sequence[str], layers_per_block: Optional[int]) -> list[WeightedLora]:
    """The files, in the order and with the weights of the merge; known by their digests, not their names."""
    given = {one.sha256: one for one in (read_weighted(path, 1.0, None, layers_per_block) for path in paths)}
    wanted = {lora["sha256"]: lora for lora in record.loras}
    missing = [f"{lora['name']} (sha256 {digest[:12]}...)" for digest, lora in wanted.items() if digest not in given]
    if missing:
        raise ValueError(f"--lora: {record.path} needs {', '.join(missing)}, as it was when it was merged")
    other = [str(one.path) for digest, one in given.items() if digest not in wanted]
    if other:
        raise ValueError(f"--lora: {', '.join(other)} is none of the files that were merged ({record.path})")
    return [
        WeightedLora(
            given[lora["sha256"]].path,
            given[lora["sha256"]].lora,
            float(lora["weight"]),
            float(lora["text_encoder_weight"]),
            lora["sha256"],
        )
        for lora in record.loras
    ]


def _write(
    component: Component, source: SafetensorsFile, staging: Path, loras: Sequence[WeightedLora], record: Record
) -> set[str]:
    """One file of weights; returns which tensors of the record it has."""
    part = component.folder.name
    own = {name: f"{part}/{source.path.name}:{name}" for name in source.specs}

    def read(name: str) -> np.ndarray:
        value = source.read(name)
        if own[name] not in record.sums:
            return value
        dtype, kept = source.specs[name].dtype, record.kept(own[name])
        place = Place(part, name[: -len(".weight")])
        if is_whole(kept, value.size):
            by = np.zeros(value.shape)
        else:
            by = stored_change(component, loras, place, value, dtype)
        before = restored(value, dtype, by, kept)
        if checksum(before) != record.sums[own[name]]:
            raise ValueError(
                f"{source.path}: {name} has been changed since the merge, so the weights before it cannot be told"
            )
        return before

    metadata = {name: text for name, text in source.metadata.items() if name != KEY}
    write_safetensors(staging / part / source.path.name, source.specs, read, metadata)
    return set(own.values()) & set(record.sums)
