"""LoRA files into the weights of a pipeline folder, one tensor at a time; with a record to take them out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.interop.lora.changes import WeightedLora, change, check_fit, depends_on_weight, said, touched
from ppsd.interop.lora.exact import added, as_float64, as_stored, kept
from ppsd.interop.lora.folders import publishing
from ppsd.interop.lora.merge_record import KEY, RECORD, RecordWriter
from ppsd.interop.lora.model_weights import FLOATS, Component, open_parts
from ppsd.interop.lora.precision import PRECISIONS


class Merged(NamedTuple):
    """How many layers were changed in which part; why that cannot be undone, if so; files that were not copied."""

    layers: dict[str, int]
    obstacle: str
    left_out: list[Path]


def merge_into_pipeline(
    folder: Path, target: Path, loras: Sequence[WeightedLora], precision: Optional[str] = None
) -> Merged:
    """`target`: a new folder, with all of `folder` but for the weights that change; it appears whole or not at all.

    Copies of these in forms that are not read here are left out, since a library could take them for the merged ones.
    Summed in float64 and rounded once, to the type in which each weight is stored, or to `precision` (float32, float16,
    bfloat16; of the UNet and the text encoders). Raises ValueError for a LoRA of another model and a folder that has
    been merged already.
    """
    parts = open_parts(folder)
    refuse_merged(folder, parts)
    check_fit(loras, parts, folder)
    places = touched(loras)
    if not places:
        raise ValueError("--lora: with these weights nothing changes")
    obstacle = _obstacle(parts, precision)
    copies = [file for component in parts.values() for file in component.copies]
    with publishing(folder, target, skip={*_weights(parts), *copies}) as staging:
        record = None if obstacle else RecordWriter(staging)
        for component in parts.values():
            for source in [*component.files, *component.variants]:
                _write(component, source, staging, loras, places, precision, record)
        if record:
            record.finish([lora.facts() for lora in loras])
    return Merged({part: sum(place.part == part for place in places) for part in parts}, obstacle, copies)


def refuse_merged(folder: Path, parts: Mapping[str, Component]) -> None:
    """Raise ValueError where LoRAs are in the weights already: what is added then could not be told apart any more."""
    for component in parts.values():
        for source in component.files:
            if KEY in source.metadata:
                names = ", ".join(f"{lora['name']}:{lora['weight']:g}" for lora in json.loads(source.metadata[KEY]))
                first = "take it out first (--unmerge), or " if (folder / RECORD).exists() else ""
                raise ValueError(
                    f"{folder}: {names} has been merged into it; {first}merge all of them at once into the pipeline"
                    " that was its base (--lora A:1 B:0.5)"
                )
    if (folder / RECORD).exists():
        raise ValueError(f"{folder} has a {RECORD}, which another pipeline's merge left there; delete it first")


def _weights(parts: Mapping[str, Component]) -> set[Path]:
    return {source.path for part in parts.values() for source in [*part.files, *part.variants]}


def _obstacle(parts: Mapping[str, Component], precision: Optional[str]) -> str:
    found = {spec.dtype for part in parts.values() for source in part.files for spec in source.specs.values()}
    if precision is None or found & set(FLOATS) <= {PRECISIONS[precision]}:
        return ""
    return f"--precision {precision} rounds the base itself"


def _write(
    component: Component,
    source: SafetensorsFile,
    staging: Path,
    loras: Sequence[WeightedLora],
    places: set[Place],
    precision: Optional[str],
    record: Optional[RecordWriter],
) -> None:
    """One file of weights, tensor by tensor."""
    part = component.folder.name
    into = {
        name: PRECISIONS[precision] if precision and spec.dtype in FLOATS else spec.dtype
        for name, spec in source.specs.items()
    }

    def read(name: str) -> np.ndarray:
        value, dtype = source.read(name), source.specs[name].dtype
        place = Place(part, name[: -len(".weight")])
        try:
            if not name.endswith(".weight") or place not in places:
                return value if into[name] == dtype else as_stored(as_float64(value, dtype), into[name])
            by = stored_change(component, loras, place, value, dtype)
            total = added(value, dtype, by, into[name])
            if record:
                whole = depends_on_weight(loras, place)
                record.add(f"{part}/{source.path.name}", name, value, kept(value, dtype, by, total, whole))
        except ValueError as error:
            raise ValueError(f"{said(place)} of {source.path} with the LoRA: it {error}") from error
        return total

    specs = {name: Spec(into[name], spec.shape) for name, spec in source.specs.items()}
    facts = json.dumps([lora.facts() for lora in loras])
    file = staging / part / source.path.name
    write_safetensors(file, specs, read, {**source.metadata, KEY: facts})


def stored_change(
    component: Component, loras: Sequence[WeightedLora], place: Place, value: np.ndarray, dtype: str
) -> np.ndarray:
    """As the file has the layer's weight: value, of the type dtype -> float64 of the same shape."""
    weight = as_float64(value, dtype)
    flipped = component.transposed(f"{place.path}.weight", value.shape)
    found = change(loras, place, weight.T if flipped else weight)
    return found.T if flipped else found
