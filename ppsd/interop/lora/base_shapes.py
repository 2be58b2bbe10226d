"""A LoRA file, and the shapes of the layers that it is for, where the pipeline is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ppsd.formats.atomic import PathLike
from ppsd.interop.lora.changes import check_fit, read_weighted
from ppsd.interop.lora.joining import ShapeOf
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.model_weights import layers_per_block, open_parts, shape_at


def read_for(path: PathLike, base: Optional[Path] = None) -> tuple[LoraFile, ShapeOf]:
    """base: a pipeline's folder. Raises ValueError for what `read_lora` refuses, and a file not for `base`."""
    if base is None:
        return read_weighted(str(path), 1.0).lora, lambda _: None
    parts = open_parts(base)
    one = read_weighted(str(path), 1.0, None, layers_per_block(base))
    check_fit([one], parts, base)
    return one.lora, lambda place: shape_at(parts, place)
