"""The export of a run that trained adapters: a LoRA file for each kind of tool."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Optional

import numpy as np
import paddle

from ppsd.adapters.base import ALPHA
from ppsd.adapters.network import AdapterNetwork
from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import Digest
from ppsd.interop.lora.attaching import adapters_for
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.reading import read_lora
from ppsd.interop.lora.writing import write_lora
from ppsd.models.ema import EMA
from ppsd.models.saving import as_float32

logger = logging.getLogger(__name__)

DIFFUSERS = "pytorch_lora_weights.safetensors"


def write_adapter(
    folder: Path,
    name: str,
    network: AdapterNetwork,
    metadata: Mapping[str, str],
    averaged: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> dict[Path, Digest]:
    """NAME.safetensors for kohya's tools, A1111 and ComfyUI; of LoRA and LoCon also diffusers' file.

    The averages, if `averaged` is of the network; masters: as in `save_component`.
    """
    lora = LoraFile(trained_factors(network, averaged, masters), dict(metadata))
    written = {folder / f"{name}.safetensors": write_lora(folder / f"{name}.safetensors", lora, hashes=True)}
    if {adapter.algorithm for adapter in network.adapters.values()} == {"lora"}:
        written[folder / DIFFUSERS] = write_lora(folder / DIFFUSERS, LoraFile(lora.layers), "diffusers")
    logger.info("for A1111, ComfyUI and kohya's tools: %s.safetensors", name)
    if folder / DIFFUSERS in written:
        logger.info("for diffusers: %s", DIFFUSERS)
    return written


def warn_of_earlier(folder: Path, names: Container[str]) -> None:
    """names: of the files just written to `folder`. One of diffusers' that is not among them is another run's."""
    if DIFFUSERS not in names and (folder / DIFFUSERS).exists():
        logger.warning("%s is not of this run, of whose adapters diffusers has no such file", folder / DIFFUSERS)


def trained_factors(
    network: AdapterNetwork, averaged: Optional[EMA] = None, masters: Optional[Mapping[str, paddle.Tensor]] = None
) -> dict[Place, dict[str, np.ndarray]]:
    """Of each layer, float32."""
    averages = averaged.state_dict() if averaged and averaged.layer is network else {}
    found: dict[Place, dict[str, np.ndarray]] = {}
    for name, place, adapter in network.named_adapters():
        values = {
            leaf: averages.get(f"{name}.{leaf}", (masters or {}).get(parameter.name, parameter))
            for leaf, parameter in adapter.named_parameters()
        }
        found[place] = {leaf: as_float32(value) for leaf, value in values.items()}
        found[place][ALPHA] = np.asarray(adapter.alpha, np.float32)
    return found


def start_from(network: AdapterNetwork, path: str, layers: Mapping[Place, paddle.nn.Layer]) -> None:
    """Begin with the factors of a file. Raises ValueError, naming the flag, where its adapters are not just these."""
    try:
        given = adapters_for(read_lora(path), layers, path)
    except ValueError as error:
        raise ValueError(f"--network_weights: {error}") from error
    own = network.adapters
    if set(given) != set(own):
        only = sorted(f"{place.part}.{place.path}" for place in set(given) ^ set(own))
        raise ValueError(
            f"--network_weights: {path} has adapters for other layers than this run's flags ask for, e.g. {only[0]}"
        )
    for place, adapter in own.items():
        theirs, mine = dict(given[place].named_parameters()), dict(adapter.named_parameters())
        shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (theirs, mine)]
        if shapes[0] != shapes[1] or given[place].alpha != adapter.alpha:
            raise ValueError(
                f"--network_weights: at {place.path} {path} has {shapes[0]} and alpha {given[place].alpha:g}, this run"
                f" {shapes[1]} and alpha {adapter.alpha:g}: give the same --network_* and --conv_* flags"
            )
        for name, parameter in mine.items():
            parameter.set_value(theirs[name])
