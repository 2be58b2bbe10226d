"""A pipeline folder of Paddle (ppdiffusers, and what ppsd exports) as one that diffusers loads.

Nothing needs converting to go the other way: `ppsd.models.loading` reads both layouts. Knows neither paddle nor torch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppsd.formats.atomic import atomic_write
from ppsd.formats.safetensors_file import Digest, SafetensorsFile
from ppsd.interop.tokenizer import write_tokenizer
from ppsd.interop.weights import convert_weights

logger = logging.getLogger(__name__)

INDEX = "model_index.json"
PADDLE_LIBRARIES = ("ppdiffusers", "ppdiffusers.transformers", "paddlenlp.transformers")
MODELS = ("UNet2DConditionModel", "AutoencoderKL", "ControlNetModel", "T2IAdapter")
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
TOKENIZER = "CLIPTokenizer"
# a pipeline draws without them; one for depth is given the depth itself
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "depth_estimator")
PADDLE_ONLY = ("_ppdiffusers_version", "data_format")  # says nothing of the weights
UNKNOWN_THERE = ("down_block_out_channels", "up_block_out_channels")  # of VAEs that diffusers cannot build
CLIP_SETTINGS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_factor",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "projection_dim",
    "vocab_size",
)


def write_diffusers(source: Path, target: Path, half: bool = False) -> dict[Path, Digest]:
    """The pipeline in `source` as a diffusers folder `target`, or a single component's folder as one of diffusers.

    Streams: takes the memory of one tensor. `model_index.json`, which makes a folder a pipeline, comes last. Returns
    the digests of the weights. half: float16. Raises ValueError naming what is missing or cannot be converted.
    """
    if not (source / INDEX).is_file():
        return write_model(source, target, half)
    index = _read_json(source / INDEX)
    components = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    written: dict[Path, Digest] = {}
    for name, (library, class_name) in components.items():
        if class_name is None:
            continue
        if name in LEFT_OUT:
            logger.warning("left out: %s (%s)", name, class_name)
            components[name] = [None, None]
            continue
        if library not in PADDLE_LIBRARIES:
            raise ValueError(f"{source / INDEX}: {name} is of {library}, not of ppdiffusers: no pipeline of Paddle")
        written |= _write_component(source / name, target / name, class_name, half)
        transformers = class_name in (*TEXT_ENCODERS, TOKENIZER)  # ppdiffusers says which, but not always
        components[name] = ["transformers" if transformers else "diffusers", class_name]
    settings = {"_class_name": index["_class_name"], **_said(index)}
    if "safety_checker" in components:
        settings["requires_safety_checker"] = False
    _write_json(target / INDEX, {**settings, **components})
    return written


def write_model(source: Path, target: Path, half: bool = False) -> dict[Path, Digest]:
    """A UNet, VAE, ControlNet, T2I-Adapter or text encoder; every variant ("ema") of its weights."""
    config = _read_json(source / "config.json")
    is_text = "_class_name" not in config
    ours, theirs = ("model", "model") if is_text else ("diffusion_paddle_model", "diffusion_pytorch_model")
    files = sorted(source.glob(f"{ours}*.safetensors"))
    if not files:
        raise ValueError(f"{source} has no {ours}.safetensors of Paddle: not a folder that can be converted")
    if any("-of-" in file.name for file in files):
        raise ValueError(f"{source}: weights in several files are not converted; save them as one {ours}.safetensors")
    new_config = clip_config(config, half) if is_text else diffusers_config(config)
    target.mkdir(parents=True, exist_ok=True)
    written = {}
    for file in files:
        weights = SafetensorsFile(file)
        if weights.metadata.get("format") == "pt":
            raise ValueError(f"{file} is torch's already: diffusers loads it as it is")
        new = target / file.name.replace(ours, theirs, 1)
        written[new] = convert_weights(weights, new, "pt", half)
    _write_json(target / "config.json", new_config)
    return written


def diffusers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's or scheduler's config, without what diffusers does not know. ValueError for a model unknown there."""
    for key in UNKNOWN_THERE:
        if config.get(key) is not None:
            raise ValueError(f"{config.get('_class_name')} with {key} {config[key]}: diffusers has no such model")
    kept = {key: value for key, value in config.items() if key not in (*PADDLE_ONLY, *UNKNOWN_THERE)}
    return {**kept, **_said(config)}


def clip_config(config: Mapping[str, Any], half: bool) -> dict[str, Any]:
    """A text encoder's config, as transformers writes it."""
    name = (config.get("architectures") or ["CLIPTextModel"])[0]
    kept = {key: config[key] for key in CLIP_SETTINGS if key in config}
    dtype = "float16" if half else "float32"
    return {"architectures": [name], "model_type": "clip_text_model", "torch_dtype": dtype, **kept}


def _write_component(source: Path, target: Path, class_name: str, half: bool) -> dict[Path, Digest]:
    if not source.is_dir():
        raise ValueError(f"{source} is missing: {source.parent / INDEX} names it")
    if class_name in (*MODELS, *TEXT_ENCODERS):
        return write_model(source, target, half)
    target.mkdir(parents=True, exist_ok=True)
    if class_name == TOKENIZER:
        write_tokenizer(source, target)
    elif (source / "scheduler_config.json").is_file():
        _write_json(target / "scheduler_config.json", diffusers_config(_read_json(source / "scheduler_config.json")))
    else:
        known = ", ".join([*MODELS, *TEXT_ENCODERS])
        raise ValueError(f"{source} is a {class_name}; what can be converted: {known}, {TOKENIZER} and schedulers")
    return {}


def _said(config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers repairs the settings of old versions, so it has to know ours (the two libraries share numbers)."""
    version = config.get("_ppdiffusers_version") or config.get("_diffusers_version")
    return {"_diffusers_version": version} if version else {}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(file) as out:
        out.write((json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8"))
