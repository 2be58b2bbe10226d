"""What a LoRA file says of its training, in the fields that kohya's scripts write and A1111, ComfyUI and others show.

https://github.com/kohya-ss/sd-scripts: train_network.py (ss_*), library/sai_model_spec.py (modelspec.*, version 1.0.1).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ppsd.models.bundle import Bundle
from ppsd.trainers.data_summary import FolderSummary
from ppsd.trainers.run import Run


def adapter_metadata(run: Run, bundle: Bundle, prediction_type: str, step: int, started: float) -> dict[str, str]:
    """For a file written after optimizer step `step`. started: when this process began, in seconds since 1970.

    Paths are left out but for the names of folders and of the base model.
    """
    fields = {
        **_training(run, step, started),
        **_network(run),
        **_dataset(run),
        **_base(run, bundle, prediction_type),
        **_model_spec(run, bundle, prediction_type),
    }
    return {name: value if isinstance(value, str) else _text(value) for name, value in fields.items()}


def is_sd2(bundle: Bundle) -> bool:
    """By what tells the UNets apart: linear layers around the attention, and OpenCLIP's width."""
    return bool(bundle.unet.config.get("use_linear_projection")) or bundle.unet.config.cross_attention_dim == 1024


def _training(run: Run, step: int, started: float) -> dict[str, Any]:
    args, model = run.args, run.model
    epochs = None if run.steps_per_epoch is None else -(-step // run.steps_per_epoch)
    return {
        "ss_training_started_at": started,
        "ss_training_finished_at": time.time(),
        "ss_output_name": run.output_name,
        "ss_steps": step,
        "ss_epoch": epochs,
        "ss_max_train_steps": args.max_steps,
        "ss_num_batches_per_epoch": run.steps_per_epoch,
        "ss_learning_rate": args.learning_rate,
        "ss_unet_lr": args.unet_learning_rate if "unet" in model.adapted_parts else None,
        "ss_text_encoder_lr": args.text_encoder_learning_rate if "text_encoder" in model.adapted_parts else None,
        "ss_lr_scheduler": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "ss_lr_warmup_steps": args.warmup_steps,
        "ss_optimizer": " ".join([str(args.optimizer_type), *(args.optimizer_args or [])]),
        "ss_max_grad_norm": args.max_grad_norm,
        "ss_mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "no",
        "ss_gradient_checkpointing": bool(args.recompute),
        "ss_gradient_accumulation_steps": args.gradient_accumulation_steps,
        "ss_seed": args.seed,
        "ss_noise_offset": model.noise_offset or None,
        "ss_min_snr_gamma": model.snr_gamma,
        "ss_clip_skip": model.clip_skip,
        "ss_max_token_length": model.max_token_length,
    }


def _network(run: Run) -> dict[str, Any]:
    """As kohya's own networks are named, by which other tools choose how to read a file."""
    model = run.model
    wanted = model.adapter_targets
    lycoris = model.network_module in ("loha", "lokr") or wanted.preset == "full"
    more = {
        "algo": model.network_module if lycoris else None,
        "preset": wanted.preset if lycoris and not wanted.patterns else None,
        "conv_dim": wanted.conv_dim or None,
        "conv_alpha": wanted.conv_alpha if wanted.conv_dim else None,
        "dropout": model.network_dropout or None,
        "rank_dropout": model.rank_dropout or None,
        "module_dropout": model.module_dropout or None,
        "use_tucker": model.use_tucker or None,
        "dora_wd": model.use_dora or None,
        "factor": model.factor if model.network_module == "lokr" else None,
        "decompose_both": model.decompose_both or None,
        "loraplus_lr_ratio": None if model.loraplus_lr_ratio == 1 else model.loraplus_lr_ratio,
    }
    return {
        "ss_network_module": "lycoris.kohya" if lycoris else "networks.lora",
        "ss_network_dim": wanted.dim,
        "ss_network_alpha": wanted.alpha,
        "ss_network_dropout": model.network_dropout or None,
        "ss_network_args": json.dumps({name: str(value) for name, value in more.items() if value is not None}),
    }


def _dataset(run: Run) -> dict[str, Any]:
    data, args = run.data, run.args
    plain = [folder for folder in run.data_summary if not folder.is_class]
    of_class = [folder for folder in run.data_summary if folder.is_class]
    return {
        "ss_num_train_images": sum(folder.images * folder.repeats for folder in plain),
        "ss_num_reg_images": sum(folder.images * folder.repeats for folder in of_class),
        "ss_dataset_dirs": json.dumps(_folders(plain)),
        "ss_reg_dataset_dirs": json.dumps(_folders(of_class)),
        "ss_tag_frequency": json.dumps(
            {folder.name: dict(folder.tags) for folder in run.data_summary if folder.tags}, ensure_ascii=False
        ),
        "ss_batch_size_per_device": args.per_device_train_batch_size,
        "ss_total_batch_size": args.per_device_train_batch_size
        * args.dataset_world_size
        * args.gradient_accumulation_steps,
        "ss_resolution": f"({args.resolution}, {args.resolution})",
        "ss_enable_bucket": data.enable_bucket,
        "ss_random_crop": not data.center_crop,
        "ss_flip_aug": data.random_flip,
        "ss_shuffle_caption": data.shuffle_caption,
        "ss_keep_tokens": data.keep_tokens,
        "ss_caption_dropout_rate": data.caption_dropout_rate,
        "ss_caption_tag_dropout_rate": data.caption_tag_dropout_rate,
        "ss_cache_latents": data.cache_latents,
    }


def _folders(folders: list[FolderSummary]) -> Mapping[str, Any]:
    return {folder.name: {"n_repeats": folder.repeats, "img_count": folder.images} for folder in folders}


def _base(run: Run, bundle: Bundle, prediction_type: str) -> dict[str, Any]:
    second = is_sd2(bundle)
    return {
        "ss_v2": second,
        "ss_base_model_version": "sd_v2" if second else "sd_v1",
        "ss_sd_model_name": run.base_name,
        "ss_v_parameterization": True if prediction_type == "v_prediction" else None,
    }


def _model_spec(run: Run, bundle: Bundle, prediction_type: str) -> dict[str, Any]:
    second, velocity = is_sd2(bundle), prediction_type == "v_prediction"
    architecture = ("stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512") if second else None
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture or 'stable-diffusion-v1'}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": run.output_name,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
        "modelspec.resolution": f"{run.args.resolution}x{run.args.resolution}",
        "modelspec.prediction_type": "v" if velocity else prediction_type,
    }


def _text(value: Any) -> str:
    """As Python writes it, None too, which kohya's readers know."""
    return str(value)
