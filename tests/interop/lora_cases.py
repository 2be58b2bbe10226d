"""LoRA files for the other tools, and what Paddle computes with the changes that they stand for in the weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ppsd import compat  # isort: skip  before paddle

import paddle

from ppsd.adapters.algorithms import ALGORITHMS, adapter_of
from ppsd.adapters.base import Options
from ppsd.adapters.layers import adaptable, as_weight, weight_of, weight_shape
from ppsd.adapters.places import Place
from ppsd.interop.diffusers import write_diffusers
from ppsd.interop.lora import LoraFile, as_lora, read_lora, write_lora
from tests.interop.environment import run_script
from tests.lora_files.deltas import delta_of
from tests.tiny import tiny_pipeline, tiny_unet

compat.apply()

HAS_LYCORIS = sys.version_info >= (3, 10)
SDXL: dict[str, Any] = {
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
}
ENDS = ("conv_in", "conv_out", "time_embedding", "add_embedding")
"""diffusers has them in its own form; from kohya's it drops them without a word."""


@dataclass
class Case:
    """A file, and what each side computed with it. writes: the other side writes the file.

    bare: without the metadata that diffusers reads from 0.35 on, as its older versions see the file.
    """

    do: str
    lora: LoraFile
    write: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    sdxl: bool = False
    writes: bool = False
    bare: bool = False
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    found: dict[str, np.ndarray] = field(default_factory=dict)


def networks(sdxl: bool = False) -> dict[str, Any]:
    """By part; the same weights each time."""
    pipe = tiny_pipeline(seed=4)
    made = {"unet": tiny_unet(4, **SDXL)} if sdxl else {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for network in made.values():
        network.eval()
    return made


def layers_of(parts: dict[str, Any]) -> dict[Place, Any]:
    return {Place(part, path): layer for part, network in parts.items() for path, layer in adaptable(network)}


def make_inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = {"x_t": (2, 4, 8, 8), "states": (2, 7, 16), "text_embeds": (2, 8), "time_ids": (2, 6)}
    floats = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**floats, "timesteps": np.array([3, 800]), "input_ids": np.array([[549, 3, 9, 27, 81, 243, 550 - 2]] * 2)}


def outputs(parts: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {name: paddle.to_tensor(value) for name, value in inputs.items()}
    told = {name: given[name] for name in ("text_embeds", "time_ids")}
    with paddle.no_grad():
        unet = parts["unet"](given["x_t"], given["timesteps"], given["states"], added_cond_kwargs=told).sample
        made = {"unet": unet.numpy()}
        if "text_encoder" in parts:
            made["hidden"] = parts["text_encoder"](given["input_ids"])[0].numpy()
    return made


def merged_outputs(lora: LoraFile, inputs: dict[str, np.ndarray], sdxl: bool) -> dict[str, np.ndarray]:
    """With the changes in the weights."""
    parts = networks(sdxl)
    layers = layers_of(parts)
    for place, factors in lora.layers.items():
        layer = layers[place]
        weight = weight_of(layer)
        change = adapter_of(factors, weight_shape(layer)).delta(weight)
        layer.weight.set_value(as_weight(layer, weight + change))
    return outputs(parts, inputs)


KINDS: dict[str, tuple[str, Options]] = {
    "lora": ("lora", Options()),
    "tucker": ("lora", Options(tucker=True)),
    "loha": ("loha", Options()),
    "loha-tucker": ("loha", Options(tucker=True)),
    "lokr": ("lokr", Options(factor=2)),
    "lokr-both": ("lokr", Options(factor=4, decompose_both=True)),
    "lokr-whole": ("lokr", Options(rank=100)),
}
"""Which factors there are, and of which shapes, is what the algorithms begin with: LyCORIS takes no others. It
does not take back LoKr with a core (lycoris-lora 4.1.3 reads sizes from the wrong axes): only from there to here."""


def random_lora(kind: str, chosen: Any = None, sdxl: bool = False, dora: bool = False) -> LoraFile:
    """Changes of up to 0.1 in each layer that `chosen(place)` takes; all by default. Convolutions have another rank."""
    algorithm, options = KINDS[kind]
    made, rng = {}, np.random.default_rng(8)
    for place, layer in layers_of(networks(sdxl)).items():
        if chosen is not None and not chosen(place):
            continue
        shape = weight_shape(layer)
        rank = max(options.rank, 100) if options.rank > 4 else 3 if len(shape) == 4 and shape[2] > 1 else 2
        begun = ALGORITHMS[algorithm].initial(shape, replace(options, rank=rank), rng)
        factors = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in begun.items()}
        factors["alpha"] = np.array(1.5, np.float32)
        first = next(name for name in ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a") if name in factors)
        factors[first] = (factors[first] * (0.1 / np.abs(delta_of(factors, shape)).max())).astype(np.float32)
        if dora:
            length = np.sqrt((weight_of(layer).numpy() ** 2).reshape(shape[0], -1).sum(1))
            longer = length * (1 + 0.2 * np.sin(np.arange(len(length))))
            factors["dora_scale"] = longer.astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))
        made[place] = factors
    return LoraFile(made, layers_per_block=1)


def attention(place: Place) -> bool:
    return "attn" in place.path


def no_ends(place: Place) -> bool:
    return not place.path.startswith(ENDS)


def of_unet(place: Place) -> bool:
    return place.part == "unet"


def as_loras(lora: LoraFile) -> LoraFile:
    shapes = {place: weight_shape(layer) for place, layer in layers_of(networks()).items()}
    return LoraFile({place: as_lora(factors, shapes[place]) for place, factors in lora.layers.items()})


def make_cases() -> dict[str, Case]:
    to_diffusers, to_kohya = {"form": "diffusers"}, {"form": "kohya"}
    pipeline, unet = "load_pipeline", "load_sdxl_unet"
    made = {
        "attention": Case(pipeline, random_lora("lora", attention), to_diffusers),
        "attention-half": Case(pipeline, random_lora("lora", attention), {**to_diffusers, "precision": "bfloat16"}),
        "locon": Case(pipeline, random_lora("lora"), to_diffusers),
        "locon-bare": Case(pipeline, random_lora("lora"), to_diffusers, bare=True),
        "locon-ranks": Case(pipeline, random_lora("lora"), {**to_diffusers, "one_rank": False}),
        "locon-alpha": Case(pipeline, random_lora("lora"), {**to_diffusers, "keep_alpha": True}),
        "tucker": Case(pipeline, random_lora("tucker"), to_diffusers),
        "dora": Case(pipeline, random_lora("lora", dora=True), to_diffusers),
        "loha-as-lora": Case(pipeline, as_loras(random_lora("loha")), {**to_diffusers, "one_rank": False}),
        "lokr-as-lora": Case(pipeline, as_loras(random_lora("lokr")), to_diffusers),
        "kohya": Case(pipeline, random_lora("lora", no_ends), to_kohya),
        "sdxl": Case(unet, random_lora("lora", sdxl=True), to_diffusers, sdxl=True),
        "sdxl-kohya": Case(unet, random_lora("lora", no_ends, sdxl=True), to_kohya, sdxl=True),
    }
    config = {"r": 3, "lora_alpha": 2, "rank_pattern": {"conv1": 2}, "alpha_pattern": {"to_q": 5, "fc1": 7}}
    unet_targets = ["to_q", "to_out.0", "proj_in", "conv1", "conv_in", "conv_out", "linear_1", "ff.net.2"]
    targets = {"unet": unet_targets, "text_encoder": ["q_proj", "fc1", "out_proj"]}
    plain = {"r": 3, "lora_alpha": 3}
    for name, told in {
        "from-peft": {"config": config, "metadata": True},
        "from-peft-plain": {"config": plain, "metadata": False},
        "from-peft-dora": {"config": {**config, "use_dora": True}, "metadata": True},
    }.items():
        made[name] = Case("save_peft", LoraFile({}), job={"targets": targets, **told}, writes=True)
    return {**made, **(lycoris_cases() if HAS_LYCORIS else {})}


def lycoris_cases() -> dict[str, Case]:
    made = {f"lycoris-{kind}": Case("load_lycoris", random_lora(kind, of_unet)) for kind in KINDS}
    for kind in ("lora", "loha", "lokr"):
        made[f"lycoris-{kind}-dora"] = Case("load_lycoris", random_lora(kind, of_unet, dora=True))
    sizes = {"linear_dim": 2, "linear_alpha": 1.0, "conv_dim": 3, "conv_alpha": 2.0}
    for name, options in {
        "from-lycoris-locon": {"algo": "lora", "use_tucker": True},
        "from-lycoris-loha": {"algo": "loha", "use_tucker": True},
        "from-lycoris-lokr": {"algo": "lokr", "factor": 4},
        "from-lycoris-lokr-tucker": {"algo": "lokr", "factor": 2, "use_tucker": True},
        "from-lycoris-lokr-both": {"algo": "lokr", "factor": 4, "decompose_both": True},
        "from-lycoris-dora": {"algo": "lora", "dora_wd": True},
    }.items():
        made[name] = Case("save_lycoris", LoraFile({}), job={"options": {**sizes, **options}}, writes=True)
    return made


def run_cases(folder: Path) -> dict[str, Case]:
    """All in one start of torch. Files that are written there are read here afterwards."""
    cases, inputs = make_cases(), make_inputs()
    bases = _write_bases(folder)
    save_file(inputs, folder / "inputs.safetensors")
    jobs = []
    for name, case in cases.items():
        file = folder / f"{name}.safetensors"
        if not case.writes:
            write_lora(file, case.lora, **case.write)
        if case.bare:
            save_file(load_file(file), file, {"format": "pt"})
        common = {"inputs": str(folder / "inputs.safetensors"), "output": str(folder / f"{name}-output.safetensors")}
        jobs.append({"do": case.do, "folder": str(bases[case.sdxl]), "file": str(file), **common, **case.job})
    run_script("lora.py", jobs, folder)
    for job, case in zip(jobs, cases.values()):
        case.found = load_file(job["output"])
        if case.writes or "precision" in case.write:
            case.lora = read_lora(job["file"])
        case.expected = merged_outputs(case.lora, inputs, case.sdxl)
    return cases


def _write_bases(folder: Path) -> dict[bool, Path]:
    """A pipeline, and SDXL's UNet alone, as folders of diffusers; by whether it is SDXL."""
    pipe = tiny_pipeline(seed=4)
    pipe.save_pretrained(str(folder / "pipeline"), safe_serialization=True)
    networks(sdxl=True)["unet"].save_pretrained(str(folder / "unet"), safe_serialization=True)
    write_diffusers(folder / "pipeline", folder / "pipeline-diffusers", False)
    write_diffusers(folder / "unet", folder / "unet-diffusers", False)
    return {False: folder / "pipeline-diffusers", True: folder / "unet-diffusers"}
