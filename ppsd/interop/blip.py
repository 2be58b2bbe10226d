"""BLIP models for captions, from folders of Paddle, from those of transformers (torch), or by their hub name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ppsd.compat

import numpy as np
import paddle
from paddlenlp.transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.interop.weights import CONSTANTS, as_float32
from ppsd.models.loading import load_component

ppsd.compat.apply()

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
HEAD, HEAD_BIAS = "text_decoder.cls.predictions.decoder_weight", "text_decoder.cls.predictions.bias"
OF_TORCH = {  # what transformers calls them
    "text_decoder.cls.predictions.decoder.weight": HEAD,
    "text_decoder.cls.predictions.decoder.bias": HEAD_BIAS,
}
TABLES = ("word_embeddings.weight", "position_embeddings.weight")
TORCH_EPSILON = 1e-5
"""transformers' layer_norm_eps of BLIP's image encoder, which it leaves out of config.json; paddlenlp's is 1e-6."""


@dataclass(frozen=True)
class Look:
    """How a picture is shown to the model: its side in pixels, mean and deviation of each channel (0..1), filter."""

    side: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resample: int = BICUBIC


@dataclass(frozen=True)
class Blip:
    """A model in eval mode, its words, and how it is shown pictures."""

    model: BlipForConditionalGeneration
    tokenizer: Any
    look: Look


def load_blip(path: str, flag: str) -> Blip:
    """A folder with config.json, model.safetensors and vocab.txt, or a hub name. ValueError, naming `flag`, if not."""
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"{flag}: {path} is a file; a folder of a BLIP model is needed (config.json, vocab.txt ...)")
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if folder.is_dir():
        _check(folder, bool(files), flag)
    if files:
        model = _from_safetensors(folder, files, flag)
    else:
        model = load_component(BlipForConditionalGeneration, path, None, flag)
    model.eval()
    tokenizer = load_component(BertTokenizer, path, None, flag)
    return Blip(model, tokenizer, _look(path, folder, model.config.vision_config.image_size, flag))


def _check(folder: Path, has_safetensors: bool, flag: str) -> None:
    for name in ("config.json", "vocab.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{flag}: {folder} has no {name}; a folder of a BLIP model is needed")
    kind = _json(folder / "config.json", flag).get("model_type")
    if kind not in (None, "blip"):
        raise ValueError(f"{flag}: {folder / 'config.json'} is of a model {kind!r}; BLIP's is 'blip'")
    if not has_safetensors and any(folder.glob("*.bin")):
        raise ValueError(
            f"{flag}: the weights in {folder} are pickled (.bin), which can run code, so they are not opened; convert"
            " them where you trust them: BlipForConditionalGeneration.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER, safe_serialization=True) of transformers"
        )


def _from_safetensors(folder: Path, files: list[Path], flag: str) -> BlipForConditionalGeneration:
    """Raises ValueError for a weight that is missing or has another shape."""
    weights = {name: source for source in map(SafetensorsFile, files) for name in source.specs}
    is_torch = any(name.startswith("text_decoder.cls.predictions.decoder.") for name in weights) or any(
        source.metadata.get("format") == "pt" for source in weights.values()
    )
    config = _json(folder / "config.json", flag)
    vision = config.setdefault("vision_config", {})
    if is_torch:
        vision.setdefault("layer_norm_eps", TORCH_EPSILON)
    model = BlipForConditionalGeneration(BlipConfig(**{**config, "text_config": config.get("text_config", {})}))
    found = {OF_TORCH.get(name, name): _read(source, name, is_torch) for name, source in weights.items()}
    if HEAD not in found and WORDS in found:
        found[HEAD] = found[WORDS]
    if HEAD_BIAS not in found:
        raise ValueError(f"{flag}: {folder} has no decoder that writes captions; one for captioning is needed")
    _fill(model, found, f"{flag}: {folder}")
    return model


def _read(source: SafetensorsFile, name: str, is_torch: bool) -> np.ndarray:
    """Linear weights as Paddle has them, [in,out]."""
    value = as_float32(source.specs[name], source.read(name))
    turned = is_torch and value.ndim == 2 and name.endswith(".weight") and not name.endswith((*TABLES, *OF_TORCH))
    return np.ascontiguousarray(value.T) if turned else value


def _fill(model: BlipForConditionalGeneration, found: Mapping[str, np.ndarray], where: str) -> None:
    words, head = found.get(WORDS), found.get(HEAD)
    predictions = model.text_decoder.cls.predictions
    if words is not None and head is not None and not np.array_equal(words, head):  # the stack ties them always
        predictions.decoder_weight = paddle.create_parameter(list(head.shape), "float32")
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith(CONSTANTS)}
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ValueError(f"{where} lacks {len(missing)} weights, e.g. {', '.join(missing[:3])}")
    for name, parameter in wanted.items():
        value = found[name]
        if list(value.shape) != list(parameter.shape):
            raise ValueError(f"{where}: {name} is {list(value.shape)}; config.json says {list(parameter.shape)}")
        parameter.set_value(value)


def _look(path: str, folder: Path, side: int, flag: str) -> Look:
    """What preprocessor_config.json says. paddlenlp's own mean and deviation, where it says none, are not BLIP's."""
    if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
        return Look(side)
    if folder.is_dir():
        said = _json(folder / "preprocessor_config.json", flag)
    else:
        said = vars(load_component(BlipImageProcessor, path, None, flag))
    mean, std = (tuple(said.get(name) or usual) for name, usual in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)))
    return Look(side, mean, std, int(said.get("resample", BICUBIC)))


def _json(path: Path, flag: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{flag}: {path}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{flag}: {path}: an object is expected")
    return value
