"""How much memory a run takes, part by part, and which flags make it fit.

Counted: weights, gradients, moments, averages, and what layers keep for the backward pass (ppsd.models.footprint). For
float32 on the CPU this was measured (tests/benchmarks/memory_plan.py). Estimated, and measured by nobody: what half
precision keeps, attention without its softmax, cuDNN's workspace, and what CUDA itself takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Optional

from ppsd.adapters.layers import weight_shape
from ppsd.adapters.targets import Wanted, find_targets
from ppsd.models.footprint import Footprint, numbers, shapes_of
from ppsd.trainers.optimizers.state_size import state_bytes

GIB = 2**30
CUDA = int(0.8 * GIB)
"""Estimated: CUDA's own and paddle's kernels."""
CUDNN = GIB // 2
"""paddle's limit of a convolution's workspace (FLAGS_conv_workspace_size_limit, 512 MB)."""


@dataclass(frozen=True)
class Settings:
    """Of a run; named as the flags are. precision: float32, O1 or O2 (of --bf16). gpu: False on the CPU.

    network_dim: of --method lora, whose adapters are beside the linear layers of attention and MLPs.
    """

    method: str = "full"
    resolution: int = 512
    batch_size: int = 1
    optimizer_type: str = "AdamW"
    precision: str = "float32"
    use_ema: bool = False
    train_text_encoder: bool = False
    with_prior_preservation: bool = False
    recompute: bool = False
    efficient_attention: bool = False
    half_frozen: bool = False
    network_dim: int = 4
    vae_slicing: bool = False
    cached: bool = False
    gpu: bool = True

    @property
    def samples(self) -> int:
        """In one forward pass: an instance's and a class's for each with prior preservation."""
        return self.batch_size * (2 if self.with_prior_preservation else 1)

    @property
    def freezes_unet(self) -> bool:
        """What is trained is small, float32, and beside the models."""
        return self.method in ("textual_inversion", "lora")


def trained_shapes(model: Footprint, settings: Settings) -> list[tuple[int, ...]]:
    """textual_inversion trains a few rows, which are nothing beside the rest."""
    if settings.method == "textual_inversion":
        return [(1, model.text.hidden_size)]
    if settings.method == "lora":
        return [shape for layer in _adapted(model, settings) for shape in layer]
    return shapes_of(model.unet) + (model.text.shapes() if settings.train_text_encoder else [])


def _adapted(model: Footprint, settings: Settings) -> Iterator[list[tuple[int, ...]]]:
    """Down and up of each layer's LoRA."""
    rank = settings.network_dim
    wanted = Wanted(rank, rank, 0, 0, "attn-mlp")
    weights = [weight_shape(target.layer) for target in find_targets({"unet": model.unet}, wanted)]
    if settings.train_text_encoder:
        d, wide = model.text.hidden_size, model.text.intermediate_size
        weights += [*[(d, d)] * 4, (wide, d), (d, wide)] * model.text.num_hidden_layers
    for shape in weights:
        yield [(rank, shape[1]), (shape[0], rank)]


def activations(model: Footprint, settings: Settings) -> tuple[int, int]:
    """Bytes kept between the forward and the backward pass, and what one layer needs beside them at most."""
    size = {"float32": 4, "O1": 3, "O2": 2}[settings.precision]
    kept, batch = model.kept(settings.resolution), settings.samples
    score = 0 if settings.efficient_attention else batch * size
    if settings.recompute:
        total = sum(layer.entry for layer in kept) * batch * size
        again = max((layer.plain - layer.entry) * batch * size + layer.softmax * score for layer in kept)
    else:
        total = sum(layer.plain * batch * size + layer.softmax * score for layer in kept)
        again = 0
    # the gradients of the softmax and of its input, at a time
    attention = 2 * max(layer.softmax / _depth(model, layer.name) for layer in kept) * score
    columns = CUDNN if settings.gpu else 4 * max(layer.columns for layer in kept)
    if settings.train_text_encoder or settings.method == "textual_inversion":
        total += model.text.kept(77) * batch * size
    return total, again + int(max(attention, columns))


def _depth(model: Footprint, name: str) -> int:
    """Attention layers of a transformer, of which one is in the backward pass at a time."""
    layer = model.unet
    for word in name.split("."):
        layer = layer[int(word)] if word.isdigit() else getattr(layer, word)
    return len(getattr(layer, "transformer_blocks", [0]))


def plan(model: Footprint, settings: Settings) -> dict[str, int]:
    """Bytes by part at the peak, which is in the backward pass, the update or the VAE's pass."""
    shapes = trained_shapes(model, settings)
    trained, largest = numbers(shapes), max(numbers([shape]) for shape in shapes)
    unet, text = numbers(shapes_of(model.unet)), numbers(model.text.shapes())
    trains_text = settings.train_text_encoder and not settings.freezes_unet
    frozen = numbers(shapes_of(model.vae)) + (0 if trains_text else text)
    half_unet = settings.half_frozen and settings.method == "lora"  # as ppsd.models.memory.halve_frozen has it
    half_text = settings.half_frozen and not trains_text and settings.method != "textual_inversion"
    copied = (0 if half_unet else unet) + (0 if half_text else text)
    beside_models = settings.freezes_unet
    whole = 2 if settings.precision == "O2" else 4
    parts = {
        "weights that are trained": (4 if beside_models else whole) * trained,
        "frozen weights": frozen * (2 if settings.half_frozen or whole == 2 else 4)
        + ((2 if half_unet else whole) * unet if beside_models else 0),
        "their copies in half precision": 2 * copied if settings.precision == "O1" else 0,
        "master weights": 4 * trained if whole == 2 and not beside_models else 0,
        "gradients": (4 if beside_models else whole) * trained,
        "optimizer": state_bytes(settings.optimizer_type, shapes),
        "average (EMA)": 4 * (trained if settings.method == "lora" else unet)
        if settings.use_ema and settings.method != "textual_inversion"
        else 0,
    }
    kept, beside = activations(model, settings)
    pictures = 1 if settings.vae_slicing else settings.samples
    pixels = (
        0 if settings.cached else model.encoding(settings.resolution) * pictures * (2 if settings.half_frozen else 4)
    )
    update = 0 if settings.optimizer_type in ("AdamW", "SGDNesterov") else 4 * 4 * largest
    phases = {"activations": kept + beside, "the VAE's pass": pixels, "the update": update}
    peak = max(phases, key=lambda name: phases[name])
    if peak == "activations":
        return {**parts, "activations": kept, "workspace of one layer": beside, **_fixed(settings)}
    return {**parts, f"workspace of {peak}": phases[peak], **_fixed(settings)}


def _fixed(settings: Settings) -> dict[str, int]:
    return {"CUDA and kernels": CUDA} if settings.gpu else {}


@dataclass(frozen=True)
class Saving:
    """A flag, what it costs (to be compared with others), what that is in words, and what it sets."""

    flag: str
    cost: float
    words: str
    changes: tuple[tuple[str, object], ...]


SAVINGS = (
    Saving("--enable_xformers_memory_efficient_attention", 0.1, "nothing; faster", (("efficient_attention", True),)),
    Saving("--vae_slicing", 0.2, "a little time", (("vae_slicing", True),)),
    Saving("--bf16", 0.5, "some precision; faster", (("precision", "O1"),)),
    Saving(
        "--bf16 --frozen_dtype bfloat16", 0.7, "some precision; faster", (("precision", "O1"), ("half_frozen", True))
    ),
    Saving("--gradient_checkpointing", 2, "about a third more time", (("recompute", True),)),
    Saving("--bf16 --fp16_opt_level O2", 1.5, "more precision; faster", (("precision", "O2"), ("half_frozen", True))),
    Saving("--optimizer_type AdamW8bit", 2.5, "moments rounded to 8 bits", (("optimizer_type", "AdamW8bit"),)),
    Saving("--optimizer_type Adafactor", 4, "another optimizer; tune the rate", (("optimizer_type", "Adafactor"),)),
    Saving("--use_ema False", 5, "no averaged weights", (("use_ema", False),)),
)


def fitting(model: Footprint, settings: Settings, nbytes: int) -> Iterator[tuple[Sequence[Saving], int]]:
    """Sets of savings with which the run takes at most `nbytes`, those that cost least first; none has one in vain."""
    useful = [saving for saving in SAVINGS if _changed(settings, [saving]) is not None]
    sets = [chosen for count in range(len(useful) + 1) for chosen in combinations(useful, count)]
    found: list[set[Saving]] = []
    for chosen in sorted(sets, key=lambda chosen: sum(saving.cost for saving in chosen)):
        changed = _changed(settings, chosen)
        if changed is None or any(fits < set(chosen) for fits in found):
            continue
        total = sum(plan(model, changed).values())
        if total <= nbytes:
            found.append(set(chosen))
            yield chosen, total


def _changed(settings: Settings, chosen: Sequence[Saving]) -> Optional[Settings]:
    """None where a saving changes nothing, or sets what another one has set."""
    names = [name for saving in chosen for name, _ in saving.changes]
    if len(names) != len(set(names)):
        return None
    for saving in chosen:
        if all(getattr(settings, name) == value for name, value in saving.changes):
            return None
        if saving.flag.startswith("--bf16") and settings.precision != "float32" and saving.flag != SAVINGS[5].flag:
            return None
    return replace(settings, **{name: value for saving in chosen for name, value in saving.changes})  # type: ignore[arg-type]
