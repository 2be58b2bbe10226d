"""Write a trained pipeline as a folder that diffusers (torch) loads.

    python tools/convert_to_diffusers.py output/photos output/photos-diffusers

PIPELINE is what training exports, any other pipeline folder of ppdiffusers, or a single model's folder
(checkpoint-N/unet). The weights are those of PIPELINE, bit for bit; with --half they are float16, in half the space.
One tensor is in memory at a time, and neither Paddle nor torch is needed. A safety checker is left out, and said so.

In diffusers: StableDiffusionPipeline.from_pretrained("output/photos-diffusers")
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd.data.command_line import Parser, run_tool
from ppsd.interop.diffusers import write_diffusers


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("pipeline", type=Path, metavar="PIPELINE", help="Folder to read.")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="Folder to write: a new or an empty one.")
    parser.add_argument("--half", action="store_true", help="Write float16 weights.")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was written. Raises ValueError for a folder that cannot be read or is in use."""
    if not args.pipeline.is_dir():
        raise ValueError(f"{args.pipeline} is not a folder; a pipeline's or a model's is needed")
    if args.output.exists() and any(args.output.iterdir()):
        raise ValueError(f"{args.output} is not empty; name a new folder")
    written = write_diffusers(args.pipeline, args.output, args.half)
    for file, digest in written.items():
        print(f"{file}: {digest.nbytes / 1e6:.1f} MB")
    print(f"diffusers folder: {args.output}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args()
    sys.exit(run_tool("convert_to_diffusers.py", run, args))
