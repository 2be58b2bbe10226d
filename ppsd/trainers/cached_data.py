"""Training on cached latents: they must be those that this run would have made itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ppsd.data.captions import changing_flag
from ppsd.data.source import RecordSource
from ppsd.formats.latent_part import differences
from ppsd.formats.latents import read_fingerprint
from ppsd.formats.opening import open_input
from ppsd.formats.safetensors_part import HEAD_BYTES, is_safetensors
from ppsd.models.bundle import Bundle
from ppsd.models.fingerprint import text_encoder_fingerprint, tokenizer_fingerprint, vae_fingerprint
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.latent_cache import TEXT_DEFAULTS

logger = logging.getLogger(__name__)

_TRIED_PARTS = 16
_BUCKETS = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")


def cached_fingerprint(sources: Sequence[RecordSource], data_format: str) -> Optional[dict[str, Any]]:
    """The fingerprint of the cached latents that a file list names; None when it names images.

    Looks at the first part of each source that can be opened; the others are checked when they are read. Raises
    ValueError for latents that are not all alike, for latents among images, and for another --data_format.
    """
    found = [entry for entry in (_first_fingerprint(source.parts) for source in sources) if entry is not None]
    cached = [(part, fingerprint) for part, fingerprint in found if fingerprint is not None]
    images = [part for part, fingerprint in found if fingerprint is None]
    if data_format == "latents" and (images or not cached):
        where = images[0] if images else "no part of the list can be opened, and so none"
        raise ValueError(f"--data_format latents: {where} is not a file of cached latents (tools/cache_latents.py)")
    if not cached:
        return None
    part, fingerprint = cached[0]
    if data_format not in ("auto", "latents"):
        raise ValueError(f"--data_format {data_format}: {part} is a file of cached latents; leave the flag out")
    if images:
        raise ValueError(f"--file_list mixes cached latents ({part}) and images ({images[0]}): cache all or none")
    for other, another in cached:
        if another != fingerprint:
            raise ValueError(f"{other}: cached otherwise than {part}: {differences(another, fingerprint)}")
    return fingerprint


def _first_fingerprint(parts: Sequence[str]) -> Optional[tuple[str, Optional[dict[str, Any]]]]:
    """The first part that can be opened and its fingerprint (None: not latents); None when none of the first can."""
    for part in parts[:_TRIED_PARTS]:
        if os.path.isdir(part):
            return part, None
        try:
            with open_input(part) as file:
                head = file.read(HEAD_BYTES)
            if len(head) == HEAD_BYTES:
                return part, read_fingerprint(part) if is_safetensors(head) else None
        except OSError:  # the stream counts it
            continue
    return None


def check_cached(
    cached: Mapping[str, Any], bundle: Bundle, model: ModelArguments, data: DataArguments, args: SDTrainingArguments
) -> None:
    """Raise ValueError, naming what differs, where a run on the images themselves would not be this run.

    A flag that is left at its default and cannot act is no error: what the cache says is logged.
    """
    if cached["vae"] != vae_fingerprint(bundle.vae):
        raise ValueError(
            f"the cached latents of --file_list were made by another VAE (its encoder is {cached['vae']}, this one is"
            f" {vae_fingerprint(bundle.vae)}): give that VAE with --vae_name_or_path, or cache the latents again"
        )
    if cached["resolution"] != args.resolution:
        raise ValueError(f"--resolution is {args.resolution}; the latents were cached at {cached['resolution']}")
    for flag in ("random_flip", "color_jitter", "upscale_small"):
        if getattr(data, flag):
            raise ValueError(f"--{flag} cannot act on cached latents: leave it out, or train on the images")
    usual = DataArguments.__dataclass_fields__["interpolation"].default
    if data.interpolation not in (usual, cached["interpolation"]):
        raise ValueError(
            f"--interpolation is {data.interpolation}; the latents were cached with {cached['interpolation']}"
        )
    if data.scaled_jpeg and not cached["scaled_jpeg"]:
        raise ValueError("--scaled_jpeg: the latents were cached without it, and nothing is decoded here")
    _check_buckets(cached["buckets"], data)
    if cached["text_encoder"] is not None:
        _check_text(cached, bundle, model, data)
    crop = "" if data.center_crop else " (as with --center_crop, whatever that flag says)"
    text = "the VAE" if cached["text_encoder"] is None else "the VAE and the text encoder"
    logger.info(
        "cached latents: %s need not run; all crops are central%s, made with --interpolation %s",
        text,
        crop,
        cached["interpolation"],
    )


def _check_buckets(cached: Optional[Sequence[Any]], data: DataArguments) -> None:
    if cached is None:
        if data.enable_bucket:
            raise ValueError("--enable_bucket: the cached latents are squares; cache them with --enable_bucket, too")
        return
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in zip(_BUCKETS, cached) if value]
    if not data.enable_bucket or list(cached) != [getattr(data, name) for name in _BUCKETS]:
        raise ValueError(f"the latents were cached in buckets: train with --enable_bucket {' '.join(flags)}")


def _check_text(cached: Mapping[str, Any], bundle: Bundle, model: ModelArguments, data: DataArguments) -> None:
    again = "cache them again, or without --cache_text_encoder"
    for flag in ("train_text_encoder", "placeholder_token"):
        if getattr(model, flag):
            raise ValueError(f"--{flag}: the text encoder's states were cached with the latents; {again}")
    if cached["text_encoder"] != text_encoder_fingerprint(bundle.text_encoder):
        raise ValueError(f"the text encoder's states were cached with another one; {again}")
    if cached["tokenizer"] != tokenizer_fingerprint(bundle.tokenizer):
        raise ValueError(f"--tokenizer_name: the text encoder's states were cached with another tokenizer; {again}")
    if cached["max_length"] != model.model_max_length:
        wanted = cached["max_length"]
        raise ValueError(f"--model_max_length is {model.model_max_length}; the text was cached with {wanted}; {again}")
    for flag, usual in TEXT_DEFAULTS.items():
        asked, wanted = getattr(model, flag) or usual, cached.get(flag, usual)
        if asked != wanted:
            raise ValueError(f"--{flag} is {asked}; the text was cached with {wanted}; {again}")
    changing = changing_flag(data)
    if changing:
        raise ValueError(f"{changing} cannot act: the text encoder's states of the captions were cached; {again}")
    if cached["caption_rule"] != data.caption_rule:
        wanted = cached["caption_rule"]
        raise ValueError(f"--caption_rule is {data.caption_rule}; the text was cached with {wanted}; {again}")
