"""Make a LoRA of the difference between two pipelines, by singular values.

    python tools/extract_lora.py --base output/demo --tuned output/style_full --output style.safetensors --rank 16
    python tools/extract_lora.py --base output/demo --tuned output/style_full --output style.safetensors --energy 0.9

Folders of ppdiffusers or of diffusers (torch), one tensor of each in memory at a time. --rank takes linear layers and
1 x 1 convolutions, and with --conv_rank larger convolutions, too; --energy gives each layer as few ranks as keep that
share of its squared singular values. alpha is the rank. Prints for each layer how much of the change the LoRA lacks,
and names what differs and cannot be in a LoRA: biases, norms, embeddings.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from ppsd.adapters.targets import PRESETS
from ppsd.data.command_line import Parser, positive, run_tool
from ppsd.interop.lora.changes import said
from ppsd.interop.lora.extraction import Asked, Extracted, extract, too_small
from ppsd.interop.lora.lora_file import FORMS, LoraFile
from ppsd.interop.lora.model_weights import layers_per_block, open_parts
from ppsd.interop.lora.precision import PRECISIONS
from ppsd.interop.lora.rank_metadata import base_model, said_of_ranks
from ppsd.interop.lora.writing import write_lora
from ppsd.trainers.checkpoint import require_writable

compat.apply()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--base", type=Path, required=True, help="Pipeline folder before tuning.")
    add("--tuned", type=Path, required=True, help="Pipeline folder after it.")
    add("--output", type=Path, required=True, help="File to write, NAME.safetensors.")
    ranks = parser.add_mutually_exclusive_group(required=True)
    ranks.add_argument("--rank", type=positive, help="Of every layer.")
    ranks.add_argument("--energy", type=share, help="Of each layer's squared singular values, above 0 and up to 1.")
    add("--conv_rank", type=positive, help="With --rank: of convolutions larger than 1 x 1. Default: without these.")
    add("--max_rank", type=positive, help="With --energy: at most.")
    names = ", ".join(PRESETS)
    add("--targets", default="full", help=f"{names}, or a regular expression found in paths. Default: %(default)s.")
    add("--no_text_encoder", action="store_true", help="The UNet only.")
    add("--to", choices=FORMS, default="kohya", help="Form of the file. Default: %(default)s.")
    add("--precision", choices=tuple(PRECISIONS), default="float32", help="Of its numbers. Default: %(default)s.")
    args = parser.parse_args(argv)
    if args.output.suffix != ".safetensors":
        parser.error(f"--output: {args.output} must end in .safetensors")
    if args.energy and args.conv_rank:
        parser.error("--conv_rank is for --rank; --energy decides for convolutions, too, up to --max_rank")
    if args.rank and args.max_rank:
        parser.error("--max_rank is for --energy")
    try:
        re.compile(args.targets)
    except re.error as error:
        parser.error(f"--targets {args.targets}: neither a preset ({names}) nor a regular expression: {error}")
    return args


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def run(args: argparse.Namespace) -> int:
    require_writable(args.output.absolute().parent, "--output")
    base, tuned = open_parts(args.base), open_parts(args.tuned)
    if args.no_text_encoder:
        base = {"unet": base["unet"]}
    asked = Asked(args.rank, args.energy, args.conv_rank, args.max_rank, args.targets)
    found = extract(base, tuned, asked)
    for line in report(found, args.max_rank):
        print(line)
    if not found.layers:
        raise ValueError(f"{args.base} and {args.tuned} do not differ in any layer that --targets {args.targets} names")
    metadata = {**base_model(args.base), **said_of_ranks(found.layers)}
    lora = LoraFile(dict(found.layers), metadata, layers_per_block=layers_per_block(args.base) or 2)
    digest = write_lora(args.output, lora, args.to, args.precision, hashes=True)
    print(f"{args.output}: {len(found.layers)} layers, {digest.nbytes / 1e6:.2f} MB, {args.precision}")
    return 0


def report(found: Extracted, max_rank: Optional[int]) -> list[str]:
    """A line a layer, how much is lost in all, and what is not in the LoRA."""
    lines = [
        f"{said(line.place)}: rank {line.rank}, change {line.norm:.4g},"
        f" lacks {line.error:.3g} ({line.error / line.norm:.2%})"
        for line in found.lines
    ]
    small = list(too_small(found.lines, max_rank))
    if small:
        lines.append(f"{len(small)} layers have room for fewer ranks than asked for: {some(small)}")
    whole, lacking = (math.sqrt(sum(getattr(line, name) ** 2 for line in found.lines)) for name in ("norm", "error"))
    if whole:
        lines.append(f"{len(found.lines)} layers: change {whole:.4g}, lacks {lacking:.3g} ({lacking / whole:.2%})")
    if found.lost:
        other = math.sqrt(sum(lost.norm**2 for lost in found.lost))
        lines.append(f"{len(found.lost)} tensors differ and are not in the LoRA, norm {other:.4g}:")
    for reason, count in Counter(lost.reason for lost in found.lost).items():
        names = [lost.name for lost in found.lost if lost.reason == reason]
        lines.append(f"  {count} {reason}: {some(names)}")
    return [*lines, f"{found.same} tensors do not differ"]


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
