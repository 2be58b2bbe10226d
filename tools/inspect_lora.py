"""Say what LoRA files are: form, algorithm, ranks, alphas, metadata, and how much they change in which block.

    python tools/inspect_lora.py style.safetensors
    python tools/inspect_lora.py style.safetensors toy.safetensors --base output/demo --png norms.png

The norm is that of the change of the weights, at weight 1. --base sets it in relation to the weights of a pipeline, and
names the layers that do not fit it. --png draws bars of the norms, of all files with one scale.

Exit code: 0; 1 where a file cannot be used: not whole, a pickle, keys that are unknown, NaN, shapes that do not fit
each other or --base. 2: wrong command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from ppsd.data.command_line import Parser, run_tool
from ppsd.interop.lora.inspection import inspect_lora
from ppsd.interop.lora.inspection_chart import draw_chart
from ppsd.interop.lora.inspection_text import as_json, text_lines
from ppsd.sampling.grid import save_png
from ppsd.trainers.checkpoint import require_writable

compat.apply()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="LoRA files of any form, or the folders that have them.")
    add("--base", type=Path, help="Pipeline folder that they should fit.")
    add("--png", type=Path, metavar="CHART.png", help="Picture to write.")
    add("--json", action="store_true", help="Print JSON, a list with everything that is known of each file and layer.")
    args = parser.parse_args(argv)
    if args.png and args.png.suffix != ".png":
        parser.error(f"--png: {args.png} must end in .png")
    return args


def run(args: argparse.Namespace) -> int:
    if args.png:
        require_writable(args.png.absolute().parent, "--png")
    found = [inspect_lora(path, args.base) for path in args.files]
    if args.json:
        print(json.dumps([as_json(one) for one in found], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join("\n".join(text_lines(one)) for one in found))
    if args.png:
        save_png(args.png, draw_chart(found))
        sys.stderr.write(f"chart: {args.png}\n")
    return 1 if any(one.problems for one in found) else 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
