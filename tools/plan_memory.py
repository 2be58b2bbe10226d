"""Say how much GPU memory a training run takes, part by part, and which flags make it fit.

    python tools/plan_memory.py --method dreambooth --model sd15 --resolution 512 --batch_size 1 --gpu 16

Weights, gradients, the optimizer's state and what layers keep for the backward pass are counted from the model's
config; nothing is loaded. Measured in float32 on the CPU: the sum is 0.3 % more than what paddle allocated at most for
Stable Diffusion 1.5 (256 pixels, batch 1, AdamW; 6 % for what is beyond weights, gradients and moments), 7 to 8 % more
for the tiny model, 15 % more with --gradient_checkpointing. The process itself had 0.1 to 0.6 GB beside.
For a GPU these are estimates that nobody has measured: half precision, efficient attention, the workspace of
convolutions (512 MB) and CUDA itself (0.8 GB). Leave 10 % free. --optimizer_type etc. say what the run has already.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ppsd.models.footprint import NAMED, Footprint, read_footprint
from ppsd.trainers.memory_plan import GIB, Settings, fitting, plan
from ppsd.trainers.optimizers.choices import OPTIONS, optimizer_name

METHODS = ("full", "dreambooth", "textual_inversion", "lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="full", help="what is trained (default: full)")
    names = ", ".join(NAMED)
    parser.add_argument("--model", default="sd15", help=f"{names}, a pipeline folder, or the .json of a UNet")
    parser.add_argument("--resolution", type=int, default=512, help="side of the pictures (default: 512)")
    parser.add_argument("--batch_size", type=int, default=1, help="of one device and forward pass (default: 1)")
    parser.add_argument(
        "--gpu", type=float, default=24, help="GiB of the device: 8, 12, 16, 24, 40, 80 ... (default: 24)"
    )
    parser.add_argument("--network_dim", type=int, default=4, help="rank, of --method lora (default: 4)")
    parser.add_argument("--optimizer_type", default="AdamW", help=f"{', '.join(OPTIONS)} (default: AdamW)")
    parser.add_argument("--precision", choices=("float32", "O1", "O2"), default="float32", help="of --bf16 / --fp16")
    switches = "use_ema train_text_encoder with_prior_preservation gradient_checkpointing vae_slicing cache_latents"
    for name in [*switches.split(), "enable_xformers_memory_efficient_attention"]:
        parser.add_argument(f"--{name}", action="store_true", help="as in training")
    args = parser.parse_args()
    try:
        settings = settings_of(args)
        model = read_footprint(args.model)
        if args.resolution % model.latent_factor or args.resolution <= 0 or args.batch_size <= 0:
            raise ValueError(f"--resolution must be a multiple of {model.latent_factor}, --batch_size at least 1")
        report = lines(model, settings, args.gpu)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print("\n".join(report))


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises ValueError for an unknown optimizer or flags that the method has not."""
    if args.with_prior_preservation and args.method not in ("dreambooth", "lora"):
        raise ValueError("--with_prior_preservation is of --method dreambooth and lora")
    if args.network_dim < 1:
        raise ValueError(f"--network_dim is {args.network_dim}; it must be at least 1")
    if args.train_text_encoder and args.method == "textual_inversion":
        raise ValueError("--train_text_encoder: --method textual_inversion trains only new rows of it")
    return Settings(
        method=args.method,
        resolution=args.resolution,
        batch_size=args.batch_size,
        network_dim=args.network_dim,
        optimizer_type=optimizer_name(args.optimizer_type),
        precision=args.precision,
        use_ema=args.use_ema,
        train_text_encoder=args.train_text_encoder,
        with_prior_preservation=args.with_prior_preservation,
        recompute=args.gradient_checkpointing,
        efficient_attention=args.enable_xformers_memory_efficient_attention,
        vae_slicing=args.vae_slicing,
        cached=args.cache_latents,
    )


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
