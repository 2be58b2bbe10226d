"""What a training script's flags and recipe say of its memory."""

from __future__ import annotations

from ppsd.trainers.memory_settings import Settings
from ppsd.trainers.run import Run


def settings_of(method: str, run: Run) -> Settings:
    """Of `run`, whose flags are parsed. method: one of METHODS.

    Raises ValueError, naming the flag, for values that take another amount than is counted. Not looked at is what takes
    no more: cached text, --sharding, --gradient_accumulation_steps.
    """
    model, args, own = run.model, run.args, run.own
    wanted = model.adapter_targets
    if model.network_module and (wanted.conv_dim or wanted.preset != "attn-mlp" or wanted.patterns):
        raise ValueError("--network_module: counted is lora beside the linear layers that it takes by default")
    half = args.bf16 or args.fp16
    if half and args.fp16_opt_level == "O2" and args.amp_master_grad:
        raise ValueError("--amp_master_grad: gradients in float32 are not counted; leave it out")
    embedding = getattr(own, "conditioning_embedding_out_channels", None)
    settings = Settings(
        method=method,
        resolution=args.resolution,
        batch_size=args.per_device_train_batch_size,
        optimizer_type=str(args.optimizer_type),
        precision=args.fp16_opt_level if half else "float32",
        use_ema=args.use_ema,
        train_text_encoder=model.train_text_encoder,
        with_prior_preservation=getattr(own, "with_prior_preservation", False),
        recompute=args.recompute,
        efficient_attention=args.enable_xformers_memory_efficient_attention,
        half_frozen=args.frozen_dtype != "float32",
        network_module=model.network_module,
        network_dim=wanted.dim,
        control_type=getattr(own, "control_type", "controlnet"),
        sd_locked=getattr(own, "sd_locked", True),
        conditioning_embedding_out_channels=tuple(embedding) if embedding else None,
        max_token_length=model.max_token_length or model.model_max_length - 2,
        vae_slicing=args.vae_slicing,
        vae_tiling=args.vae_tiling,
        cached=run.data.cache_latents,
    )
    settings.check()
    return settings
