"""Say how much GPU memory a training run takes, part by part, and which flags make it fit.

    python tools/plan_memory.py --method dreambooth --model sd15 --resolution 512 --batch_size 1 --gpu 16
    python tools/plan_memory.py --method controlnet --config configs/controlnet/8gb.yaml --gpu 8

Weights, gradients, the optimizer's state and what layers keep for the backward pass are counted from the model's
config; nothing is loaded. Measured in float32 on the CPU: the sum is 0.3 % more than what paddle allocated at most for
Stable Diffusion 1.5 (256 pixels, batch 1, AdamW; 6 % for what is beyond weights, gradients and moments), 0.2 % more for
a ControlNet of it (3 %), 2 to 8 % more for the tiny model, 6 to 15 % more with --gradient_checkpointing; but 2.4 % less
(0.17 GiB) for that ControlNet with --gradient_checkpointing and Adafactor. The process itself had 0.1 to 0.6 GB beside.
For a GPU these are estimates that nobody has measured: half precision, efficient attention, the workspace of
convolutions (512 MB) and CUDA itself (0.8 GB). Leave 10 % free. --optimizer_type etc. say what the run has already.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ppsd.compat  # noqa: F401

from paddlenlp.trainer.argparser import strtobool

from ppsd.models.footprint import NAMED, Footprint, read_footprint
from ppsd.trainers.arguments import ModelArguments
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.memory_plan import GIB, plan
from ppsd.trainers.memory_recipe import settings_of
from ppsd.trainers.memory_savings import fitting
from ppsd.trainers.memory_settings import METHODS, Settings
from ppsd.trainers.optimizers.choices import OPTIONS, optimizer_name
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer

TRAINERS: dict[str, type[StableDiffusionTrainer]] = {
    "full": StableDiffusionTrainer,
    "dreambooth": DreamBoothTrainer,
    "textual_inversion": TextualInversionTrainer,
    "lora": LoRATrainer,
    "controlnet": ControlNetTrainer,
    "inpainting": InpaintingTrainer,
    "depth": DepthTrainer,
}
NAMES = {
    "gradient_checkpointing": "recompute",
    "enable_xformers_memory_efficient_attention": "efficient_attention",
    "cache_latents": "cached",
}
"""Flags, and what Settings calls them."""
SWITCHES = (
    *("use_ema", "train_text_encoder", "with_prior_preservation", "gradient_checkpointing"),
    *("vae_slicing", "vae_tiling", "cache_latents", "enable_xformers_memory_efficient_attention"),
)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    try:
        if args.config is not None:
            parser.set_defaults(**read_recipe(args.method, args.config))
            args = parser.parse_args()
        settings = settings_from(args)
        if not args.gpu > 0:
            raise ValueError(f"--gpu is {args.gpu:g}; it must be above 0")
        model = read_footprint(args.model)
        if args.resolution % model.latent_factor or args.resolution <= 0 or args.batch_size <= 0:
            raise ValueError(f"--resolution must be a multiple of {model.latent_factor}, --batch_size at least 1")
        report = lines(model, settings, args.gpu)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print("\n".join(report))


def make_parser() -> argparse.ArgumentParser:
    """Its flags are those of training, value for value, where they have the same name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="full", help="what is trained (default: full)")
    parser.add_argument("--config", help="recipe of the method; flags on the command line override it")
    names = ", ".join(NAMED)
    parser.add_argument("--model", default="sd15", help=f"{names}, a pipeline folder, or the .json of a UNet")
    parser.add_argument("--resolution", type=int, default=512, help="side of the pictures (default: 512)")
    parser.add_argument("--batch_size", type=int, default=1, help="of one device and forward pass (default: 1)")
    parser.add_argument(
        "--gpu", type=float, default=24, help="GiB of the device: 8, 12, 16, 24, 40, 80 ... (default: 24)"
    )
    parser.add_argument("--network_module", help="lora, of any method")
    parser.add_argument("--network_dim", type=int, default=4, help="rank of a LoRA (default: 4)")
    parser.add_argument("--control_type", default="controlnet", help="controlnet or t2i_adapter")
    parser.add_argument("--conditioning_embedding_out_channels", type=int, nargs="+", help="of a new ControlNet")
    parser.add_argument("--optimizer_type", default="AdamW", help=f"{', '.join(OPTIONS)} (default: AdamW)")
    parser.add_argument("--precision", choices=("float32", "O1", "O2"), default="float32", help="of --bf16 / --fp16")
    parser.add_argument("--frozen_dtype", default="float32", help="float32, bfloat16 or float16 (default: float32)")
    parser.add_argument("--max_token_length", type=int, choices=(75, 150, 225), default=75, help="(default: 75)")
    for name in SWITCHES:
        parser.add_argument(f"--{name}", type=strtobool, nargs="?", const=True, default=False, help="as in training")
    parser.add_argument("--sd_locked", type=strtobool, nargs="?", const=True, default=True, help="as in training")
    return parser


def read_recipe(method: str, file: str) -> dict[str, Any]:
    """What a recipe says, by the names of this tool's flags; defaults are the training script's. Raises ValueError, and
    exits as a training script does for what is no recipe."""
    trainer = TRAINERS[method]
    run = parse_run(trainer.own_arguments, ["--config", file, "--output_dir", "none"], trainer.defaults)
    settings = settings_of(method, run)
    found = {name: value for name, value in vars(settings).items() if name not in ("method", "gpu")}
    found.update({flag: found.pop(name) for flag, name in NAMES.items()})
    found["frozen_dtype"] = run.args.frozen_dtype
    base = run.model.pretrained_model_name_or_path
    if base != ModelArguments.pretrained_model_name_or_path:
        found["model"] = base
    return found


def settings_from(args: argparse.Namespace) -> Settings:
    """Raises ValueError for an unknown optimizer or data type, or flags that the method has not."""
    if args.frozen_dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--frozen_dtype is {args.frozen_dtype}; it must be float32, bfloat16 or float16")
    if args.frozen_dtype != "float32" and args.precision == "float32":
        raise ValueError(f"--frozen_dtype {args.frozen_dtype} needs --precision O1 or O2")
    given = {**vars(args), "half_frozen": args.frozen_dtype != "float32"}
    given["optimizer_type"] = optimizer_name(args.optimizer_type)
    given.update({name: given[flag] for flag, name in NAMES.items()})
    embedding = args.conditioning_embedding_out_channels
    given["conditioning_embedding_out_channels"] = None if embedding is None else tuple(embedding)
    settings = Settings(**{field.name: given[field.name] for field in fields(Settings) if field.name in given})
    settings.check()
    return settings


def lines(model: Footprint, settings: Settings, gpu: float) -> list[str]:
    """The table and the flags."""
    parts = plan(model, settings)
    total = sum(parts.values())
    table = [f"{name:<34} {nbytes / GIB:>8.2f} GiB" for name, nbytes in parts.items() if nbytes]
    table.append(f"{'at the peak':<34} {total / GIB:>8.2f} GiB of {gpu:g}")
    if total <= gpu * GIB:
        return [*table, "It fits."]
    ways = list(islice(fitting(model, settings, int(gpu * GIB)), 3))
    if not ways:
        return [
            *table,
            "No flags make it fit: a lower --resolution, or --batch_size 1 with --gradient_accumulation_steps.",
        ]
    table.append("It fits with (least cost first):")
    for chosen, nbytes in ways:
        table.append(f"  {nbytes / GIB:6.2f} GiB  " + " ".join(saving.flag for saving in chosen))
        table += [f"              {saving.flag}: costs {saving.words}" for saving in chosen]
    return table


if __name__ == "__main__":
    main()
