"""LoRA files of kohya, LyCORIS, A1111, diffusers, PEFT and ppdiffusers -> LoraFile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ppsd.adapters.base import ALPHA
from ppsd.adapters.lora import DOWN, UP
from ppsd.adapters.places import Place
from ppsd.formats.atomic import PathLike
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.interop.lora.checks import LEAVES, complaint
from ppsd.interop.lora.keys import Meaning, is_underscored, meaning
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.names import PREFIXES
from ppsd.interop.lora.opening import open_lora
from ppsd.interop.lora.peft_config import alpha_from, read_config
from ppsd.interop.lora.sgm import layers_per_block_of
from ppsd.interop.weights import as_float32

FLOATS, INTEGERS = ("F64", "F32", "F16", "BF16"), ("I64", "I32", "I16", "I8", "U8")
MAGNITUDE = "lora_magnitude_vector"
"""PEFT's of DoRA: [out], or [1,out,1,1] of a convolution; kohya's dora_scale is [out,1], [out,1,1,1]."""


def read_lora(path: PathLike, layers_per_block: Optional[int] = None) -> LoraFile:
    """A file, or a folder with pytorch_lora_weights.safetensors or paddle_lora_weights.safetensors.

    layers_per_block: of the UNet; it only matters for the original model's block names, and is derived from them where
    it can be, else 2. Raises ValueError, naming file and keys, for keys that match nothing, for what is not whole, is
    no number or does not fit, and for pickles.
    """
    source = open_lora(path)
    if not source.specs:
        raise ValueError(f"{source.path} holds no tensors")
    layers_per_block = layers_per_block or layers_per_block_of(_bare_names(source.specs))
    meanings = _meanings(source, layers_per_block)
    underscored = any(is_underscored(key) for key in source.specs)
    paddle = not underscored and source.metadata.get("format") == "pd"
    lora = LoraFile({}, dict(source.metadata), "kohya", {}, layers_per_block)
    lora.form = "kohya" if underscored else "ppdiffusers" if paddle else "diffusers"
    for key, (place, leaf) in meanings.items():
        lora.layers.setdefault(place, {})[leaf] = _value(source, key, leaf, paddle)
        dtype = source.specs[key].dtype
        lora.dtypes[place, leaf] = dtype if dtype in ("F16", "BF16") else "F32"
    _check(source.path, lora)
    if not underscored:
        _set_alphas(source.path, lora)
    return lora


def _bare_names(keys: Iterable[str]) -> list[str]:
    """Layers' names without kohya's prefixes."""
    return [key[len(p) :].split(".")[0] for key in keys for p in PREFIXES if key.startswith(p)]


def _meanings(source: SafetensorsFile, layers_per_block: int) -> dict[str, Meaning]:
    found = {key: meaning(key, layers_per_block) for key in source.specs}
    unknown = [key for key, what in found.items() if what is None]
    if unknown:
        raise ValueError(f"{source.path}: {_unknown(unknown)}")
    first: dict[Meaning, str] = {}
    for key, what in found.items():
        assert what is not None
        if first.setdefault(what, key) != key:
            raise ValueError(f"{source.path}: {first[what]} and {key} are the same layer's")
    return {key: what for what, key in first.items()}


def _unknown(keys: Sequence[str]) -> str:
    leaves = sorted(
        {key.rsplit(".", 1)[-1] for key in keys if is_underscored(key) and key.partition(".")[2] not in LEAVES}
    )
    hint = (
        f" {', '.join(leaves)}: no factors of LoRA, LoCon, LoHa or LoKr, which are what ppsd knows." if leaves else ""
    )
    return f"{_listed(keys, 'match no layer of Stable Diffusion, or no algorithm')}.{hint}"


def _value(source: SafetensorsFile, key: str, leaf: str, paddle: bool) -> np.ndarray:
    """float32, in kohya's layout. paddle: matrices are [in,out] in the file."""
    spec = source.specs[key]
    if spec.dtype not in (FLOATS + INTEGERS if leaf == ALPHA else FLOATS):
        raise ValueError(f"{source.path}: {key} is {spec.dtype}; factors are float32, float16 or bfloat16")
    value = as_float32(spec, source.read(key))
    if paddle and value.ndim == 2 and leaf in (DOWN, UP):
        return np.ascontiguousarray(value.T)
    if MAGNITUDE in key:
        return value.reshape(-1, *[1] * (3 if value.ndim == 4 else 1))
    return value.reshape([]) if leaf == ALPHA and value.size == 1 else value


def _check(path: Path, lora: LoraFile) -> None:
    infinite = [
        f"{_said(place)} {leaf}"
        for place, factors in lora.layers.items()
        for leaf, value in factors.items()
        if not np.isfinite(value).all()
    ]
    if infinite:
        raise ValueError(f"{path}: {_listed(infinite, 'have values that are NaN or infinite')}")
    wrong = [(_said(place), complaint(factors)) for place, factors in lora.layers.items()]
    wrong = [(place, text) for place, text in wrong if text]
    if wrong:
        more = f" ({len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ValueError(f"{path}: " + "; ".join(f"{place} {text}" for place, text in wrong[:3]) + more)


def _set_alphas(path: Path, lora: LoraFile) -> None:
    """Where the file has none of its own, PEFT's configuration says, else it is the rank."""
    try:
        config: dict[str, Any] = read_config(lora.metadata)
        for place, factors in lora.layers.items():
            if UP in factors and ALPHA not in factors:
                rank = factors[DOWN].shape[0]
                alpha = alpha_from(config, place, rank)
                factors[ALPHA] = np.asarray(rank if alpha is None else alpha, np.float32)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{path}: lora_adapter_metadata cannot be used: {error}") from error


def _said(place: Place) -> str:
    return f"{place.part}.{place.path}"


def _listed(keys: Sequence[str], what: str) -> str:
    """The first 10 and the count."""
    return f"{len(keys)} keys {what}: " + ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
