"""Look at training data before training does: what can be used, what cannot and why, and what it looks like.

Reads the parts that --file_list names exactly as training would with the same flags, in several processes, and prints:
records, records that cannot be used by reason with file and line, sizes, kinds, lengths of captions and how many are
cut, copies of images (byte for byte) and images that look alike (64-bit dHash, at most 3 bits apart), missing parts,
and how long an epoch takes. The same is written as one HTML page with plots and random samples.

Without --sample everything is read. Results are kept in a state file, a line a part: run the same command again after
an interruption and it goes on. Part files that have changed since are read again. Without --state the file lies beside
the report, is begun anew by a command with other flags, and is removed when all is done. Shares and copies are found
among at most 4 million records, above that among a random choice of the images; memory stays below 1.5 GB.

With --conditioning_image_column, --mask_column or --depth_column records need these pictures, too: of the shape of the
image, whole, and in the data set. The page shows them below the image, as training will see them.

--fix writes the usable records as new LAION parts, compressed where the old ones were, with lists that have the old
weights and repeats. Columns and further captions are kept; parts of other formats become LAION parts.

Exit code: 0 training can start. 1 it cannot: a list is missing or wrong, not one record of a source (of weight above 0)
can be used, or more than half of the parts of a source are missing; also when it is
interrupted, or when a report or part cannot be written.
2 wrong command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from tqdm import tqdm

from ppsd.data.captions import RULES
from ppsd.data.command_line import Parser, add_remote_flags, available_cpus, natural, positive, run_tool
from ppsd.data.conditions import COLUMNS, NOUNS, flag_of
from ppsd.data.config import StreamConfig
from ppsd.data.inspection.clean import check_images, check_output, write_clean
from ppsd.data.inspection.job import Setup, make_setup
from ppsd.data.inspection.journal import Journal
from ppsd.data.inspection.page import write_page
from ppsd.data.inspection.plan import distinct_parts
from ppsd.data.inspection.report import make_report
from ppsd.data.inspection.result import PartResult
from ppsd.data.inspection.run import inspect_all, inspect_sample
from ppsd.data.inspection.summary import Summary
from ppsd.data.inspection.terminal import report_lines
from ppsd.data.source import RecordSource, open_streams
from ppsd.data.transforms import INTERPOLATIONS
from ppsd.formats.items import IMAGE_COLUMNS
from ppsd.formats.layout import Layout, check_name
from ppsd.formats.parts import DATA_FORMATS

STREAM_FLAGS = (
    *("file_list", "resolution", "interpolation", "center_crop", "random_flip", "filter"),
    *("image_column", "caption_column", "caption_rule", "enable_bucket", "bucket_no_upscale"),
    *("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "scaled_jpeg"),
    *map(flag_of, COLUMNS),
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    _add_stream_flags(parser)
    add = parser.add_argument
    add("--tokenizer", help="Tokenizer folder: captions are also counted in tokens.")
    add("--pretrained_model_name_or_path", help="Pipeline, whose tokenizer is used: a folder, or a name on the hub.")
    add("--model_max_length", type=positive, default=77, help="Tokens a caption is cut to. Default: %(default)s.")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--full", action="store_true", help="Read everything. The default.")
    how_much.add_argument("--sample", type=positive, metavar="N", help="Read about N records of random parts.")
    add("--num_workers", type=natural, default=available_cpus(), help="Processes; 0: only this. Default: one a CPU.")
    add("--seed", type=natural, default=0, help="Of crops and of the sample: that of the training. Default: 0.")
    add("--report", type=Path, default=Path("inspection.html"), help="The HTML page. Default: %(default)s.")
    add("--state", type=Path, help="File that keeps the results. Default: beside the report, removed in the end.")
    add("--fix", type=Path, metavar="OUT", help="Folder to write a data set of the usable records to.")
    add("--drop_duplicates", action="store_true", help="With --fix: of identical images keep the first only.")
    add("--output_name", default="clean", help="With --fix: name of the new lists. Default: %(default)s.")
    add_remote_flags(parser)
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Those of the trainer that say what its data are; see there."""
    default = StreamConfig(file_list="")
    add = parser.add_argument
    add("--file_list", required=True, help="A .filelist.list or a .filelist.")
    add("--data_format", default="auto", choices=DATA_FORMATS, help="What the parts are. Default: %(default)s.")
    add("--resolution", type=positive, default=default.resolution, help="Side of the crops. Default: %(default)s.")
    add("--interpolation", default=default.interpolation, help=f"{', '.join(INTERPOLATIONS)}. Default: %(default)s.")
    add("--center_crop", action="store_true", help="Crop the centre instead of a random place.")
    add("--random_flip", action="store_true", help="Mirror half of the images.")
    add("--image_column", help="Column of the image in webdataset, parquet or folder data.")
    add("--caption_column", help="Column of the caption there.")
    for name, column in COLUMNS.items():
        needed = f"Column of the {NOUNS[name]} that each record must have. Without a name: {column}."
        add(f"--{flag_of(name)}", nargs="?", const=column, metavar="NAME", help=needed)
    add("--caption_rule", default=default.caption_rule, help=f"{', '.join(RULES)}. Default: %(default)s.")
    add("--filter", help='Which records are used, e.g. "width>=512 and pwatermark<0.8".')
    add("--scaled_jpeg", action="store_true", help="Decode large JPEGs at a reduced scale.")
    add("--enable_bucket", action="store_true", help="Crop to aspect-ratio buckets instead of to squares.")
    for flag in ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"):
        add(f"--{flag}", type=positive, default=getattr(default, flag), help="As in training. Default: %(default)s.")
    add("--bucket_no_upscale", action="store_true", help="Small images go to buckets of their own size.")


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.sample and (args.fix or args.state):
        parser.error("--fix and --state need the whole data; leave --sample out")
    if args.drop_duplicates and not args.fix:
        parser.error("--drop_duplicates is for --fix OUT")
    if args.tokenizer and args.pretrained_model_name_or_path:
        parser.error("--tokenizer and --pretrained_model_name_or_path: which tokenizer? Give one of them")


def tokenizer_name(args: argparse.Namespace) -> Optional[str]:
    """Where the tokenizer is from; None without one."""
    pipeline = args.pretrained_model_name_or_path
    return args.tokenizer if pipeline is None else str(Path(pipeline, "tokenizer"))


def load_tokenizer(args: argparse.Namespace) -> Any:
    """The tokenizer, None without one. Raises ValueError naming the flag. Only this needs paddle."""
    folder, pipeline = args.tokenizer, args.pretrained_model_name_or_path
    if folder is None and pipeline is None:
        return None
    if folder is not None and not Path(folder, "vocab.json").is_file():
        raise ValueError(f"--tokenizer {folder}: there is no {Path(folder, 'vocab.json')}")
    import ppsd.compat  # noqa: F401  before paddle

    from ppdiffusers.transformers import CLIPTokenizer

    from ppsd.models import bundle, loading

    if folder is not None:
        return loading.load_component(CLIPTokenizer, folder, None, "--tokenizer")
    return bundle.load_tokenizer(pipeline)


def run(args: argparse.Namespace) -> int:
    """Inspect, report and perhaps fix; returns the exit code."""
    config = StreamConfig(
        **{name: getattr(args, name) for name in STREAM_FLAGS},
        dialect=args.data_format,
        max_length=args.model_max_length,
        conditions=tuple(name for name in COLUMNS if getattr(args, flag_of(name)) is not None),
    )
    layout = Layout(args.fix, args.output_name) if args.fix else None
    if layout:
        check_name(args.output_name)
        check_output(layout)
    sources = open_streams(config, more_images=IMAGE_COLUMNS if layout else ())
    if layout:
        check_images(sources)
    setup = make_setup(config, load_tokenizer(args), args.seed, details=True)
    if args.sample:
        with progress(args, args.sample, " records") as bar:
            summary = inspect_sample(
                sources,
                setup,
                args.sample,
                num_workers=args.num_workers,
                on_result=lambda result: bar.update(min(result.records, args.sample - bar.n)),
            )
        return finish(args, sources, config, summary, 0)
    state = args.state or args.report.with_name(f"{args.report.name}.state.jsonl")
    facts = {
        "settings": {key: str(value) for key, value in sorted(asdict(setup.config).items())},
        "tokenizer": str(tokenizer_name(args)),
        "seed": args.seed,
    }
    journal = Journal(state, facts, replace=args.state is None)
    if journal.replaced:
        warn(f"{state}: left by another inspection ({journal.replaced}); begun anew")
    try:
        code = inspect_whole(args, sources, config, setup, journal)
        if layout:
            fix(args, sources, journal, layout)
    finally:
        journal.close()
    if not args.state:
        state.unlink()
    return code


def inspect_whole(
    args: argparse.Namespace, sources: Sequence[RecordSource], config: StreamConfig, setup: Setup, journal: Journal
) -> int:
    distinct = [distinct_parts(source.parts) for source in sources]
    count = sum(len(parts.parts) for parts in distinct)
    records = 0

    with progress(args, count, " parts") as bar:

        def show(result: PartResult) -> None:
            nonlocal records
            records += result.records
            bar.set_postfix_str(f"{records:,} records", refresh=False)
            bar.update()

        summary = inspect_all(sources, distinct, setup, num_workers=args.num_workers, journal=journal, on_result=show)
    repeated = sum(len(source.parts) for source in sources) - count
    return finish(args, sources, config, summary, repeated)


def finish(
    args: argparse.Namespace, sources: Sequence[RecordSource], config: StreamConfig, summary: Summary, repeated: int
) -> int:
    """Print and write the report; returns the exit code."""
    tokenized = tokenizer_name(args) is not None
    report = make_report(sources, config, summary, repeated, sampled=args.sample is not None, tokenized=tokenized)
    for line in report_lines(report):
        print(line)
    write_page(report, args.report)
    print(f"Report: {args.report}")
    return 1 if report.problems else 0


def fix(args: argparse.Namespace, sources: Sequence[RecordSource], journal: Journal, layout: Layout) -> None:
    """Write the usable records and say so."""
    with progress(args, None, " records") as bar:
        cleaned = write_clean(
            sources,
            journal,
            layout,
            drop_duplicates=args.drop_duplicates,
            num_workers=args.num_workers,
            on_part=bar.update,
        )
    dropped = f", {cleaned.dropped:,} copies left out" if args.drop_duplicates else ""
    print(f"{cleaned.records:,} records in {cleaned.parts:,} parts written{dropped}")
    for name in cleaned.left_out:
        print(f"Not in the new list: {name}, which has no usable record")
    print(f"File list: {cleaned.file_list}")


def warn(message: str) -> None:
    """To stderr, like errors."""
    sys.stderr.write(f"inspect_data.py: warning: {message}\n")


def progress(args: argparse.Namespace, total: Optional[int], unit: str) -> Any:
    return tqdm(total=total, unit=unit, disable=args.disable_tqdm)


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool("inspect_data.py", run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
