"""Write a component so that `from_pretrained` of the stack reads it back: float32 safetensors and a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ppsd.compat import save_safetensors

import numpy as np
import paddle
from ppdiffusers.models.modeling_utils import ModelMixin
from safetensors.numpy import load_file


def weights_file(component: paddle.nn.Layer, variant: Optional[str] = None) -> str:
    """The name that the stack looks for; `variant` as in diffusers ("ema")."""
    stem = "diffusion_paddle_model" if isinstance(component, ModelMixin) else "model"
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def save_component(
    component: paddle.nn.Layer,
    folder: Path,
    *,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
    weights: Optional[Mapping[str, np.ndarray]] = None,
    variant: Optional[str] = None,
    metadata: Optional[Mapping[str, str]] = None,
) -> None:
    """Config and weights, in float32: the stack writes bfloat16 as raw bit patterns.

    `masters` are the optimizer's float32 copies by paddle name (AMP O2); `weights` replaces entries by their own name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(component, ModelMixin):
        component.save_config(str(folder))
    else:
        component.config.save_pretrained(str(folder))
    written_by = "pd" if isinstance(component, ModelMixin) else "np"  # what each library accepts back
    masters = masters or {}
    state = {name: as_float32(masters.get(value.name, value)) for name, value in component.state_dict().items()}
    state.update(weights or {})
    file = folder / weights_file(component, variant)
    save_safetensors(state, file, metadata={"format": written_by, **(metadata or {})})


def load_weights(component: paddle.nn.Layer, folder: Path) -> None:
    """Into an existing layer, exactly. Raises ValueError when a weight is missing, left over, or of another shape."""
    state = read_weights(folder / weights_file(component))
    own = component.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [k for k in own if tuple(own[k].shape) != tuple(state[k].shape)]
    if wrong:
        raise ValueError(f"{folder} was saved by another model: {len(wrong)} weights differ, e.g. {wrong[0]}")
    for name, value in own.items():
        value.set_value(paddle.to_tensor(state[name]).astype(value.dtype))


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Raises ValueError naming the file if it is missing or cut short."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        return dict(load_file(str(file)))
    except Exception as error:  # safetensors raises its own type, which is not an OSError
        raise ValueError(f"{file}: {error}") from error


def as_float32(value: paddle.Tensor) -> np.ndarray:
    """Contiguous numpy; integers stay integers."""
    if value.dtype in (paddle.float16, paddle.bfloat16):
        value = value.astype("float32")
    return np.ascontiguousarray(value.numpy())
