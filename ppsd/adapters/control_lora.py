"""ControlNets that are small: adapters beside a copy of the UNet's encoder, which itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ppsd.compat import keep_float32

import numpy as np
import paddle
from paddle import nn
from ppdiffusers import ControlNetModel

from ppsd.adapters.attach import attached
from ppsd.adapters.base import ALPHA, Adapter, Dropout, Options
from ppsd.adapters.network import new_adapters
from ppsd.adapters.places import Place
from ppsd.adapters.targets import Wanted, find_targets
from ppsd.models.bundle import Bundle

OWN = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
"""What a ControlNet has beside its copy of the UNet's layers: the picture's embedding and the zero convolutions."""


class ControlLora(nn.Layer):
    """What is trained of such a ControlNet, and called like it.

    Its state_dict is this alone, adapters' alphas included: the rest is the UNet's. adapters: attached already, by the
    path of their layer.
    """

    def __init__(self, controlnet: ControlNetModel, adapters: Mapping[str, Adapter]) -> None:
        super().__init__()
        self._whole = (controlnet,)  # in a tuple, so that its layers are none of these
        self._adapters = {f"lora_{path.replace('.', '_')}": adapter for path, adapter in adapters.items()}
        for name in OWN:
            self.add_sublayer(name, getattr(controlnet, name))
        for name, adapter in self._adapters.items():
            self.add_sublayer(name, adapter)
        for parameter in controlnet.parameters():
            parameter.stop_gradient = True
        for parameter in self.parameters():
            parameter.stop_gradient = False
        for adapter in self._adapters.values():
            keep_float32(adapter)  # as those of an AdapterNetwork

    @property
    def controlnet(self) -> ControlNetModel:
        """All of it, with the adapters beside its layers."""
        return self._whole[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.controlnet(*args, **kwargs)

    def train(self) -> None:
        super().train()
        self.controlnet.train()

    def eval(self) -> None:
        super().eval()
        self.controlnet.eval()

    def enable_gradient_checkpointing(self) -> None:
        self.controlnet.enable_gradient_checkpointing()

    def enable_xformers_memory_efficient_attention(self, *args: Any) -> None:
        self.controlnet.enable_xformers_memory_efficient_attention(*args)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, paddle.Tensor]:
        alphas = {f"{name}.{ALPHA}": paddle.to_tensor(np.float32(a.alpha)) for name, a in self._adapters.items()}
        return {**super().state_dict(*args, **kwargs), **alphas}

    @contextmanager
    def fused(self) -> Iterator[ControlNetModel]:
        """Within, a ControlNet like any other, to save or to convert; after, the copy is bit for bit what it was."""
        stand_ins = [found for layer in self.controlnet.sublayers() if (found := attached(layer)) is not None]
        try:
            for stand_in in stand_ins:
                stand_in.fuse()
            yield self.controlnet
        finally:
            for stand_in in stand_ins:
                stand_in.unfuse()


def whole_controlnet(bundle: Bundle) -> nn.Layer:
    """What draws: the ControlNet or T2I-Adapter, of adapters that beside whose layers they are."""
    assert bundle.controlnet is not None
    return bundle.controlnet.controlnet if isinstance(bundle.controlnet, ControlLora) else bundle.controlnet


def new_control_lora(
    controlnet: ControlNetModel, wanted: Wanted, algorithm: str, options: Options, dropout: Dropout, seed: int
) -> ControlLora:
    """Adapters beside the copied layers that `wanted` finds there, as in a UNet; they change nothing yet.

    Raises ValueError as `find_targets` does, and where it finds none but the ControlNet's own layers.
    """
    targets = [
        replace(target, place=Place("controlnet", target.place.path))
        for target in find_targets({"unet": controlnet}, wanted)
        if not target.place.path.startswith(OWN)
    ]
    if not targets:
        raise ValueError("--network_targets has no layer in what the ControlNet has of the UNet")
    adapters = new_adapters(targets, algorithm, options, dropout, seed)
    return ControlLora(controlnet, {place.path: adapter for place, adapter in adapters.items()})
