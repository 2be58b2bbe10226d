"""Convert image-text data between formats: LAION parts, webdataset tars, parquet and image folders.

Each --input is one of
    a .filelist.list or .filelist   all parts it names; one that is named more than once is converted once
    a part                          a LAION part (plain or gzip), a webdataset tar (.tar, .tar.gz), a parquet file with
                                    the bytes of images (img2dataset's or Hugging Face's); a path or a URL
    a folder of parts               its tars, else its parquet files, else its part-NUMBER files
    a folder that a tool has written  its list, filelist/NAME.filelist.list
    an image folder, a .jsonl file  as tools/create_pretraining_data.py takes them

Images are copied byte for byte, those in the columns conditioning_image, mask and depth, too; captions, further
captions and meta are kept. Writes

    OUTPUT/FORMAT_format_data/part-000001...   one part for each part of the input, or several
    OUTPUT/filelist/NAME.filelist              the parts
    OUTPUT/filelist/NAME.filelist.list         the filelist: what --file_list of the training scripts takes

Parts are part-000001[.gz] (laion400m), .tar[.gz] (webdataset), .parquet, or folders with metadata.jsonl (image_folder).
The lists name files relative to themselves, so OUTPUT can be moved as a whole. Running again with the same NAME
replaces the parts: the old lists are removed before that begins and the new ones are written last. What cannot be used
is skipped, counted and shown by reason. The exit code is 1 when nothing could be converted or written.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from ppsd.data.command_line import (
    Parser,
    add_remote_flags,
    available_cpus,
    failed,
    natural,
    positive,
    report,
    run_tool,
)
from ppsd.data.convert_inputs import IMAGES_PER_SOURCE, open_inputs
from ppsd.data.converting import GZIP_FORMATS, SUFFIXES, Target, convert
from ppsd.data.filters import Filter
from ppsd.formats.layout import Layout, check_name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="What to convert, in this order.")
    add("--output_path", type=Path, required=True, help="Folder to write to; it is made if it is not there.")
    add("--output_format", choices=list(SUFFIXES), required=True, help="Format of the parts that are written.")
    add("--output_name", default="custom_dataset", help="Name of the lists. Default: %(default)s.")
    per_part = f"Records per part at most. Default: those of the input part; {IMAGES_PER_SOURCE} for images."
    add("--per_part_file_num", type=positive, help=per_part)
    add("--save_gzip_file", action="store_true", help=f"Compress the parts with gzip ({', '.join(GZIP_FORMATS)}).")
    image = "Column of the image; in tars its extension, or several with semicolons between. Default: the usual names."
    add("--image_column", help=image)
    add("--caption_column", help="Column, key or extension of the caption. Default: the usual names.")
    add("--filter", type=condition, help='Which records to take, such as "width >= 512 and pwatermark < 0.8".')
    workers = "Processes that write parts; 0: none but this one. The files do not depend on it. Default: one a CPU."
    add("--num_workers", type=natural, default=available_cpus(), help=workers)
    add_remote_flags(parser)
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    args = parser.parse_args(argv)
    if args.save_gzip_file and args.output_format not in GZIP_FORMATS:
        parser.error(f"argument --save_gzip_file: {args.output_format} has no such files")
    return args


def condition(text: str) -> Filter:
    """A filter's expression."""
    try:
        return Filter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Convert the input and print what came of it; returns the exit code."""
    check_name(args.output_name)
    layout = Layout(args.output_path, args.output_name, args.output_format, SUFFIXES[args.output_format])
    columns = args.image_column, args.caption_column
    sources, total = open_inputs(args.input, layout.parts_folder, args.per_part_file_num, *columns)
    target = Target(layout, args.save_gzip_file, args.per_part_file_num, args.filter)
    begin = time.monotonic()
    with tqdm(total=total, unit=" parts", desc="Converting", disable=args.disable_tqdm) as bar:
        packed = convert(sources, target, num_workers=args.num_workers, on_source=bar.update)
    print(report(packed, layout, time.monotonic() - begin))
    if not packed.parts:
        return failed(__file__, f"nothing was written: no usable image with a caption in the input ({layout.root})")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
