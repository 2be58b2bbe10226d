"""LoHa and LoKr as LoRA, and what a conversion has rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ppsd.adapters.base import DORA
from ppsd.formats.atomic import PathLike
from ppsd.interop.lora.checks import algorithm
from ppsd.interop.lora.joining import ShapeOf, lora_factors
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.own_change import own_change
from ppsd.interop.lora.rank_metadata import said_of_ranks
from ppsd.interop.lora.reading import read_lora


def as_lora_file(lora: LoraFile, shape_of: ShapeOf = lambda _: None) -> LoraFile:
    """Every layer as LoRA. Raises ValueError where a layer's shape is needed and not known."""
    layers = {place: lora_factors(place, dict(factors), shape_of(place)) for place, factors in lora.layers.items()}
    same = {place for place, factors in layers.items() if identical(factors, lora.layers[place])}
    dtypes = {key: dtype for key, dtype in lora.dtypes.items() if key[0] in same}
    metadata = dict(lora.metadata)
    if len(same) < len(layers) and "ss_network_module" in metadata:
        metadata.update(said_of_ranks(layers))
    return replace(lora, layers=layers, metadata=metadata, dtypes=dtypes)


def check_form(lora: LoraFile, form: str) -> None:
    """Raise ValueError where only kohya's form has a place for the algorithm."""
    other = [factors for factors in lora.layers.values() if algorithm(factors) != "lora"]
    if other and form != "kohya":
        kinds = " and ".join(sorted({algorithm(factors) for factors in other}))
        raise ValueError(
            f"{len(other)} layers are {kinds}, which {form} has no form for: --as_lora writes them as LoRA of the same"
            " change (with --base PIPELINE, which tells the layers' shapes), --to kohya as they are"
        )


def rounded(before: LoraFile, file: PathLike) -> str:
    """How the changes of weights that a written file stands for differ from those of the one it was made from."""
    after = read_lora(file, before.layers_per_block)
    missing = set(before.layers) - set(after.layers)
    assert not missing, missing
    errors = [error(before.layers[place], after.layers[place]) for place in before.layers]
    exact = errors.count(0.0)
    text = f"{exact} layers are exactly the same"
    if exact < len(errors):
        text += f", {len(errors) - exact} are rounded, by {max(errors):.1e} of their largest change at most"
    added = len(after.layers) - len(before.layers)
    return text + (f"; {added} layers of zeros are added, which the form asks for" if added else "")


def error(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """The largest difference of the changes, relative to the largest change (and of lengths in a DoRA); 0: none."""
    if identical(before, after):
        return 0.0
    pairs = [(own_change(before), own_change(after))]
    if DORA in before:
        pairs.append((before[DORA].reshape(-1), after[DORA].reshape(-1)))
    return max(_relative(one, other) for one, other in pairs)


def identical(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """The same factors, bit for bit."""
    return one.keys() == other.keys() and all(value.tobytes() == other[name].tobytes() for name, value in one.items())


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    difference, largest = float(np.abs(one - other).max()), float(np.abs(one).max())
    return difference / largest if largest else difference
