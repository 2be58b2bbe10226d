"""DPT networks (arXiv 2103.13413) of paddlenlp: depth, and what is where, from a folder of Paddle's or torch's layout.

Published ones: Intel/dpt-large and Intel/dpt-hybrid-midas (depth), the depth_estimator of Stable Diffusion 2's depth
pipeline, and Intel/dpt-large-ade (150 kinds of things of ADE20K).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle import nn
from PIL import Image
from safetensors.numpy import load_file

from ppsd.models.loading import is_torch_folder, load_component

compat.apply()

_ESTIMATOR = "depth_estimator"  # the folder of a depth pipeline
_MEAN = _STD = (0.5, 0.5, 0.5)
_TORCH_NAMES = {"_mean": "running_mean", "_variance": "running_var"}


class Dpt:
    """A network with what its inputs are like: squares of its own size. Raises ValueError naming `flag` if it cannot be
    loaded whole."""

    def __init__(self, cls: Any, path: str, flag: str) -> None:
        folder = Path(path, _ESTIMATOR) if Path(path, _ESTIMATOR).is_dir() else Path(path)
        torch = folder.is_dir() and is_torch_folder(folder)
        place = str(folder) if folder.exists() else path
        self._model = _from_torch(cls, folder, flag) if torch else load_component(cls, place, None, flag)
        self._model.eval()
        self.config = self._model.config
        self._mean, self._std = _normalisation(folder)

    @paddle.no_grad()
    def __call__(self, pixels: np.ndarray, output: str) -> paddle.Tensor:
        """RGB uint8 [3,H,W] -> the network's output of that name, of one picture."""
        side = self.config.image_size
        square = Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BICUBIC)
        shares = np.asarray(square, np.float32).transpose(2, 0, 1)[None] / 255
        return getattr(self._model(paddle.to_tensor((shares - self._mean) / self._std)), output)


def _normalisation(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, float32 [1,3,1,1], of what the network was trained on."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        file = folder.parent / "feature_extractor" / file.name
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    values = told.get("image_mean", _MEAN), told.get("image_std", _STD)
    mean, std = (np.array(value, np.float32).reshape(1, 3, 1, 1) for value in values)
    return mean, std


def _from_torch(cls: Any, folder: Path, flag: str) -> Any:
    """Of transformers' folder, whose names are paddlenlp's; its Linear weights are [out,in]."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{flag}: {folder} has torch weights, but no .safetensors file; save them as safetensors")
    try:
        weights = {key: value for file in files for key, value in load_file(str(file)).items()}
        model = cls(cls.config_class.from_pretrained(str(folder)))
    except Exception as error:
        raise ValueError(f"{flag}: cannot load {cls.__name__} from {folder}: {error}") from error
    linear = {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    state, missing = {}, []
    for key, value in model.state_dict().items():
        stem, _, last = key.rpartition(".")
        found = weights.get(f"{stem}.{_TORCH_NAMES.get(last, last)}" if stem else key)
        array = found.T if found is not None and key in linear else found
        if array is None or list(array.shape) != list(value.shape):
            missing.append(key)
        else:
            state[key] = np.ascontiguousarray(array, np.float32)
    if missing:
        raise ValueError(f"{flag}: {folder} lacks {len(missing)} weights, e.g. {', '.join(sorted(missing)[:3])}")
    model.set_state_dict(state)
    return model
