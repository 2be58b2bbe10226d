"""Give a LoRA other ranks: of each layer the largest singular values of what it adds.

    python tools/resize_lora.py style.safetensors small.safetensors --new_rank 4
    python tools/resize_lora.py style.safetensors small.safetensors --dynamic_method sv_fro --dynamic_param 0.95

The flags are those of kohya's resize_lora.py. sv_ratio X: the singular values above the largest / X. sv_fro X: as few
as keep the share X of the Frobenius norm. sv_cumulative X: as few as keep the share X of their sum. With these
--new_rank, if it is there, is the most. (kohya's script takes one rank more than its formulas say.) alpha / rank stays.

LoHa and LoKr become LoRA, for which --base names the pipeline where the file does not tell the shapes of its layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

import numpy as np

from ppsd.data.command_line import Parser, positive, run_tool, size
from ppsd.interop.lora.base_shapes import read_for
from ppsd.interop.lora.changes import said
from ppsd.interop.lora.lora_file import FORMS, LoraFile
from ppsd.interop.lora.opening import refuse_input
from ppsd.interop.lora.precision import PRECISIONS
from ppsd.interop.lora.rank_metadata import said_of_ranks
from ppsd.interop.lora.resizing import METHODS, Resized, Wanted, resized
from ppsd.interop.lora.writing import write_lora
from ppsd.trainers.checkpoint import require_writable

compat.apply()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="LoRA file of any form.")
    add("output", type=Path, metavar="OUTPUT", help="File to write, NAME.safetensors.")
    add("--new_rank", type=positive, help="Of every layer; with --dynamic_method, the most.")
    add("--new_conv_rank", type=positive, help="Of convolutions larger than 1 x 1. Default: --new_rank.")
    add("--dynamic_method", choices=tuple(METHODS), help="Choose the rank of each layer by its singular values.")
    add(
        "--dynamic_param", type=size, help="sv_ratio: a number from 1 on, such as 20; the others: a share, such as 0.9."
    )
    add(
        "--base",
        type=Path,
        help="Pipeline folder that the LoRA is for, to tell the shapes of LoHa's and LoKr's layers.",
    )
    add("--to", choices=FORMS, help="Form of the file. Default: that of INPUT.")
    add("--precision", choices=tuple(PRECISIONS), default="float32", help="Of its numbers. Default: %(default)s.")
    args = parser.parse_args(argv)
    if args.new_rank is None and args.dynamic_method is None:
        parser.error("--new_rank or --dynamic_method says what the ranks become")
    if (args.dynamic_method is None) != (args.dynamic_param is None):
        parser.error("--dynamic_method and --dynamic_param go together")
    if args.dynamic_method and (
        args.dynamic_param < 1 if args.dynamic_method == "sv_ratio" else args.dynamic_param > 1
    ):
        parser.error(f"--dynamic_param {args.dynamic_param:g}: sv_ratio's is 1 or more, the others' at most 1")
    if args.output.suffix != ".safetensors":
        parser.error(f"{args.output} must end in .safetensors")
    return args


def run(args: argparse.Namespace) -> int:
    require_writable(args.output.absolute().parent, "OUTPUT")
    refuse_input(args.output, [args.input])
    lora, shape_of = read_for(args.input, args.base)
    conv = args.new_conv_rank or args.new_rank
    wanted = Wanted(args.new_rank, conv, args.dynamic_method or "", args.dynamic_param or 0.0)
    layers, lines = resized(lora.layers, wanted, shape_of)
    for line in report(lines, wanted):
        print(line)
    metadata = {**lora.metadata, **said_of_ranks(layers), "ss_training_comment": comment(args, lines, lora.metadata)}
    made = LoraFile(dict(layers), metadata, lora.form, layers_per_block=lora.layers_per_block)
    digest = write_lora(args.output, made, args.to or lora.form, args.precision)
    print(f"{args.output}: {len(layers)} layers, {digest.nbytes / 1e6:.2f} MB, {args.precision}")
    return 0


def comment(args: argparse.Namespace, lines: Sequence[Resized], metadata: dict[str, str]) -> str:
    """As kohya's script words it."""
    old, before = max(line.old_rank for line in lines), metadata.get("ss_training_comment", "")
    if args.dynamic_method:
        return f"Dynamic resize with {args.dynamic_method}: {args.dynamic_param:g} from {old}; {before}"
    conv = args.new_conv_rank
    return f"dimension is resized from {old} to {args.new_rank}{f' (conv: {conv})' if conv else ''}; {before}"


def report(lines: Sequence[Resized], wanted: Wanted) -> list[str]:
    made = [
        f"{said(line.place)}: rank {line.old_rank} -> {line.rank}, keeps {line.kept:.2%} of the norm" for line in lines
    ]
    fixed = "" if wanted.method else f" (asked for: {wanted.rank})"
    least = min(line.rank for line in lines)
    if not wanted.method and wanted.rank and least < min(wanted.rank, wanted.conv_rank or wanted.rank):
        short = [line for line in lines if line.rank == line.old_rank]
        made.append(f"{len(short)} layers keep their rank, since they have no more{fixed}")
    kept = np.array([line.kept for line in lines])
    return [*made, f"{len(lines)} layers keep {kept.mean():.2%} of their norm on average, {kept.min():.2%} at least"]


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
