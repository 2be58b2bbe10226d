"""Adapters in place: a layer computes its own output and what its adapters add. Its weights and names stay."""

from __future__ import annotations

from typing import Any, Optional

import paddle
from paddle import nn

from ppsd.adapters.base import Adapter
from ppsd.adapters.layers import as_weight, weight_of


class Attached:
    """Stands in for a layer's `forward`. adapters: with their weights, which can change at any time.

    fused: the base's own weight, kept while the adapters are in the layer's weight.
    """

    def __init__(self, layer: nn.Layer) -> None:
        self.layer, self.plain = layer, layer.forward
        self.adapters: list[tuple[Adapter, float]] = []
        self.base: Optional[paddle.Tensor] = None

    def __call__(self, x: paddle.Tensor, *args: Any, **kwargs: Any) -> paddle.Tensor:
        out = self.plain(x, *args, **kwargs)
        if self.base is None:
            for adapter, weight in self.adapters:
                added = self._added(adapter, x)
                out = out + (added if weight == 1.0 else added * weight)
        return out

    def _added(self, adapter: Adapter, x: paddle.Tensor) -> paddle.Tensor:
        """Without dropout where the layer is in eval mode, as for previews: adapters are no part of the network."""
        training = adapter.training
        adapter.training = training and self.layer.training
        try:
            return adapter(x, self.layer)
        finally:
            adapter.training = training

    @paddle.no_grad()
    def fuse(self) -> None:
        """Put the adapters into the layer's weight, summed in float32."""
        if self.base is None and self.adapters:
            self.base = self.layer.weight.detach().clone()
            own = weight_of(self.layer).astype("float32")
            changes = [adapter.delta(own) * weight for adapter, weight in self.adapters]
            self.layer.weight.set_value(as_weight(self.layer, sum(changes, own)).astype(self.base.dtype))

    def unfuse(self) -> None:
        """Take them out again: the weight is bit for bit what it was."""
        if self.base is not None:
            self.layer.weight.set_value(self.base)
            self.base = None


def attached(layer: nn.Layer) -> Optional[Attached]:
    """What stands in for the layer's forward, if something does."""
    found = vars(layer).get("forward")
    return found if isinstance(found, Attached) else None


def attach(layer: nn.Layer, adapter: Adapter, weight: float = 1.0) -> None:
    """Add an adapter to those of a layer."""
    stand_in = attached(layer)
    if stand_in is None:
        stand_in = layer.forward = Attached(layer)
    assert stand_in.base is None, "unfuse first"
    stand_in.adapters.append((adapter, weight))


def detach(layer: nn.Layer) -> None:
    """Leave the layer as if it had never had an adapter."""
    stand_in = attached(layer)
    if stand_in is not None:
        stand_in.unfuse()
        del layer.forward
