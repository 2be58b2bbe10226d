"""The weights of a run: trained, averaged, frozen; what of a checkpoint can be used without continuing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

import paddle
from paddle import nn

from ppsd.adapters.control_lora import ControlLora
from ppsd.adapters.network import AdapterNetwork, check_saved
from ppsd.formats.safetensors_file import Digest, SafetensorsFile, TensorSource
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.saving import component_bytes, has_config, load_weights, read_config, save_component, weights_file

_TEXT_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "vocab_size")


_FLAGS = {"controlnet": "--controlnet_model_name_or_path (or --control_type)"}

Trained = Mapping[str, nn.Layer]
"""What a run trains, by name; the first one is what is averaged."""


def frozen_weights(bundle: Bundle, whole: bool) -> dict[str, paddle.Tensor]:
    """Copies in host memory, by paddle name, of what is not trained and is saved with the rest.

    whole: the pipeline is, of Stable Diffusion 1.5 4 GB; else what is saved is trained but for parts of a ControlNet.
    """
    layers = bundle.layers() if whole else [layer for layer in (bundle.controlnet,) if layer is not None]
    frozen = [p for layer in layers for p in layer.parameters() if p.stop_gradient]
    return {p.name: p.detach().cpu().clone() for p in frozen}


def save_trained(
    folder: Path,
    trained: Trained,
    ema: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> dict[Path, Digest]:
    """A subfolder each; that of the averaged layer has an `ema` variant, too."""
    written: dict[Path, Digest] = {}
    for name, layer in trained.items():
        written |= save_component(layer, folder / name, masters=masters)
        if ema is not None and layer is ema.layer:
            count = {"ema_updates": str(ema.updates)}
            written |= save_component(layer, folder / name, weights=ema.state_dict(), variant="ema", metadata=count)
    return written


def trained_bytes(trained: Trained, ema: Optional[EMA]) -> int:
    """What `save_trained` writes."""
    return sum(component_bytes(layer) * (2 if ema and layer is ema.layer else 1) for layer in trained.values())


def load_trained(
    folder: Path,
    trained: Trained,
    ema: Optional[EMA],
    open_file: Callable[[Path], TensorSource] = SafetensorsFile,
) -> None:
    """What `save_trained` wrote, back into the layers. Raises ValueError when something is missing or differs."""
    for name, layer in trained.items():
        load_weights(layer, open_file(folder / name / weights_file(layer)))
        if ema is not None and layer is ema.layer:
            ema.load(open_file(folder / name / weights_file(layer, "ema")))


def trains_text(trained: Trained) -> bool:
    """Whether what the text encoder says changes."""
    adapter = trained.get("adapter")
    adapted = isinstance(adapter, AdapterNetwork) and any(place.part != "unet" for place in adapter.adapters)
    return adapted or bool({"text_encoder", "embeddings"} & set(trained))


def check_architecture(folder: Path, trained: Trained) -> None:
    """Raise ValueError where the checkpoint's networks are built otherwise than this run's.

    Most of what a config says shows in no weight's shape: heads, norms, activations.
    """
    for name, layer in trained.items():
        file = folder / name / weights_file(layer)
        if not file.is_file():
            other = "adapters beside it alone" if has_config(layer) else "all of it, and no adapters"
            raise ValueError(
                f"--network_module: of the {name} {folder} holds {other}; continue with the same flags, or start over"
                " with --overwrite_output_dir"
            )
        if isinstance(layer, (AdapterNetwork, ControlLora)):
            check_saved(layer, file)
        if not has_config(layer):
            continue
        config = layer.config.to_dict() if hasattr(layer.config, "to_dict") else dict(layer.config.items())
        now = {key: _plain(value) for key, value in config.items()} if name != "text_encoder" else config
        keys = set(_TEXT_KEYS) if name == "text_encoder" else set(now) - {"sample_size"}
        now["_class_name"] = type(layer).__name__
        _compare(folder / name, now, keys, _FLAGS.get(name, f"--{name}_name_or_path"))


def _compare(folder: Path, now: Mapping[str, Any], keys: set[str], flag: str) -> None:
    saved = read_config(folder / "config.json")
    kind, own = saved.get("_class_name", now["_class_name"]), now["_class_name"]
    if kind != own:
        raise ValueError(
            f"{flag}: {folder} is a {kind}, this run's a {own}; continue with the same flags, or start over with"
            " --overwrite_output_dir"
        )
    for key in sorted(keys & set(saved) & set(now)):  # another version of the stack may know other keys
        if not key.startswith("_") and saved[key] != now[key]:
            raise ValueError(
                f"{flag}: {folder} is of another network: its {key} is {saved[key]}, this one's {now[key]};"
                " continue with the same model, or start over with --overwrite_output_dir"
            )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
