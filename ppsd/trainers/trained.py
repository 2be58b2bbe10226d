"""The trained weights and their average: what of a checkpoint can be used without continuing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

import paddle

from ppsd.formats.safetensors_file import Digest, SafetensorsFile, TensorSource
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.saving import component_bytes, load_weights, read_config, save_component, weights_file

_TEXT_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "vocab_size")


def save_trained(
    folder: Path,
    bundle: Bundle,
    train_text_encoder: bool,
    ema: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> dict[Path, Digest]:
    """`folder/unet` (with an `ema` variant), and `folder/text_encoder` where it is trained."""
    written = save_component(bundle.unet, folder / "unet", masters=masters)
    if ema is not None:
        count = {"ema_updates": str(ema.updates)}
        written |= save_component(bundle.unet, folder / "unet", weights=ema.state_dict(), variant="ema", metadata=count)
    if train_text_encoder:
        written |= save_component(bundle.text_encoder, folder / "text_encoder", masters=masters)
    return written


def trained_bytes(bundle: Bundle, train_text_encoder: bool, ema: Optional[EMA]) -> int:
    """What `save_trained` writes."""
    text = component_bytes(bundle.text_encoder) if train_text_encoder else 0
    return component_bytes(bundle.unet) * (1 if ema is None else 2) + text


def load_trained(
    folder: Path,
    bundle: Bundle,
    train_text_encoder: bool,
    ema: Optional[EMA],
    open_file: Callable[[Path], TensorSource] = SafetensorsFile,
) -> None:
    """What `save_trained` wrote, back into the layers. Raises ValueError when something is missing or differs."""
    load_weights(bundle.unet, open_file(folder / "unet" / weights_file(bundle.unet)))
    if train_text_encoder:
        load_weights(bundle.text_encoder, open_file(folder / "text_encoder" / weights_file(bundle.text_encoder)))
    if ema is not None:
        ema.load(open_file(folder / "unet" / weights_file(bundle.unet, "ema")))


def check_architecture(folder: Path, bundle: Bundle, train_text_encoder: bool) -> None:
    """Raise ValueError where the checkpoint's networks are built otherwise than this run's.

    Most of what a config says shows in no weight's shape: heads, norms, activations.
    """
    now = {key: _plain(value) for key, value in bundle.unet.config.items()}
    _compare(folder / "unet", now, set(now) - {"sample_size"}, "--unet_name_or_path")
    if train_text_encoder:
        text = bundle.text_encoder.config.to_dict()
        _compare(folder / "text_encoder", text, set(_TEXT_KEYS), "--text_encoder_name_or_path")


def _compare(folder: Path, now: Mapping[str, Any], keys: set[str], flag: str) -> None:
    saved = read_config(folder / "config.json")
    for key in sorted(keys & set(saved) & set(now)):  # another version of the stack may know other keys
        if not key.startswith("_") and saved[key] != now[key]:
            raise ValueError(
                f"{flag}: {folder} is of another network: its {key} is {saved[key]}, this one's {now[key]};"
                " continue with the same model, or start over with --overwrite_output_dir"
            )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
