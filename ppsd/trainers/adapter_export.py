"""The export of a run that trained adapters: a LoRA file for each kind of tool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import paddle

from ppsd.adapters.network import AdapterNetwork
from ppsd.formats.safetensors_file import Digest
from ppsd.models.ema import EMA
from ppsd.models.saving import save_component


def write_adapter(
    folder: Path,
    name: str,
    network: AdapterNetwork,
    averaged: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> dict[Path, Digest]:
    """NAME.safetensors for kohya's tools, A1111 and ComfyUI."""
    weights = averaged.state_dict() if averaged and averaged.layer is network else None
    (written,) = save_component(network, folder, masters=masters, weights=weights).items()
    file = folder / f"{name}.safetensors"
    written[0].rename(file)
    return {file: written[1]}
