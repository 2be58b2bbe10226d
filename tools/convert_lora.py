"""Write a LoRA file in the form of another tool.

    python tools/convert_lora.py style.safetensors pytorch_lora_weights.safetensors --to diffusers
    python tools/convert_lora.py pytorch_lora_weights.safetensors style.safetensors --to kohya --precision float16

kohya's form is LyCORIS's, A1111's and ComfyUI's, too. Numbers stay as they are, bit for bit, unless --precision rounds
them; but diffusers' and ppdiffusers' forms have alpha / rank multiplied into `up`, which float32 rounds where it is no
power of two. What was rounded is said. With --keep_alpha diffusers' file keeps both, for diffusers from 0.35 on.

LoHa and LoKr are for kohya's form only. --as_lora turns them into LoRA of the same change (of the product of their
ranks, or full rank), for which --base names the pipeline where the file does not tell the shapes of its layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from ppsd.data.command_line import Parser, run_tool
from ppsd.interop.lora.base_shapes import read_for
from ppsd.interop.lora.converting import as_lora_file, check_form, rounded
from ppsd.interop.lora.lora_file import FORMS
from ppsd.interop.lora.opening import refuse_input
from ppsd.interop.lora.precision import PRECISIONS
from ppsd.interop.lora.writing import write_lora
from ppsd.trainers.checkpoint import require_writable

compat.apply()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="LoRA file of any form, or the folder that has it.")
    add("output", type=Path, metavar="OUTPUT", help="File to write, NAME.safetensors.")
    add("--to", choices=FORMS, required=True, help="Form to write.")
    add("--precision", choices=tuple(PRECISIONS), help="Of the numbers. Default: as INPUT has them.")
    add("--keep_alpha", action="store_true", help="diffusers: keep alpha in the metadata instead of in the factors.")
    add("--as_lora", action="store_true", help="LoHa and LoKr as LoRA, and Tucker as LoCon, of the same change.")
    add(
        "--base",
        type=Path,
        help="Pipeline folder that the LoRA is for: checks the shapes, and tells them to --as_lora.",
    )
    add("--metadata", nargs="+", type=entry, default=[], metavar="KEY=VALUE", help="Entries to add or to replace.")
    args = parser.parse_args(argv)
    if args.keep_alpha and args.to != "diffusers":
        parser.error(
            "--keep_alpha is for --to diffusers; kohya's form keeps alpha anyway, ppdiffusers' has no place for it"
        )
    if args.output.suffix != ".safetensors":
        parser.error(f"{args.output} must end in .safetensors")
    return args


def entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def run(args: argparse.Namespace) -> int:
    require_writable(args.output.absolute().parent, "OUTPUT")
    refuse_input(args.output, [args.input])
    lora, shape_of = read_for(args.input, args.base)
    source = as_lora_file(lora, shape_of) if args.as_lora else lora
    check_form(source, args.to)
    source.metadata.update(args.metadata)
    digest = write_lora(args.output, source, args.to, args.precision, args.keep_alpha)
    print(f"{args.output}: {args.to}, {len(source.layers)} layers, {digest.nbytes / 1e6:.2f} MB (from {lora.form})")
    print(rounded(lora, args.output))
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
