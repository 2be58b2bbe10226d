"""Write a component so that `from_pretrained` of the stack reads it back: float32 safetensors and a config.

One tensor at a time, so that saving takes no memory to speak of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import ppsd.compat  # noqa: F401

import numpy as np
import paddle
from ppdiffusers.models.modeling_utils import ModelMixin

from ppsd.formats.safetensors_file import Digest, SafetensorsFile, Spec, TensorSource, write_safetensors

_DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def weights_file(component: Optional[paddle.nn.Layer], variant: Optional[str] = None) -> str:
    """The name that the stack looks for, `weights` for a layer of ppsd's own; `variant` as in diffusers ("ema")."""
    stem = "weights"
    if component is not None and has_config(component):
        stem = "diffusion_paddle_model" if isinstance(component, ModelMixin) else "model"
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def has_config(component: paddle.nn.Layer) -> bool:
    """Whether it is a model of the stack."""
    return hasattr(component, "config")


def save_component(
    component: paddle.nn.Layer,
    folder: Path,
    *,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
    weights: Optional[Mapping[str, paddle.Tensor]] = None,
    variant: Optional[str] = None,
    metadata: Optional[Mapping[str, str]] = None,
) -> dict[Path, Digest]:
    """Config (if it has one) and weights, in float32: the stack writes bfloat16 as raw bit patterns.

    Returns the weights' digest.

    `masters` are the optimizer's float32 copies by paddle name (AMP O2); `weights` replaces entries by their own name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(component, ModelMixin):
        component.save_config(str(folder))
    elif has_config(component):
        component.config.save_pretrained(str(folder))
    written_by = "pd" if isinstance(component, ModelMixin) else "np"  # what each library accepts back
    masters = masters or {}
    state = {name: masters.get(value.name, value) for name, value in component.state_dict().items()}
    state.update(weights or {})
    file = folder / weights_file(component, variant)
    specs = {name: spec_of(value) for name, value in state.items()}
    digest = write_safetensors(
        file, specs, lambda name: as_float32(state[name]), {"format": written_by, **(metadata or {})}
    )
    return {file: digest}


def component_bytes(component: paddle.nn.Layer) -> int:
    """What `save_component` writes of weights."""
    return sum(spec_of(value).nbytes for value in component.state_dict().values())


def spec_of(value: paddle.Tensor) -> Spec:
    """As `as_float32` gives it."""
    name = str(value.dtype).rsplit(".", 1)[-1]
    return Spec("F32" if name in ("float16", "bfloat16") else _DTYPES[name], tuple(value.shape))


def load_weights(component: paddle.nn.Layer, source: TensorSource) -> None:
    """Into an existing layer, exactly. Raises ValueError when a weight is missing, left over, or of another shape."""
    own = component.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    wrong = differing(shapes, {name: spec.shape for name, spec in source.specs.items()})
    if wrong:
        raise ValueError(f"{source.path} was saved by another model: {len(wrong)} weights differ, e.g. {wrong[0]}")
    for name, value in own.items():
        value.set_value(paddle.to_tensor(source.read(name)).astype(value.dtype))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys that only one has, or else those whose values differ; sorted."""
    return sorted(set(one) ^ set(other)) or sorted(key for key in one if one[key] != other[key])


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """All at once. Raises ValueError naming the file if it is missing or cut short."""
    source = SafetensorsFile(file)
    return {name: source.read(name) for name in source.specs}


def read_config(file: Path) -> dict[str, Any]:
    """A component's config.json. Raises ValueError naming the file."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error


def as_float32(value: paddle.Tensor) -> np.ndarray:
    """Numpy of the same shape; integers stay integers."""
    if value.dtype in (paddle.float16, paddle.bfloat16):
        value = value.astype("float32")
    return np.asarray(value.numpy())
