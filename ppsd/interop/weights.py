"""Weights from Paddle's layout to torch's, or back: the names are the same, Linear weights are transposed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppsd.formats.safetensors_file import Digest, Spec, TensorSource, write_safetensors

CONSTANTS = ("position_ids",)  # not weights, and not loaded by either side
WIDE = ("F32", "F64", "BF16")


def convert_weights(source: TensorSource, target: Path, written_by: str, half: bool = False) -> Digest:
    """Streams one tensor at a time. `written_by` is the `format` that the reading library asks for ("pt" or "pd").

    half: float16, where the source is wider. Raises ValueError naming a weight that float16 cannot hold.
    """
    specs = {name: _converted(name, spec, half) for name, spec in source.specs.items() if not name.endswith(CONSTANTS)}
    return write_safetensors(target, specs, lambda name: _read(source, name, half), {"format": written_by})


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a Linear layer: [in,out] in Paddle, [out,in] in torch.

    Of the matrices in a UNet, ControlNet, VAE or CLIP encoder only embedding tables are none.
    """
    return len(shape) == 2 and name.endswith(".weight") and not name.endswith("embedding.weight")


def as_float32(spec: Spec, value: np.ndarray) -> np.ndarray:
    """Of any float type, bfloat16's bits among them."""
    if spec.dtype == "BF16":
        return (value.astype(np.uint32) << 16).view(np.float32)
    return value.astype(np.float32)


def _converted(name: str, spec: Spec, half: bool) -> Spec:
    shape = spec.shape[::-1] if is_linear(name, spec.shape) else spec.shape
    return Spec("F16" if half and spec.dtype in WIDE else spec.dtype, shape)


def _read(source: TensorSource, name: str, half: bool) -> np.ndarray:
    spec, value = source.specs[name], source.read(name)
    if half and spec.dtype in WIDE:
        value = _as_half(f"{source.path}: {name}", as_float32(spec, value))
    return np.ascontiguousarray(value.T) if is_linear(name, spec.shape) else value


def _as_half(where: str, value: np.ndarray) -> np.ndarray:
    largest = float(np.abs(value).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise ValueError(f"{where} holds {largest:.3g}, too large for float16: convert without --half")
    return value.astype(np.float16)
