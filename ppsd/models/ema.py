"""Exponential moving average of a layer's trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import paddle
from paddle import nn

from ppsd.formats.safetensors_file import TensorSource


class EMA:
    """Averages in float32. The decay after n updates is min(decay, (1 + n) / (10 + n)), as in latent-diffusion."""

    def __init__(self, layer: nn.Layer, decay: float = 0.9999) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"--ema_decay is {decay}; it must be between 0 and 1")
        self.layer, self.decay, self.updates = layer, decay, 0
        self.masters: Mapping[str, paddle.Tensor] = {}
        """The optimizer's float32 weights by paddle name, where the layer's own are half precision (AMP O2)."""
        trained = self._trained()
        self.average = {name: p.detach().astype("float32").clone() for name, p in trained}
        self._pairs = [(self.average[name], p) for name, p in trained]

    def _trained(self) -> list[tuple[str, paddle.Tensor]]:
        return [(name, p) for name, p in self.layer.named_parameters() if not p.stop_gradient]

    @paddle.no_grad()
    def update(self) -> None:
        self.updates += 1
        rate = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, p in self._pairs:
            value = self.masters.get(p.name, p)
            if value.dtype != average.dtype:
                value = value.astype(average.dtype)
            average.add_((value - average).scale_(rate))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the layer computes with the averages."""
        kept = {name: p.detach().clone() for name, p in self._trained()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(kept)

    @paddle.no_grad()
    def _assign(self, values: dict[str, paddle.Tensor]) -> None:
        for name, p in self._trained():
            p.set_value(values[name].astype(p.dtype))

    def state_dict(self) -> dict[str, paddle.Tensor]:
        """The averages themselves, not copies."""
        return dict(self.average)

    def load(self, source: TensorSource) -> None:
        """Averages and their count from a file. ValueError if it lacks the count, or a weight, or one does not fit."""
        updates = source.metadata.get("ema_updates")
        if updates is None:
            raise ValueError(f"{source.path} does not say how many EMA updates it holds")
        for name, average in self.average.items():
            if name not in source.specs or source.specs[name].shape != tuple(average.shape):
                raise ValueError(f"{source.path} does not fit this model: {name} is missing or has another shape")
            average.set_value(source.read(name).astype("float32"))
        self.updates = int(updates)
