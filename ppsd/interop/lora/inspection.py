"""What a LoRA file is, and how much it changes where."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.adapters.base import DORA
from ppsd.adapters.lora import MID
from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.interop.lora.blocks import Block, block_of, layers_per_block_of
from ppsd.interop.lora.changes import delta, misfit, said
from ppsd.interop.lora.checks import algorithm
from ppsd.interop.lora.equivalents import rank_of, scale_of
from ppsd.interop.lora.hashes import LEGACY, MODEL, SPEC, kohya_hashes
from ppsd.interop.lora.lenient import read_leniently
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.model_weights import Component, layers_per_block, open_parts, shape_at
from ppsd.interop.lora.opening import open_lora
from ppsd.interop.lora.own_change import own_change, own_shape


@dataclass(frozen=True)
class LayerFacts:
    """norm: Frobenius, of the change of the weight; base_norm: of the weight, where the pipeline is at hand."""

    place: Place
    algorithm: str
    rank: int
    alpha: float
    parameters: int
    norm: float
    base_norm: Optional[float]


@dataclass(frozen=True)
class BlockFacts:
    """The same of all layers of a block: roots of the sums of squares."""

    block: Block
    layers: int
    parameters: int
    norm: float
    base_norm: Optional[float]


@dataclass(frozen=True)
class Inspection:
    """problems: why ppsd would not use the file; warnings: what it would use, and what may surprise.

    hashes: of those in the metadata, whether they are right.
    """

    path: Path
    num_bytes: int
    form: str
    layers: list[LayerFacts]
    blocks: list[BlockFacts]
    metadata: dict[str, str]
    hashes: dict[str, bool]
    problems: list[str]
    warnings: list[str]

    def count(self, name: str) -> Counter[object]:
        """How many layers have which algorithm, rank or alpha."""
        return Counter(getattr(layer, name) for layer in self.layers)


def inspect_lora(path: Path, base: Optional[Path] = None) -> Inspection:
    """base: a pipeline's folder. Raises ValueError for a pickle, and for what is no whole safetensors file."""
    parts = open_parts(base) if base else {}
    lora, problems = read_leniently(path, layers_per_block(base) if base else None)
    source = open_lora(path)
    if base:
        problems = [*problems, *_misfits(lora, parts, base)]
    layers = [_facts(place, factors, parts) for place, factors in lora.layers.items()]
    per_block = (layers_per_block(base) if base else None) or layers_per_block_of(lora.layers)
    return Inspection(
        source.path,
        source.path.stat().st_size,
        lora.form,
        layers,
        _blocks(layers, per_block),
        lora.metadata,
        check_hashes(source),
        problems,
        _warnings(lora, layers, bool(base)),
    )


def check_hashes(source: SafetensorsFile) -> dict[str, bool]:
    """Of those hashes that the metadata hold, whether the file has them."""
    stored = {name: source.metadata[name] for name in (MODEL, LEGACY, SPEC) if name in source.metadata}
    if not stored:
        return {}
    values = {name: source.read(name) for name in source.specs}
    right = kohya_hashes(source.specs, values, source.metadata)
    return {name: right[name] == text for name, text in stored.items()}


def _facts(place: Place, factors: Mapping[str, np.ndarray], parts: dict[str, Component]) -> LayerFacts:
    rank = rank_of(factors)
    shape = shape_at(parts, place) if parts else None
    weight = None
    if shape is not None and misfit(factors, shape) is None:
        weight = parts[place.part].value(f"{place.path}.weight")
    change = own_change(factors) if weight is None else delta(factors, weight)
    return LayerFacts(
        place,
        name_of(factors),
        rank,
        scale_of(factors) * rank,
        sum(value.size for name, value in factors.items() if name != "alpha"),
        float(np.linalg.norm(change)),
        None if weight is None else float(np.linalg.norm(weight)),
    )


def name_of(factors: Mapping[str, np.ndarray]) -> str:
    """LoRA, LoCon (of convolutions larger than 1 x 1), LoHa or LoKr; Tucker and DoRA are said."""
    kind = algorithm(factors)
    large = math.prod(own_shape(factors)[2:]) > 1
    name = {"lora": "LoCon" if large else "LoRA", "loha": "LoHa", "lokr": "LoKr"}[kind]
    tucker = MID in factors or any(leaf in factors for leaf in ("hada_t1", "lokr_t2"))
    return name + (" Tucker" if tucker else "") + (" DoRA" if DORA in factors else "")


def _blocks(layers: list[LayerFacts], per_block: int) -> list[BlockFacts]:
    found: dict[Block, list[LayerFacts]] = {}
    for layer in layers:
        found.setdefault(block_of(layer.place, per_block), []).append(layer)
    return [
        BlockFacts(
            block,
            len(own),
            sum(layer.parameters for layer in own),
            _root([layer.norm for layer in own]) or 0.0,
            _root([layer.base_norm for layer in own]),
        )
        for block, own in sorted(found.items())
    ]


def _root(norms: Sequence[Optional[float]]) -> Optional[float]:
    """Of the sum of the squares; None where one is not known."""
    known = [norm for norm in norms if norm is not None]
    return math.sqrt(sum(norm**2 for norm in known)) if len(known) == len(norms) else None


def _misfits(lora: LoraFile, parts: dict[str, Component], base: Path) -> list[str]:
    shapes = {place: shape_at(parts, place) for place in lora.layers}
    missing = [said(place) for place, shape in shapes.items() if shape is None]
    texts = [f"{len(missing)} layers are not in {base}: {', '.join(missing)}"] if missing else []
    for place, shape in shapes.items():
        wrong = misfit(lora.layers[place], shape) if shape else None
        if wrong:
            texts.append(f"{said(place)} does not fit {base}: {wrong}")
    return texts


def _warnings(lora: LoraFile, layers: list[LayerFacts], has_base: bool) -> list[str]:
    zeros = [said(layer.place) for layer in layers if layer.norm == 0]
    found = [f"{len(zeros)} layers change nothing, all zeros: {', '.join(zeros[:10])}"] if zeros else []
    decomposed = sum(DORA in factors for factors in lora.layers.values())
    if decomposed and not has_base:
        found.append(f"the norms of {decomposed} DoRA layers are without dora_scale, which needs the base (--base)")
    return found
