"""A LoRA file as far as it can be read, and what is wrong with the rest: for looking at it, not for using it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Optional

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile, write_safetensors
from ppsd.interop.lora.keys import meaning
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.opening import open_lora
from ppsd.interop.lora.reading import read_lora


def read_leniently(path: Path, layers_per_block: Optional[int] = None) -> tuple[LoraFile, list[str]]:
    """With a sentence about each fault; none of them for what `read_lora` takes.

    Raises ValueError for a pickle, and for what is no whole safetensors file.
    """
    source = open_lora(path)
    try:
        return read_lora(source.path, layers_per_block), []
    except ValueError as error:
        lora, problems = _layer_by_layer(source, layers_per_block or 2)
        return lora, problems or [_without(str(error), source.path)]


def _layer_by_layer(source: SafetensorsFile, layers_per_block: int) -> tuple[LoraFile, list[str]]:
    """Each layer as a file of its own, so that `read_lora` says what is wrong with it."""
    whole, problems = LoraFile({}, dict(source.metadata), layers_per_block=layers_per_block), []
    keys, unknown = _by_place(source, layers_per_block)
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        problems.append(
            f"{len(unknown)} keys are no factors of LoRA, LoCon, LoHa or LoKr, or of no layer of Stable Diffusion:"
            f" {', '.join(unknown[:10])}{more}"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "layer.safetensors")
        for names in keys.values():
            write_safetensors(file, {name: source.specs[name] for name in names}, source.read, source.metadata)
            try:
                lora = read_lora(file, layers_per_block)
            except ValueError as error:
                problems.append(_without(str(error), file))
                continue
            whole.layers.update(lora.layers)
            whole.form = lora.form
    return whole, problems


def _by_place(source: SafetensorsFile, layers_per_block: int) -> tuple[dict[Place, list[str]], list[str]]:
    keys: dict[Place, list[str]] = {}
    unknown = []
    for key in source.specs:
        what = meaning(key, layers_per_block)
        if what is None:
            unknown.append(key)
        else:
            keys.setdefault(what.place, []).append(key)
    return keys, unknown


def _without(text: str, path: Path) -> str:
    return text[len(f"{path}: ") :] if text.startswith(f"{path}: ") else text
