"""Merge LoRA files into the weights of a pipeline, take them out again, or make one file of several.

    python tools/merge_lora.py --pipeline output/demo --lora style.safetensors:0.8 toy.safetensors --output merged
    python tools/merge_lora.py --pipeline merged --unmerge --lora style.safetensors toy.safetensors --output before
    python tools/merge_lora.py --lora style.safetensors:0.8 toy.safetensors --output both.safetensors [--rank 16]

Pipelines are folders of ppdiffusers or of diffusers (torch). Changes are summed in float64 and rounded once, to the
type in which the weights are stored; one tensor is in memory at a time, beside the LoRAs. All else is copied, but for
checkpoints and logs of a run, and copies of the old weights in other forms (.bin), which are named.

--unmerge restores every bit. The sum rounds W + d, so taking d away again rounds to W except where bits were lost; the
merge keeps those places and their values, and a checksum of each tensor, in lora_merge.safetensors in the new folder.
It needs that file and the same LoRA files. Of a DoRA, whose change depends on W, whole tensors are kept there.

Several files become one by putting their factors side by side: its rank is the sum of theirs, and nothing is lost but
float32's rounding of the weights. --rank then keeps the largest singular values of each layer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from ppsd.data.command_line import Parser, positive, run_tool
from ppsd.interop.lora.attaching import parse_weighted
from ppsd.interop.lora.changes import WeightedLora, check_fit, read_weighted
from ppsd.interop.lora.joining import joined
from ppsd.interop.lora.lora_file import FORMS, LoraFile
from ppsd.interop.lora.merging import merge_into_pipeline
from ppsd.interop.lora.model_weights import layers_per_block, open_parts, shape_at
from ppsd.interop.lora.opening import refuse_input
from ppsd.interop.lora.precision import PRECISIONS
from ppsd.interop.lora.rank_metadata import said_of_ranks
from ppsd.interop.lora.resizing import Wanted, resized
from ppsd.interop.lora.unmerging import unmerge
from ppsd.interop.lora.writing import write_lora
from ppsd.trainers.checkpoint import require_writable

compat.apply()

MERGED_FROM = "ppsd.joined_lora"


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--pipeline", type=Path, help="Folder to merge into; with --unmerge, the merged one.")
    add("--lora", nargs="+", required=True, metavar="PATH[:WEIGHT]", help="Files, and how much of each. Default: 1.")
    add("--output", type=Path, required=True, help="Folder to write, new or empty; or a file, NAME.safetensors.")
    add(
        "--text_encoder_weight",
        nargs="+",
        type=float,
        metavar="WEIGHT",
        help="Of the text encoder's layers instead: one for all files, or one each. Default: that of the file.",
    )
    add("--precision", choices=tuple(PRECISIONS), help="Of what is written. Default: as the base, or the file, has it.")
    add("--unmerge", action="store_true", help="Take the files out again. Their weights are known from the merge.")
    add(
        "--rank",
        type=positive,
        help="Of each layer of the one file, by singular values. Default: the sum of the ranks.",
    )
    add("--to", choices=FORMS, default="kohya", help="Form of the one file. Default: %(default)s.")
    args = parser.parse_args(argv)
    into_file = args.output.suffix == ".safetensors"
    if not into_file and args.pipeline is None:
        parser.error("--pipeline names the folder to merge into; for one LoRA file, --output ends in .safetensors")
    if not into_file and args.rank:
        parser.error("--rank is for one LoRA file (--output NAME.safetensors)")
    if args.unmerge and (into_file or args.precision or args.text_encoder_weight):
        parser.error("--unmerge writes a folder, with the weights and the precision of the merge")
    if args.text_encoder_weight and len(args.text_encoder_weight) not in (1, len(args.lora)):
        parser.error(f"--text_encoder_weight: {len(args.text_encoder_weight)} for {len(args.lora)} files")
    return args


def run(args: argparse.Namespace) -> int:
    require_writable(args.output.absolute().parent, "--output")
    if args.unmerge:
        return take_out(args)
    loras = read_all(args)
    if args.output.suffix == ".safetensors":
        refuse_input(args.output, [lora.path for lora in loras])
        return join(args, loras)
    merged = merge_into_pipeline(args.pipeline, args.output, loras, args.precision)
    for part, count in merged.layers.items():
        print(f"{part}: {count} layers changed")
    for file in merged.left_out:
        print(f"not copied, since it has the weights before the merge: {file}")
    said = f"cannot be undone: {merged.obstacle}" if merged.obstacle else "--unmerge takes the files out again"
    print(f"{args.output}: {said}")
    return 0


def read_all(args: argparse.Namespace) -> list[WeightedLora]:
    """Raises ValueError for files and weights that cannot be used."""
    weighted = [parse_weighted(text) for text in args.lora]
    text = args.text_encoder_weight or [None]
    text = text * len(weighted) if len(text) == 1 else text
    if not all(math.isfinite(weight) for weight in [w for _, w in weighted] + [t for t in text if t is not None]):
        raise ValueError("--lora, --text_encoder_weight: weights must be finite numbers")
    per_block = layers_per_block(args.pipeline) if args.pipeline else None
    return [read_weighted(path, weight, other, per_block) for (path, weight), other in zip(weighted, text)]


def take_out(args: argparse.Namespace) -> int:
    if any(weight != 1.0 for _, weight in map(parse_weighted, args.lora)):
        raise ValueError("--lora: the weights to take out are those of the merge; name the files without")
    for lora in unmerge(args.pipeline, args.output, [parse_weighted(text)[0] for text in args.lora]):
        print(f"taken out: {lora['name']}, weight {lora['weight']:g}, of text encoders {lora['text_encoder_weight']:g}")
    print(f"{args.output}: every tensor is, bit for bit, as before the merge")
    return 0


def join(args: argparse.Namespace, loras: Sequence[WeightedLora]) -> int:
    parts = open_parts(args.pipeline) if args.pipeline else {}
    if parts:
        check_fit(loras, parts, args.pipeline)
    layers = joined(loras, lambda place: shape_at(parts, place))
    if args.rank:
        layers, lines = resized(layers, Wanted(args.rank, args.rank))
        worst = min(lines, key=lambda line: line.kept)
        print(f"rank {args.rank}: at least {worst.kept:.2%} of the norm of each layer is kept ({worst.place.path})")
    metadata = {**common_metadata(loras), **said_of_ranks(layers)}
    metadata[MERGED_FROM] = json.dumps([lora.facts() for lora in loras])
    precision = args.precision or "float32"
    lora = LoraFile(dict(layers), metadata, layers_per_block=loras[0].lora.layers_per_block)
    digest = write_lora(args.output, lora, args.to, precision, hashes=True)
    print(f"{args.output}: {len(layers)} layers, {digest.nbytes / 1e6:.2f} MB, {precision}")
    return 0


def common_metadata(loras: Sequence[WeightedLora]) -> dict[str, str]:
    """Entries about the base model that the files agree on."""
    names = (
        "ss_v2",
        "ss_base_model_version",
        "ss_sd_model_name",
        "modelspec.architecture",
        "modelspec.prediction_type",
    )
    found = {name: {one.lora.metadata.get(name) for one in loras} for name in names}
    return {name: value for name, values in found.items() if len(values) == 1 and (value := next(iter(values)))}


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
