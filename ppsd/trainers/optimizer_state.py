"""An optimizer's state as tensors named after the weights ("unet.conv_in.weight.moment1"), and back.

Paddle's own names count the layers that the process has made ("conv2d_6.w_0_moment1_0"): they fit only a process that
made the same layers in the same order. And with --sharding each process has a part of the state; by the weights' names
the parts make one file, which a run on any number of devices continues, sharded or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.base.layer_helper import LayerHelper

from ppsd.formats.safetensors_file import DTYPES, Digest, Spec, TensorSource, write_order, write_safetensors
from ppsd.models.saving import as_float32, spec_of
from ppsd.trainers.processes import broadcast, everyones

OPTIMIZER = "optimizer.safetensors"
MASTER = "master_weight"
"""The float32 weight of a half-precision layer (AMP O2)."""


def trained_names(layer: nn.Layer) -> dict[str, str]:
    """Paddle name of each trained weight -> its name in `layer`."""
    return {p.name: name for name, p in layer.named_parameters() if not p.stop_gradient}


def wrappers(optimizer: Any) -> list[Any]:
    """The optimizer, what it wraps (sharding, mixed precision), and so on; what updates the weights comes last."""
    found = [optimizer]
    while True:
        inner = vars(found[-1]).get("_inner_opt", vars(found[-1]).get("_optim"))
        if inner is None:
            return found
        found.append(inner)


def local_names(optimizer: Any) -> set[str]:
    """Paddle names of the weights whose state this process holds: all but with sharding."""
    for wrapper in wrappers(optimizer):
        if "_param2rank" in vars(wrapper):
            rank = vars(wrapper).get("_sharding_rank", vars(wrapper).get("_rank"))
            return {name for name, owner in wrapper._param2rank.items() if owner == rank}
    return {parameter.name for parameter in wrappers(optimizer)[-1]._parameter_list}


def kind_of(optimizer: Any) -> str:
    """Its name among the values of --optimizer_type."""
    name = type(wrappers(optimizer)[-1]).__name__
    return {"Momentum": "SGDNesterov"}.get(name, name)


def own_state(optimizer: Any, names: Mapping[str, str]) -> dict[str, paddle.Tensor]:
    """What this process holds, by name. Empty before the first step."""
    inner, local = wrappers(optimizer)[-1], local_names(optimizer)
    masters = {name: value for name, value in inner._master_weights.items() if name in local}
    weight_of = {**{name: name for name in names}, **{master.name: name for name, master in masters.items()}}
    state = {f"{names[name]}.{MASTER}": master for name, master in masters.items()}
    for kind, values in inner._accumulators.items():
        for key, value in values.items():
            if weight_of[key] in local:
                state[f"{names[weight_of[key]]}.{kind}"] = value
    return state


class OptimizerState:
    """The state of all processes. Making one is collective where it is sharded, and so is every `read`."""

    def __init__(self, optimizer: Any, layer: nn.Layer, sharded: bool) -> None:
        names = trained_names(layer)
        self.metadata = {"trained": json.dumps(sorted(names.values())), "optimizer": kind_of(optimizer)}
        self._own = own_state(optimizer, names)
        specs = {name: spec_of(value) for name, value in self._own.items()}
        self._sharded = sharded
        self.specs: dict[str, Spec] = {}
        self._owners: dict[str, int] = {}
        for rank, part in enumerate(everyones(specs) if sharded else [specs]):
            for name in sorted(set(part) - set(self.specs)):
                self.specs[name], self._owners[name] = part[name], rank
        self._left = write_order(self.specs)

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())

    def write(self, folder: Path) -> dict[Path, Digest]:
        file = folder / OPTIMIZER
        return {file: write_safetensors(file, self.specs, self._read, self.metadata)}

    def drain(self) -> None:
        """Read what is left. Where it is sharded, each process must read all, also when it writes none or cannot."""
        while self._sharded and self._left:
            self._read(self._left[0])

    def _read(self, name: str) -> np.ndarray:
        assert name == self._left.pop(0), "the processes must read in the same order"
        value = self._own.get(name)
        if not self._sharded:
            return as_float32(value)
        spec, owner = self.specs[name], self._owners[name]
        mine = owner == paddle.distributed.get_rank()
        return broadcast(as_float32(value) if mine else None, spec.shape, DTYPES[spec.dtype], owner)


def load_optimizer(optimizer: Any, layer: nn.Layer, source: TensorSource, masters_only: bool = False) -> None:
    """Give a fresh optimizer the state in `source`, one weight's at a time. Collective if `source` is.

    Raises ValueError when the state is of another set of weights or of another optimizer.
    """
    kind, saved_kind = kind_of(optimizer), source.metadata.get("optimizer", "AdamW")
    if kind != saved_kind and source.specs and not masters_only:
        raise ValueError(
            f"{source.path} is the state of --optimizer_type {saved_kind}, and this run's is {kind}: continue with the"
            " same one, or start a run of its own from the exported weights"
        )
    parameters = {name: p for name, p in layer.named_parameters() if not p.stop_gradient}
    wrong = sorted(set(json.loads(source.metadata.get("trained", "[]"))) ^ set(parameters))
    if wrong:
        raise ValueError(f"the optimizer state was saved for other weights: {len(wrong)} differ, e.g. {wrong[0]}")
    saved: dict[str, list[str]] = {}
    for key in source.specs:
        saved.setdefault(key.rsplit(".", 1)[0], []).append(key.rsplit(".", 1)[1])
    inner, local = wrappers(optimizer)[-1], local_names(optimizer)
    for name in sorted(saved):
        kinds = [kind for kind in sorted(saved[name]) if kind == MASTER or not masters_only]
        values = {kind: source.read(f"{name}.{kind}") for kind in kinds}
        if parameters[name].name in local:
            _restore(inner, parameters[name], values, name)


def _restore(inner: Any, parameter: paddle.Tensor, values: dict[str, np.ndarray], name: str) -> None:
    """One weight's master copy and accumulators, made as the optimizer's first step would make them."""
    holder = parameter
    master = values.pop(MASTER, None)
    if inner._multi_precision and inner._is_dtype_fp16_or_bf16(parameter.dtype):
        holder = inner._create_master_weight(parameter)
        if master is not None:
            _assign(holder, master)
    if not values:
        return
    create_accumulators(inner, parameter)
    made = {kind: values[holder.name] for kind, values in inner._accumulators.items() if holder.name in values}
    if made.keys() != values.keys():
        raise ValueError(
            f"the optimizer state of {name} has {', '.join(sorted(values))} and this run's optimizer keeps"
            f" {', '.join(sorted(made))}: other --optimizer_args?"
        )
    for kind, value in values.items():
        _assign(made[kind], value)


def _assign(target: paddle.Tensor, value: np.ndarray) -> None:
    """On the device where it is (beta powers stay on the CPU)."""
    assert tuple(target.shape) == value.shape, (target.name, target.shape, value.shape)
    target.set_value(paddle.to_tensor(value, dtype=target.dtype, place=target.place))


def create_accumulators(inner: Any, parameter: paddle.Tensor) -> None:
    """As the first step does."""
    inner.helper = LayerHelper(type(inner).__name__)
    inner._create_accumulators(paddle.static.default_main_program().global_block(), [parameter])
