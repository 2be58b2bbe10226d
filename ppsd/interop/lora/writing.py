"""LoraFile -> a file for kohya's tools (and LyCORIS, A1111, ComfyUI), for diffusers, or for ppdiffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import numpy as np

from ppsd.adapters.base import ALPHA
from ppsd.adapters.places import Place, kohya_name
from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.safetensors_file import DTYPES, Digest, Spec, write_safetensors
from ppsd.interop.lora.diffusers_form import Entries, diffusers_entries
from ppsd.interop.lora.hashes import LEGACY, MODEL, SPEC, kohya_hashes
from ppsd.interop.lora.lora_file import FORMS, Layers, LoraFile
from ppsd.interop.lora.peft_config import KEY
from ppsd.interop.lora.ppdiffusers_form import ppdiffusers_entries
from ppsd.interop.lora.precision import PRECISIONS, exact_dtype, stored
from ppsd.interop.lora.sgm import sgm_name

HASHES = (MODEL, LEGACY, SPEC)


def write_lora(
    path: PathLike,
    lora: LoraFile,
    form: str = "kohya",
    precision: Optional[str] = None,
    keep_alpha: bool = False,
    one_rank: bool = True,
    sdxl: Optional[bool] = None,
    hashes: bool = False,
) -> Digest:
    """precision: float32, float16 or bfloat16 (alpha stays float32); none: as each factor was stored, if that is exact.

    keep_alpha, one_rank: see `diffusers_entries`. sdxl: the original model's block names in kohya's form; by default
    where `lora` is of SDXL. hashes: kohya's, in the metadata; where these held some, they are made anew anyway.
    The file appears whole or not at all. Raises ValueError, naming it, for what the form or the precision cannot hold.
    """
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of LoRA files; there are {', '.join(FORMS)}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if not lora.layers:
        raise ValueError(f"{path}: a LoRA without layers is not written")
    metadata = {name: text for name, text in lora.metadata.items() if name not in (KEY, "format", *HASHES)}
    try:
        entries, config = _entries(lora, form, keep_alpha, one_rank, lora.sdxl if sdxl is None else sdxl)
        specs, values = _stored(lora, entries, precision)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if form != "kohya":
        metadata["format"] = "pt" if form == "diffusers" else "pd"
    elif lora.metadata.get("format") == "pt":
        metadata["format"] = "pt"
    if config:
        metadata[KEY] = config
    if form == "kohya" and (hashes or set(HASHES) & set(lora.metadata)):
        made = kohya_hashes(specs, values, metadata)
        metadata.update(made if hashes else {name: made[name] for name in HASHES if name in lora.metadata})
    with atomic_write(path) as file:
        return write_safetensors(file.name, specs, values.__getitem__, metadata)


def kohya_entries(layers: Layers, sdxl: bool, layers_per_block: int = 2) -> Entries:
    """sdxl: with two text encoders, and the UNet's blocks as the original code names them."""
    return {
        f"{module_name(place, sdxl, layers_per_block)}.{leaf}": (value, place, leaf)
        for place, factors in layers.items()
        for leaf, value in factors.items()
    }


def module_name(place: Place, sdxl: bool, layers_per_block: int = 2) -> str:
    """As kohya's trainers name the layer."""
    if sdxl and place.part == "unet":
        return f"lora_unet_{sgm_name(place.path.replace('.', '_'), layers_per_block)}"
    return kohya_name(place, several_encoders=sdxl)


def _entries(lora: LoraFile, form: str, keep_alpha: bool, one_rank: bool, sdxl: bool) -> tuple[Entries, str]:
    if form == "kohya":
        return kohya_entries(lora.layers, sdxl, lora.layers_per_block), ""
    if form == "ppdiffusers":
        return ppdiffusers_entries(lora.layers), ""
    return diffusers_entries(lora.layers, keep_alpha, one_rank)


def _stored(
    lora: LoraFile, entries: Entries, precision: Optional[str]
) -> tuple[dict[str, Spec], Mapping[str, np.ndarray]]:
    """In the order of the names, which is the one that the safetensors library writes."""
    specs, values = {}, {}
    for key in sorted(entries):
        value, place, leaf = entries[key]
        if precision is None:
            dtype = exact_dtype(value, lora.dtype(place, leaf))
        else:
            dtype = "F32" if leaf == ALPHA else PRECISIONS[precision]
        try:
            values[key] = stored(value, dtype)
        except ValueError as error:
            raise ValueError(f"{key} {error}") from error
        specs[key] = Spec(dtype, value.shape)
        assert values[key].dtype == DTYPES[dtype], key
    return specs, values
