"""Write a data set anew with pictures beside its images, for ControlNets and depth models to train on: one more column.

--input is one of
    an image folder, a .jsonl file  as tools/create_pretraining_data.py takes them
    a .filelist.list or .filelist   all parts it names
    a part, a folder of parts       LAION parts, webdataset tars, parquet files; a path or a URL
    a folder that a tool has written

--annotator is one of
    canny[:LOW,HIGH]  edges, by OpenCV; default 100,200
    outlines[:STEP]   lines around regions of one colour; default 32 grey levels apart
    color[:BLOCKS]    the colours of blocks, as for T2I-Adapters; default 8 along the shorter side
    grey              the image without its colours
    blur[:LOW,HIGH]   the image out of focus, by a random sigma; default 2,8 pixels of 512
    shuffle[:CELLS]   the contents at other places, as for ControlNet 1.1; default 2 cells along the shorter side
    landmarks, pose   faces of 68 points, bodies of OpenPose's 18, drawn from --points_column or --points_suffix
    depth, normal     near and far, and the directions of surfaces, by a DPT network: --annotator_model
    hed               soft edges, by ControlNet's HED network as safetensors: --annotator_model
    seg               what is where, in ADE20K's colours, by a DPT network: --annotator_model

Of an image folder it writes OUTPUT with copies of the images, the pictures in a folder of the column's name, and
metadata.jsonl last: what --train_data_dir takes. Of parts it writes OUTPUT/annotated/NAME/part-000001... in the formats
that they have, and OUTPUT/filelist/NAME.filelist.list with the old weights and repeats: what --file_list takes. Nothing
else is touched. contact_sheet.COLUMN.png shows some images above their pictures.

Started again, it goes on where it was stopped or killed: pictures and parts that are there and were made of the same
bytes with the same settings are kept. What cannot be used is skipped, counted and shown by reason. The exit code is 1
when nothing could be used or written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tqdm import tqdm

from ppsd.data.annotating.folders import Annotated, FolderTask, annotate_folder, has_repeats
from ppsd.data.annotating.output import claim
from ppsd.data.annotating.parts import Made, Task, annotate_parts
from ppsd.data.annotating.pictures import PictureMaker, Settings
from ppsd.data.annotating.sheet import records_of, write_sheet
from ppsd.data.annotators import DRAWINGS, MODELS, check_annotator
from ppsd.data.command_line import Parser, add_remote_flags, available_cpus, failed, natural, run_tool
from ppsd.data.conditions import COLUMNS
from ppsd.data.convert_inputs import check_apart, own_list, parts_of
from ppsd.data.tally import Tally
from ppsd.formats.filelist import FILELIST_SUFFIX, LIST_SUFFIX, Source, read_file_list
from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.latent_layout import LatentLayout
from ppsd.formats.layout import check_name
from ppsd.formats.parts import DATA_FORMATS

DEFAULT_NAME = "custom_dataset"


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--input", required=True, metavar="PATH", help="What to annotate.")
    add("--output_path", type=Path, required=True, help="Folder to write to; it is made if it is not there.")
    add("--output_name", help=f"Name of the lists of parts. Default: that of the list, else {DEFAULT_NAME}.")
    add("--annotator", required=True, metavar="NAME[:NUMBERS]", help="What to make of the images; see above.")
    add("--annotator_model", help="Its network: a folder, a .safetensors file, or a name on the hub.")
    named = ", ".join(COLUMNS.values())
    add("--column", default=COLUMNS["conditioning"], help=f"Column to write: {named} or any. Default: %(default)s.")
    add("--overwrite", action="store_true", help="Also where the column is there already; those are kept otherwise.")
    sides = "Images with a longer shorter side are made smaller first; 0: none. Default: %(default)s."
    add("--resolution", type=natural, default=512, help=sides)
    add("--seed", type=natural, default=0, help="Of what is random about a picture. Default: %(default)s.")
    add("--points_column", help="Column of the points, or of the path of their file; JSON, .npy or text.")
    add("--points_suffix", help="They are in a file beside the image with this in place of its extension.")
    add("--data_format", default="auto", choices=DATA_FORMATS, help="What the parts are. Default: %(default)s.")
    add("--image_column", help="Column of the image. Default: the usual names.")
    add("--caption_column", help="Column, key or extension of the caption. Default: the usual names.")
    workers = (
        "Processes, each for a part or a few images at a time; 0: none but this one. Default: one a CPU, networks: 0."
    )
    add("--num_workers", type=natural, help=workers)
    add("--contact_sheet", type=Path, help="PNG file with images and their pictures. Default: in OUTPUT.")
    add("--num_shown", type=natural, default=16, help="How many it shows; 0: it is not written. Default: %(default)s.")
    add_remote_flags(parser)
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        check_annotator(args.annotator, args.annotator_model)
        check_name(args.column)
    except ValueError as error:
        parser.error(str(error))
    if not args.column.islower() or args.column in ("text", "captions", "caption", "file_name", "image"):
        parser.error(f"argument --column: {args.column!r} cannot be one; it is lower case, and not that of the image")
    given = [flag for flag in ("points_column", "points_suffix") if getattr(args, flag) is not None]
    if args.annotator in DRAWINGS and len(given) != 1:
        hint = (
            "; there is no network for poses here: OpenPose (--write_json) and controlnet_aux's OpenposeDetector are"
            if args.annotator == "pose"
            else ""
        )
        parser.error(f"--annotator {args.annotator} draws points: give --points_column or --points_suffix{hint}")
    if args.annotator not in DRAWINGS and given:
        parser.error(f"--{given[0]} is for --annotator {' and '.join(DRAWINGS)}")
    if args.num_workers is None:
        args.num_workers = 0 if is_network(args) else available_cpus()


def is_network(args: argparse.Namespace) -> bool:
    return args.annotator in MODELS


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises ValueError for an annotator that cannot be had. Only networks need paddle."""
    load: Any = None
    if is_network(args):
        from ppsd.models.annotators import load_annotator

        load = load_annotator
    settings = Settings(
        args.annotator,
        args.annotator_model,
        args.resolution,
        args.seed,
        args.points_column,
        args.points_suffix,
        load,
    )
    if not (is_network(args) and args.num_workers):
        PictureMaker(settings)
    return settings


def sources_of(args: argparse.Namespace, output: Path) -> Optional[list[Source]]:
    """The lists of parts that the input names; None for one of images."""
    text = args.input
    if os.path.isdir(text):
        text = own_list(text) or text
    parts = parts_of(text, output)
    if parts is None:
        return None
    if text.endswith((FILELIST_SUFFIX, LIST_SUFFIX)):
        return read_file_list(text, args.data_format)
    return [Source(DEFAULT_NAME, parts, None, args.data_format)]


def name_of(args: argparse.Namespace) -> str:
    """Of the lists."""
    stem = Path((os.path.isdir(args.input) and own_list(args.input)) or args.input).name
    listed = (stem[: -len(end)] for end in (LIST_SUFFIX, FILELIST_SUFFIX) if stem.endswith(end))
    name = args.output_name or next(listed, DEFAULT_NAME)
    check_name(name)
    return str(name)


def run(args: argparse.Namespace) -> int:
    """Annotate the input and print what came of it; returns the exit code."""
    begin = time.monotonic()
    name = name_of(args)
    if os.path.isdir(args.input):
        check_apart(args.input, args.output_path, inside=True)
    folder = args.output_path / "annotated" / name
    sources = sources_of(args, folder)
    if sources is None and args.output_name is not None:
        raise ValueError(f"--output_name {args.output_name}: {args.input} is of images, and no list is written")
    settings = settings_of(args)
    if sources is None:
        return run_images(args, settings, begin)
    claim(args.output_path, "parts")
    return run_parts(args, settings, sources, LatentLayout(args.output_path, name), folder, begin)


def run_images(args: argparse.Namespace, settings: Settings, begin: float) -> int:
    path = Path(args.input)
    root = path if path.is_dir() else path.parent
    if not path.is_dir():
        check_apart(str(root), args.output_path, inside=False)
    caption = args.caption_column or ("text" if path.is_dir() else "caption")
    if path.is_dir():
        items = read_image_folder(path, args.image_column or "file_name", caption, (args.column,))
    else:
        items = read_jsonl(path, args.image_column or "image", caption, (args.column,))
    kept_name = args.caption_column or "text"
    grouped = path.is_dir() and has_repeats(path)
    task = FolderTask(settings, args.column, root, args.output_path, kept_name, args.overwrite, grouped)
    claim(args.output_path, "images")
    with tqdm(unit=" images", desc="Annotating", disable=args.disable_tqdm) as bar:
        found = annotate_folder(items, task, num_workers=args.num_workers, on_images=bar.update)
    show_result(found.tally, found, time.monotonic() - begin)
    if not found.folders:
        return failed(__file__, "nothing was written: no usable image with a caption in the input")
    # beside metadata, where a picture is no image of the data
    every = max(1, found.tally.used // max(1, args.num_shown * len(found.folders)))
    write_contact_sheet(args, found.folders[0], found.folders, args.caption_column, every)
    print(f"Image folder: {args.output_path}")
    return 0


def run_parts(
    args: argparse.Namespace,
    settings: Settings,
    sources: list[Source],
    layout: LatentLayout,
    folder: Path,
    begin: float,
) -> int:
    columns = args.image_column, args.caption_column
    task = Task(settings, args.column, folder, args.overwrite, args.data_format, *columns)
    total, images = Annotated(), 0
    count = len({part for source in sources for part in source.parts})
    with tqdm(total=count, unit=" parts", desc="Annotating", disable=args.disable_tqdm) as bar:

        def show(made: Made) -> None:
            nonlocal images
            images += made.tally.used
            bar.set_postfix_str(f"{images:,} images", refresh=False)
            bar.update()

        done = annotate_parts(sources, task, layout, num_workers=args.num_workers, on_part=show)
    for made in done.values():
        total.tally.merge(made.tally)
        total.kept += made.kept
    again = sum(made.again for made in done.values())
    if again:
        print(f"{again} parts were there already, made from the same files with the same settings")
    show_result(total.tally, total, time.monotonic() - begin)
    parts = [folder / made.name for made in done.values() if made.name is not None]
    if not parts:
        return failed(__file__, f"nothing was written: no usable image in the input ({folder})")
    write_contact_sheet(args, args.output_path, parts)
    print(f"File list: {layout.file_list}")
    return 0


def show_result(tally: Tally, found: Annotated, seconds: float) -> None:
    if tally.skipped:
        print(tally)
    print(f"{tally.used} images annotated in {seconds:.1f} s")
    if found.again:
        print(f"{found.again} of them were there already, made of the same files with the same settings")
    if found.kept:
        print(f"{found.kept} of them had the column already, which was kept; --overwrite makes it anew")


def write_contact_sheet(
    args: argparse.Namespace, folder: Path, parts: Sequence[Path], caption_column: Optional[str] = None, every: int = 1
) -> None:
    """Of parts or folders; into `folder` unless the user names a file."""
    if not args.num_shown:
        return
    path = args.contact_sheet or folder / f"contact_sheet.{args.column}.png"
    records = records_of(parts, args.column, args.num_shown, caption_column, every)
    if write_sheet(path, records, args.column):
        print(f"Contact sheet: {path}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
