"""Pack images and their captions into LAION-format part files, the input of pretraining.

INPUT is a jsonl file with one {"caption": ..., "image": "path/from/the/file's/folder.jpg"} a line, or an image folder:
metadata.jsonl or metadata.csv beside the images, or captions in IMAGE.txt or IMAGE.caption; the images of a subfolder
named like "10_a dog" count 10 times. It may be of any size. Image files are packed byte for byte; a list of captions
is kept whole. With --conditioning_key the conditioning image that each row names (for a ControlNet) becomes a column of
the parts, conditioning_image; it must be in the folder of INPUT, and of the same shape as the image, at any resolution.
Other keys and columns are not packed; tools/convert_dataset.py takes the same INPUT and keeps them.
Writes

    OUTPUT/laion400m_format_data/part-000001[.gz] ...
    OUTPUT/filelist/NAME.filelist        the parts
    OUTPUT/filelist/NAME.filelist.list   the filelist: what --file_list of the training scripts takes

The lists name files relative to themselves, so OUTPUT can be moved as a whole. Running again with the same NAME
replaces the parts: the old lists are removed before that begins and the new ones are written last. What cannot be used
is skipped, counted and shown by reason. The exit code is 1 when nothing could be packed or written.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from ppsd.data.command_line import Parser, available_cpus, failed, natural, positive, report, run_tool
from ppsd.data.packing import Items, pack
from ppsd.formats.image_folder import read_image_folder, repeated
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.layout import Layout, check_name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--input_path", type=Path, required=True, help="A jsonl file or an image folder.")
    add("--output_path", type=Path, required=True, help="Folder to write to; it is made if it is not there.")
    add("--output_name", default="custom_dataset", help="Name of the lists. Default: %(default)s.")
    add("--caption_key", help="Key or column of the caption. Default: caption, in an image folder text.")
    add("--image_key", help="Key or column of the image path. Default: image, in an image folder file_name.")
    conditioning = "Key or column of the path of the conditioning image. Default: none is packed."
    add("--conditioning_key", help=conditioning)
    add("--per_part_file_num", type=positive, default=1000, help="Images per part. Default: %(default)s.")
    add("--num_repeat", type=positive, default=1, help="How often the filelist names each part. Default: %(default)s.")
    add("--save_gzip_file", action="store_true", help="Compress the parts with gzip.")
    workers = "Processes that pack parts; 0: none but this one. The files do not depend on it. Default: one a CPU."
    add("--num_workers", type=natural, default=available_cpus(), help=workers)
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    return parser.parse_args(argv)


def read_input(args: argparse.Namespace) -> tuple[Items, int | None]:
    """The items of the input, and about how many there are when that is cheap to know."""
    path = args.input_path
    more_images = (args.conditioning_key,) if args.conditioning_key else ()
    if path.is_dir():
        keys = args.image_key or "file_name", args.caption_key or "text", more_images
        return repeated(lambda: read_image_folder(path, *keys)), None
    if not path.is_file():
        raise FileNotFoundError(f"--input_path {path}: there is no such file or folder")
    keys = args.image_key or "image", args.caption_key or "caption", more_images
    return read_jsonl(path, *keys), count_lines(path)


def count_lines(path: Path) -> int:
    """Lines of a file, of which the last need not have an ending."""
    count, block = 0, b"\n"
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            count, block = count + piece.count(b"\n"), piece
    return count if block.endswith(b"\n") else count + 1


def run(args: argparse.Namespace) -> int:
    """Pack the input and print what came of it; returns the exit code."""
    check_name(args.output_name)
    items, total = read_input(args)
    layout = Layout(args.output_path, args.output_name)
    begin = time.monotonic()
    with tqdm(total=total, unit=" images", desc="Packing", disable=args.disable_tqdm) as bar:
        packed = pack(
            items,
            layout,
            per_part=args.per_part_file_num,
            gzip=args.save_gzip_file,
            num_repeat=args.num_repeat,
            num_workers=args.num_workers,
            on_part=bar.update,
            conditioning_key=args.conditioning_key,
        )
    print(report(packed, layout, time.monotonic() - begin))
    if not packed.parts:
        return failed(__file__, f"nothing was written: no usable image with a caption in the input ({layout.root})")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
