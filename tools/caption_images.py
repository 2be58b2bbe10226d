"""Write captions for the images of a folder: by a BLIP model, from the tags of a file, or both.

    python tools/caption_images.py photos --pretrained_model_name_or_path Salesforce/blip-image-captioning-base
    python tools/caption_images.py photos --tags_file tags.json --append_tags --undesired_tags "watermark, signature"

Captions go into IMAGE.txt (or IMAGE.caption) beside each image, or all into metadata.jsonl; the training scripts read
both. Captions that are there are kept, so a run that was stopped or killed goes on with the images that have none.

--tags_file: JSON {"1.jpg": "cat, mat"} (lists, {"cat": 0.98} and {"tags": ...} as well), JSONL and CSV with columns
file_name and tags, or lines "1.jpg: cat, mat". Names are paths relative to the folder; of longer ones
the end counts.

Exit code: 0; 1 where no image has a caption afterwards, or where something is wrong; 2: wrong command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from tqdm import tqdm

from ppsd.data.captioning import Report, Rules, carry_out, make_plan
from ppsd.data.captions import tags_of
from ppsd.data.command_line import Parser, available_cpus, failed, natural, positive, run_tool
from ppsd.data.tag_names import match_tags
from ppsd.formats.caption_files import EXTENSIONS, CaptionStore, ImageCaption, SidecarCaptions
from ppsd.formats.caption_rows import MetadataCaptions
from ppsd.formats.tags_file import read_tags
from ppsd.interop.blip import load_blip
from ppsd.interop.blip_speaker import BlipSpeaker, Speech
from ppsd.trainers.running import set_device

compat.apply()

MODEL = "--pretrained_model_name_or_path"
OF_MODEL = ("batch_size", "num_workers", "beam_search", "num_beams", "top_p", "max_length", "min_length", "seed")


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("folder", nargs="?", metavar="FOLDER", help="The same as --train_data_dir.")
    add("--train_data_dir", help="Folder of images.")
    add("--recursive", action="store_true", help="Images of subfolders, too.")
    add(
        "--output",
        choices=("sidecar", "metadata"),
        default="sidecar",
        help="Files beside the images, or rows of metadata.jsonl. Default: %(default)s.",
    )
    add(
        "--caption_extension",
        "--caption_extention",
        choices=EXTENSIONS,
        help="Of new files beside images. Default: .txt.",
    )
    add("--overwrite", action="store_true", help="New captions for images that have one. Default: they keep it.")
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    _add_tags(parser.add_argument_group("tags"))
    _add_model(parser.add_argument_group("model"))
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _add_tags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tags_file", type=Path, help="Tags by image, which follow the caption of the model, or are the caption.")
    add(
        "--append_tags",
        action="store_true",
        help="Tags that a caption lacks are added to captions that are there, too.",
    )
    add("--undesired_tags", help="Tags that are left out of what is written, separated by commas.")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(MODEL, help="BLIP model: a folder in the layout of Paddle or of transformers, or a hub name.")
    add("--prompt", default=Speech.prompt, help='What captions begin with, such as "a painting of".')
    add("--batch_size", type=positive, default=Rules.batch_size, help="Images at once. Default: %(default)s.")
    add("--beam_search", action="store_true", help="Beams, whatever --top_p says, as in kohya's script.")
    add(
        "--num_beams",
        type=positive,
        default=Speech.num_beams,
        help="1: the likeliest word each time. Default: %(default)s.",
    )
    add(
        "--top_p",
        type=probability,
        help="Words by chance, among the likeliest that have this probability together. Default: not by chance.",
    )
    add(
        "--max_length",
        type=positive,
        default=Speech.max_length,
        help="Tokens, with those of --prompt and one before and behind. Default: %(default)s.",
    )
    add("--min_length", type=natural, default=Speech.min_length, help="Likewise. Default: %(default)s.")
    add(
        "--seed",
        type=natural,
        default=Speech.seed,
        help="Of --top_p; with the name of the image. Default: %(default)s.",
    )
    add(
        "--num_workers",
        "--max_data_loader_n_workers",
        type=positive,
        default=available_cpus(),
        help="Threads that decode images. Default: one a CPU.",
    )
    add("--device", help="gpu, gpu:1, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")


def probability(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def _check(parser: Parser, args: argparse.Namespace) -> None:
    if (args.folder is None) == (args.train_data_dir is None):
        parser.error("one folder of images is needed: FOLDER or --train_data_dir")
    args.train_data_dir = args.folder or args.train_data_dir
    if args.pretrained_model_name_or_path is None:
        if args.tags_file is None:
            parser.error(f"captions come from {MODEL} (a BLIP model), from --tags_file, or from both")
        given = next(
            (name for name in (*OF_MODEL, "prompt", "device") if getattr(args, name) != parser.get_default(name)), None
        )
        if given is not None:
            parser.error(f"--{given} is for {MODEL}")
    if args.append_tags and (args.tags_file is None or args.overwrite):
        parser.error("--append_tags adds the tags of --tags_file to captions that --overwrite would not keep")
    if args.caption_extension and args.output == "metadata":
        parser.error("--caption_extension is for --output sidecar")
    if args.top_p is not None and args.num_beams > 1 and not args.beam_search:
        parser.error("--num_beams and --top_p are two ways; --beam_search takes the first")
    if args.min_length > args.max_length:
        parser.error(f"--min_length {args.min_length} is above --max_length {args.max_length}")
    if args.undesired_tags is not None and not tags_of(args.undesired_tags):
        parser.error(f"--undesired_tags {args.undesired_tags!r} names no tag")


def run(args: argparse.Namespace) -> int:
    store = open_store(args)
    items = list(store.items())
    names = [item.name for _, item in items if isinstance(item, ImageCaption)]
    if not names:
        raise ValueError(
            f"--train_data_dir {args.train_data_dir}: no image in it; --recursive looks into its subfolders"
        )
    tags, unmatched = match_tags(read_tags(args.tags_file), names, args.train_data_dir) if args.tags_file else ({}, [])
    rules = Rules(tags, args.undesired_tags, args.append_tags, args.overwrite, args.batch_size, args.num_workers)
    plan = make_plan(items, store, rules, args.pretrained_model_name_or_path is not None)
    speaker = load_speaker(args) if plan.new else None
    with tqdm(
        total=len(plan.new) + len(plan.longer), unit=" images", desc="Captions", disable=args.disable_tqdm
    ) as bar:
        report = carry_out(plan, store, rules, speaker, bar.update)
    print(text_of(report, unmatched))
    if not report.written and not report.kept:
        return failed(__file__, f"no image of {args.train_data_dir} has a caption now")
    return 0


def open_store(args: argparse.Namespace) -> CaptionStore:
    if not Path(args.train_data_dir).is_dir():
        raise ValueError(f"--train_data_dir {args.train_data_dir}: not a folder; expected a folder of images")
    if args.output == "metadata":
        return MetadataCaptions(args.train_data_dir, args.recursive)
    return SidecarCaptions(args.train_data_dir, args.caption_extension or EXTENSIONS[0], args.recursive)


def load_speaker(args: argparse.Namespace) -> Optional[BlipSpeaker]:
    if args.pretrained_model_name_or_path is None:
        return None
    if args.device is not None:
        set_device(args.device)
    top_p = None if args.beam_search else args.top_p
    speech = Speech(args.max_length, args.min_length, args.num_beams, top_p, args.seed, args.prompt)
    return BlipSpeaker(load_blip(args.pretrained_model_name_or_path, MODEL), speech)


def text_of(report: Report, unmatched: Sequence[str]) -> str:
    lines = [f"{report.written} captions written, {report.kept} kept, {report.skipped.skipped} images skipped"]
    lines += str(report.skipped).splitlines()[1:]
    if unmatched:
        lines.append(f"{len(unmatched)} names of --tags_file are of no image, e.g. {', '.join(unmatched[:3])}")
    return "\n".join([*lines, *(f"{name}: {caption}" for name, caption in report.examples)])


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
