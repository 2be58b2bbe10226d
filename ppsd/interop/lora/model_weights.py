"""The weights of a pipeline folder's networks, read one at a time, in Paddle's layout or torch's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ppsd.adapters.places import PREFIXES, Place
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.interop.lora.opening import PICKLES
from ppsd.interop.weights import CONSTANTS, as_float32, is_linear
from ppsd.models.loading import is_torch_folder
from ppsd.models.saving import read_config

FLOATS = ("F64", "F32", "F16", "BF16")
PARTS = tuple(PREFIXES)
OTHER_FORMS = (*PICKLES, ".msgpack", ".h5", ".onnx")
_FILE = re.compile(
    r"(diffusion_paddle_model|diffusion_pytorch_model|model)(\.[a-zA-Z]\w*)?(-\d+-of-\d+)?(\.[a-zA-Z]\w*)?\.safetensors"
)


class Component:
    """One network of a pipeline. files: those that a plain `from_pretrained` reads; variants: others (such as EMA's);
    copies: the same weights in forms that are not read here.

    Raises ValueError, naming the folder, where it has no safetensors, only several variants, or a tensor twice.
    """

    def __init__(self, folder: Path) -> None:
        found = {file: match for file in sorted(folder.glob("*.safetensors")) if (match := _FILE.fullmatch(file.name))}
        if not found:
            others = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())) or "nothing"
            raise ValueError(f"{folder} has no weights as .safetensors (but {others}); save it in that form")
        self.folder, self.torch = folder, is_torch_folder(folder)
        plain = [file for file, match in found.items() if not (match[2] or match[4])]
        if not plain and len({match[2] or match[4] for match in found.values()}) > 1:
            raise ValueError(f"{folder} has several variants ({', '.join(file.name for file in found)}): keep one")
        self.files = [SafetensorsFile(file) for file in plain or found]
        self.variants = [SafetensorsFile(file) for file in found if file not in (plain or found)]
        self.copies = [file for file in sorted(folder.iterdir()) if file.suffix in OTHER_FORMS]
        self._owner: dict[str, SafetensorsFile] = {}
        for source in self.files:
            for name in source.specs:
                other = self._owner.setdefault(name, source)
                if other is not source:
                    raise ValueError(f"{folder}: {other.path.name} and {source.path.name} both have {name}: keep one")

    def names(self) -> Iterator[str]:
        """Of all tensors but constants."""
        return (name for name in self._owner if not name.endswith(CONSTANTS))

    def shape(self, name: str) -> tuple[int, ...]:
        """In torch's layout."""
        shape = self._owner[name].specs[name].shape
        return shape[::-1] if self.transposed(name, shape) else shape

    def value(self, name: str) -> np.ndarray:
        """float64, in torch's layout."""
        source = self._owner[name]
        spec = source.specs[name]
        value = source.read(name)
        value = (value if spec.dtype == "F64" else as_float32(spec, value)).astype(np.float64)
        return value.T if self.transposed(name, spec.shape) else value

    def weight_shape(self, path: str) -> Optional[tuple[int, ...]]:
        """Of a linear layer or a convolution, in torch's layout; None where there is no such layer."""
        name = f"{path}.weight"
        if name not in self._owner or name.endswith("embedding.weight"):
            return None
        shape = self.shape(name)
        return shape if len(shape) in (2, 4) else None

    def transposed(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the file has the tensor [in,out]."""
        return not self.torch and is_linear(name, shape)


def open_parts(folder: Path) -> dict[str, Component]:
    """The UNet and text encoders of a pipeline folder. Raises ValueError where it is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; that of a pipeline is needed (unet/, text_encoder/, ...)")
    parts = {part: Component(folder / part) for part in PARTS if (folder / part).is_dir()}
    if "unet" not in parts:
        raise ValueError(f"{folder} is not a pipeline's folder: it has no unet/")
    return parts


def layers_per_block(folder: Path) -> Optional[int]:
    """Of the UNet of a pipeline, if its config says one number."""
    file = folder / "unet" / "config.json"
    said: Any = read_config(file).get("layers_per_block") if file.is_file() else None
    return said if isinstance(said, int) else None


def shape_at(parts: dict[str, Component], place: Place) -> Optional[tuple[int, ...]]:
    """Of the layer's weight in torch's layout; None where the pipeline has no such layer."""
    return parts[place.part].weight_shape(place.path) if place.part in parts else None
