"""How much memory a run takes, part by part.

Counted: weights, gradients, moments, averages, and what layers keep for the backward pass (ppsd.models.footprint). For
float32 on the CPU this was measured (tests/benchmarks/memory_plan.py). Estimated, and measured by nobody: what half
precision keeps, attention without its softmax, cuDNN's workspace, and what CUDA itself takes.
"""

from __future__ import annotations

from ppsd.models.footprint import Footprint, numbers
from ppsd.models.footprint_control import kept_with_adapter, kept_with_controlnet, lazy_adapter
from ppsd.models.footprint_unet import Kept
from ppsd.trainers.memory_settings import Settings
from ppsd.trainers.memory_shapes import averaged_shapes, frozen, trained_shapes
from ppsd.trainers.optimizers.state_size import state_bytes

GIB = 2**30
CUDA = int(0.8 * GIB)
"""Estimated: CUDA's own and paddle's kernels."""
CUDNN = GIB // 2
"""paddle's limit of a convolution's workspace (FLAGS_conv_workspace_size_limit, 512 MB)."""


def plan(model: Footprint, settings: Settings) -> dict[str, int]:
    """Bytes by part at the peak, which is in the backward pass, the update or the VAE's pass."""
    shapes = trained_shapes(model, settings)
    trained, stays = numbers(shapes), frozen(model, settings)
    half = settings.precision == "O2"
    master = half and not settings.small
    size = 2 if master else 4
    halved = [(half and each.part) or (settings.half_frozen and each.halves) for each in stays]
    copied = 0 if settings.small or half else trained
    copied += sum(each.count for each, is_half in zip(stays, halved) if each.copied and not is_half)
    averaged = settings.use_ema and settings.method != "textual_inversion"
    parts = {
        "weights that are trained": size * trained,
        "frozen weights": sum(each.count * (2 if is_half else 4) for each, is_half in zip(stays, halved)),
        "their copies in half precision": 2 * copied if settings.precision != "float32" else 0,
        "master weights": 4 * trained if master else 0,
        "gradients": size * trained,
        "optimizer": state_bytes(settings.optimizer_type, shapes),
        "average (EMA)": 4 * numbers(averaged_shapes(model, settings)) if averaged else 0,
    }
    kept, beside = activations(model, settings)
    largest = max(numbers([shape]) for shape in shapes)
    update = 0 if settings.optimizer_type in ("AdamW", "SGDNesterov") else 4 * 4 * largest
    phases = {"activations": kept + beside, "the VAE's pass": encoding(model, settings), "the update": update}
    peak = max(phases, key=lambda name: phases[name])
    fixed = {"CUDA and kernels": CUDA} if settings.gpu else {}
    if peak == "activations":
        return {**parts, "activations": kept, "workspace of one layer": beside, **fixed}
    return {**parts, f"workspace of {peak}": phases[peak], **fixed}


def encoding(model: Footprint, settings: Settings) -> int:
    """Bytes that the VAE needs for a batch's pictures; those that are masked for inpainting follow by themselves, and
    cannot be cached."""
    if settings.cached and settings.method != "inpainting":
        return 0
    tile = int(model.vae.config.sample_size) if settings.vae_tiling else 0
    pictures = 1 if settings.vae_slicing else settings.samples
    half = settings.half_frozen or settings.precision == "O2"
    return model.encoding(settings.resolution, tile) * pictures * (2 if half else 4)


def activations(model: Footprint, settings: Settings) -> tuple[int, int]:
    """Bytes kept between the forward and the backward pass, and what one layer needs beside them at most."""
    size = {"float32": 4, "O1": 3, "O2": 2}[settings.precision]
    kept, batch = kept_by_layers(model, settings), settings.samples
    score = 0 if settings.efficient_attention else batch * size
    if settings.recompute:
        total = sum(layer.entry for layer in kept) * batch * size
        again = max((layer.plain - layer.entry) * batch * size + layer.softmax * score for layer in kept)
    else:
        total = sum(layer.plain * batch * size + layer.softmax * score for layer in kept)
        again = 0
    # the gradients of the softmax and of its input, at a time
    attention = 2 * max(layer.softmax / layer.blocks for layer in kept) * score
    columns = CUDNN if settings.gpu else 4 * max(layer.columns for layer in kept)
    if settings.train_text_encoder or settings.method == "textual_inversion":
        total += model.text.kept(settings.tokens) * batch * size
    return total, again + int(max(attention, columns))


def kept_by_layers(model: Footprint, settings: Settings) -> list[Kept]:
    """Of the layers that a gradient goes through, for one sample."""
    if not settings.controls:
        return model.kept(settings.resolution, settings.tokens)
    factor = model.latent_factor
    side = settings.resolution // factor
    if settings.control_type == "t2i_adapter":
        return kept_with_adapter(model.unet, side, side, settings.tokens, lazy_adapter(model.unet, factor))
    pixels, channels = settings.resolution**2, settings.embedding_channels(factor)
    return kept_with_controlnet(model.unet, side, side, settings.tokens, pixels, channels)
