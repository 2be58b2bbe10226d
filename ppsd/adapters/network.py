"""All adapters of a run: the layer that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppsd.compat import keep_float32

import numpy as np
import paddle
from paddle import nn

from ppsd.adapters.algorithms import ALGORITHMS
from ppsd.adapters.attach import attach
from ppsd.adapters.base import ALPHA, DORA, Adapter, Dropout, Options
from ppsd.adapters.layers import weight_of, weight_shape
from ppsd.adapters.places import Place, kohya_name
from ppsd.adapters.targets import Target
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.models.saving import differing


class AdapterNetwork(nn.Layer):
    """Its state_dict is a file of kohya's, alphas included, so that a checkpoint's weights are a LoRA to use.

    It stays float32 in half precision, too: rounded to bfloat16, DoRA's lengths alone would change weights by 0.2 %.
    """

    def __init__(self, adapters: Mapping[Place, Adapter]) -> None:
        super().__init__()
        self._named = {kohya_name(place): (place, adapter) for place, adapter in adapters.items()}
        for name, (_, adapter) in self._named.items():
            self.add_sublayer(name, adapter)
        keep_float32(self)

    @property
    def adapters(self) -> dict[Place, Adapter]:
        return dict(self._named.values())

    def named_adapters(self) -> Iterator[tuple[str, Place, Adapter]]:
        """With the names that they have in files of kohya's."""
        for name, (place, adapter) in self._named.items():
            yield name, place, adapter

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, paddle.Tensor]:
        """The parameters, and `NAME.alpha` [], which is none, as it is not trained."""
        alphas = {
            f"{name}.{ALPHA}": paddle.to_tensor(np.float32(adapter.alpha)) for name, (_, adapter) in self._named.items()
        }
        return {**super().state_dict(*args, **kwargs), **alphas}


def check_saved(network: nn.Layer, file: Path) -> None:
    """Raise ValueError where saved adapters are of other layers, sizes or alphas than these."""
    source, own = SafetensorsFile(file), network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    wrong = differing(shapes, {name: spec.shape for name, spec in source.specs.items()})
    if wrong:
        raise ValueError(
            f"--network_module: {file} holds adapters of other layers or ranks (e.g. {wrong[0]}); continue with the"
            " same --network_* and --conv_* flags, or start over with --overwrite_output_dir"
        )
    for key in (name for name in own if name.endswith(f".{ALPHA}")):
        saved, now = float(source.read(key)), float(own[key])
        if saved != now:
            raise ValueError(
                f"--network_alpha: {file} has alpha {saved:g} at {key.removesuffix(f'.{ALPHA}')}, this run {now:g};"
                " continue with the same one, or start over with --overwrite_output_dir"
            )


def new_adapters(
    targets: Sequence[Target], algorithm: str, options: Options, dropout: Dropout, seed: int
) -> dict[Place, Adapter]:
    """Attached to the layers, of which they change nothing yet. Factors depend on the seed and a target's number."""
    made = {}
    for index, target in enumerate(targets):
        cls, shape = ALGORITHMS[algorithm], weight_shape(target.layer)
        own = Options(target.rank, options.tucker, options.dora, options.factor, options.decompose_both)
        factors = cls.initial(shape, own, np.random.default_rng([seed, index]))
        if options.dora:
            factors[DORA] = lengths(target.layer)
        adapter = cls({**factors, ALPHA: np.asarray(target.alpha, np.float32)}, shape, dropout)
        attach(target.layer, adapter)
        made[target.place] = adapter
    return made


def lengths(layer: nn.Layer) -> np.ndarray:
    """Of each output's row of the weight: float32 [out,1,...]."""
    weight = weight_of(layer).astype("float32")
    return np.asarray((weight**2).sum(axis=list(range(1, weight.ndim)), keepdim=True).sqrt().numpy())
