"""Run the VAE, and with --cache_text_encoder the text encoder, over a data set once, and train on what they give.

Writes, for each part that --file_list names (each once, however often it is named),

    OUTPUT/latents/NAME/part-000001.safetensors ...   mean and log variance of the latents, captions, further columns
    OUTPUT/filelist/NAME.filelist.list                what --file_list of the training scripts takes

with the same sources, weights, order and repeats. Images are cropped at their centre, as --center_crop does, and not
mirrored: a run on the cache is the run on the images with --center_crop and without --random_flip, step for step. The
format is in ppsd/formats/latents.py. Computes in float32.

Started again, it goes on where it was stopped, even if it was killed: a part that is there and was made from the same
file with the same models and flags is kept. On several devices:

    python -m paddle.distributed.launch --gpus 0,1,2,3 tools/cache_latents.py ...

The exit code is 1 when no record could be used or something could not be read or written.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional, Union

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
from ppdiffusers import AutoencoderKL
from ppdiffusers.transformers import AutoTokenizer, CLIPTextModel
from tqdm import tqdm

from ppsd.data.buckets import Buckets
from ppsd.data.config import StreamConfig
from ppsd.data.filters import pixel_size
from ppsd.data.sample import SampleMaker
from ppsd.data.source import open_sources
from ppsd.data.tally import Tally
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.filelist import FILELIST_SUFFIX, LIST_SUFFIX, Source, read_file_list
from ppsd.formats.latent_layout import LatentLayout, distinct_parts
from ppsd.formats.latent_rows import DTYPES
from ppsd.formats.latents import read_bad, read_origin, write_latents
from ppsd.formats.layout import check_name
from ppsd.models.loading import load_component
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.latent_cache import Encoder, TextEncoder, encode_records, latent_fingerprint
from ppsd.types import BadRecord, Record, Sample

compat.apply()

_SETTINGS = (
    "file_list",
    "resolution",
    "interpolation",
    "scaled_jpeg",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
)
_SETTINGS += ("bucket_reso_steps", "bucket_no_upscale", "caption_rule", "image_column", "caption_column", "filter")
_LOOK_AGAIN_SECONDS = 2.0


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: error: {message}{hint} (--help lists the flags)\n")


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong. Flags of the training script have its defaults."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    for arguments, names in _SHARED.items():
        for name in names:
            _add_shared(parser, arguments, name)
    add("--output_path", type=Path, required=True, help="Folder to write to; it is made if it is not there.")
    add("--output_name", help="Name of the new list. Default: that of --file_list.")
    add("--center_crop", action="store_true", help="Always so: a random crop would be the same in every epoch.")
    add("--cache_text_encoder", action="store_true", help="Keep the text encoder's last hidden states, too.")
    add("--dtype", choices=list(DTYPES), default="float32", help=_DTYPE_HELP)
    add("--batch_size", type=_positive, default=16, help="Images encoded at a time. Default: %(default)s.")
    add("--num_workers", type=_natural, default=_available_cpus(), help="Threads that decode. Default: one a CPU.")
    add("--device", help="gpu, gpu:1, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    return parser.parse_args(argv)


_SHARED: dict[Any, tuple[str, ...]] = {
    ModelArguments: (
        "pretrained_model_name_or_path",
        "vae_name_or_path",
        "text_encoder_name_or_path",
        "tokenizer_name",
        "model_max_length",
    ),
    DataArguments: ("data_format", *(name for name in _SETTINGS if name != "resolution")),
    SDTrainingArguments: ("resolution",),
}
_DTYPE_HELP = (
    "float16 halves the files; it rounds by at most 1/2048 of a value, and the largest error is shown at the end."
    " Default: %(default)s."
)


def _add_shared(parser: argparse.ArgumentParser, arguments: Any, name: str) -> None:
    """A flag of the training script, with its default and help."""
    field = arguments.__dataclass_fields__[name]
    shown = field.metadata["help"].replace("%", "%%")
    if field.default is False:
        parser.add_argument(f"--{name}", action="store_true", help=shown)
        return
    kind = _positive if isinstance(field.default, int) else str
    default = "" if field.default is None else " Default: %(default)s."
    parser.add_argument(f"--{name}", type=kind, default=field.default, help=shown + default)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 0")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)


def _available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Cache:
    """Making the parts of one data set, or this process's share of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        if args.cache_text_encoder and args.caption_rule == "random":
            raise ValueError("--cache_text_encoder keeps the states of one caption: --caption_rule random cannot act")
        settings = {name: getattr(args, name) for name in _SETTINGS}
        self.config = StreamConfig(
            **settings,
            dialect=args.data_format,
            max_length=args.model_max_length,
            center_crop=True,
            random_flip=False,
            caption_dropout_rate=0.0,
        )
        self.sources: Sequence[Source] = read_file_list(args.file_list, args.data_format)
        self.numbers = distinct_parts(self.sources)
        self.layout = LatentLayout(args.output_path, args.output_name or _stem(args.file_list))
        check_name(self.layout.name)
        self._read = open_sources(self.config)[0].read
        self._load()
        self._changed = False
        self.rounding = (0.0, 0.0)

    def _load(self) -> None:
        """The networks. Raises ValueError naming the flag for what cannot be loaded."""
        args = self.args
        vae = _component(args, AutoencoderKL, "vae", "vae_name_or_path")
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if args.resolution % factor:
            raise ValueError(f"--resolution {args.resolution} is not a multiple of {factor}, which this VAE needs")
        text, tokenize = None, _no_tokens
        if args.cache_text_encoder:
            text_encoder = _component(args, CLIPTextModel, "text_encoder", "text_encoder_name_or_path")
            longest = text_encoder.config.max_position_embeddings
            if args.model_max_length > longest:
                raise ValueError(
                    f"--model_max_length is {args.model_max_length}; the text encoder takes at most {longest}"
                )
            length = {"model_max_length": args.model_max_length}
            text = TextEncoder(text_encoder, _component(args, AutoTokenizer, "tokenizer", "tokenizer_name", **length))
            tokenize = TokenizeCaptions(text.tokenizer, args.model_max_length)
        self._encoder = Encoder(vae, text and text.encoder)
        self._decode = Decode(self.config, SampleMaker(self.config, tokenize))
        self._empty_hidden = self._encoder.empty_hidden(tokenize("")) if text else None
        self.fingerprint = latent_fingerprint(vae, self.config, text)

    def is_made(self, part: str) -> bool:
        """Whether a part's latents are there, made from the file as it is now, as the flags say."""
        path = self.layout.part(self.numbers[part])
        try:
            return path.is_file() and read_origin(path) == (self.fingerprint, self._origin(part))
        except ValueError:  # not one that this tool has finished
            return False

    def make(self, part: str, bar: tqdm) -> None:
        """Encode one part."""
        if not self._changed:
            self.layout.remove_lists(self.sources)
            self._changed = True
        number, origin = self.numbers[part], self._origin(part)
        self.layout.remove_temporaries(number)
        records = encode_records(
            self._read(part),
            self._decode,
            self._encoder,
            batch_size=self.args.batch_size,
            num_workers=self.args.num_workers,
            caption_rule=self.args.caption_rule,
        )
        rounding = write_latents(
            self.layout.part(number),
            _counted(records, bar),
            self.fingerprint,
            dtype=self.args.dtype,
            empty_hidden=self._empty_hidden,
            origin=origin,
        )
        self.rounding = (max(self.rounding[0], rounding.moments), max(self.rounding[1], rounding.hidden))

    def _origin(self, part: str) -> str:
        """A hash of the part's place, size and time, and of the flags that are not in the fingerprint."""
        try:
            state = os.stat(part)
            facts: list[Any] = [os.path.abspath(part), state.st_size, state.st_mtime_ns]
        except OSError:  # a URL, or not there
            facts = [part]
        args = self.args
        facts += [args.data_format, args.filter, args.image_column, args.caption_column, args.dtype]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


class Decode:
    """A record as the pixels and token ids that training would make of it. Safe to call from several threads."""

    def __init__(self, config: StreamConfig, make_sample: SampleMaker) -> None:
        self._size = (config.resolution, config.resolution)
        self._buckets = None
        self._max_pixels = config.max_image_pixels
        self._make_sample = make_sample
        if config.enable_bucket:
            bounds = (config.min_bucket_reso, config.max_bucket_reso, config.bucket_reso_steps)
            self._buckets = Buckets(config.resolution, *bounds, config.bucket_no_upscale)

    def __call__(self, record: Record) -> Union[Sample, BadRecord]:
        if self._buckets is None:
            return self._make_sample(record, 0, self._size)
        size = pixel_size(record, self._max_pixels)
        return size if isinstance(size, BadRecord) else self._make_sample(record, 0, self._buckets.of(*size))


def _component(args: argparse.Namespace, cls: Any, folder: str, flag: str, **kwargs: Any) -> Any:
    """From the folder that its own flag names, else from the pipeline."""
    path = getattr(args, flag)
    if path is not None:
        return load_component(cls, path, None, f"--{flag}", **kwargs)
    pipeline = args.pretrained_model_name_or_path
    return load_component(cls, pipeline, folder, "--pretrained_model_name_or_path", **kwargs)


def _no_tokens(caption: str) -> np.ndarray:
    """Where the text is not cached, training tokenises it."""
    return np.zeros(0, dtype=np.int64)


def _stem(file_list: str) -> str:
    name = Path(file_list).name
    return next((name[: -len(end)] for end in (LIST_SUFFIX, FILELIST_SUFFIX) if name.endswith(end)), name)


def _counted(records: Iterator[Any], bar: tqdm) -> Iterator[Any]:
    """The same records; the bar's postfix says how many there were."""
    for count, item in enumerate(records, 1):
        if count % 100 == 0:
            bar.set_postfix_str(f"{count} records of this part", refresh=True)
        yield item


def run(args: argparse.Namespace) -> int:
    """Make this process's parts; the first process writes the lists when all parts of all processes are there."""
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    _set_device(args.device)
    begin = time.monotonic()
    cache = Cache(args)
    cache.layout.prepare()
    parts = list(cache.numbers)
    own = parts[rank::world]
    kept = 0
    with tqdm(total=len(own), unit=" parts", desc="Encoding", disable=args.disable_tqdm or rank > 0) as bar:
        for part in own:
            if cache.is_made(part):
                kept += 1
            else:
                cache.make(part, bar)
            bar.update()
    if args.dtype != "float32":
        moments, hidden = cache.rounding
        print(f"{args.dtype}: largest rounding error of the moments {moments:.2g}, of the hidden states {hidden:.2g}")
    if rank > 0:
        return 0
    _wait_for([part for part in parts if part not in set(own)], cache, args)
    if kept:
        print(f"{kept} parts were there already, made from the same files with the same models and flags")
    return _report(cache, time.monotonic() - begin)


def _set_device(device: Optional[str]) -> None:
    """Of several GPUs, the one that the launcher gives this process."""
    name = device or paddle.get_device().split(":")[0]
    try:
        paddle.set_device(name)
        if ":" not in name and name != "cpu" and paddle.distributed.get_world_size() > 1:
            paddle.set_device(f"{name}:{paddle.distributed.ParallelEnv().device_id}")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--device {name}: {error}") from error


def _wait_for(parts: list[str], cache: Cache, args: argparse.Namespace) -> None:
    """Until the other processes have made these parts: however long that takes, and whatever machine they are on."""
    if not parts:
        return
    with tqdm(total=len(parts), unit=" parts", desc="Other devices", disable=args.disable_tqdm) as bar:
        for part in parts:
            while not cache.is_made(part):
                time.sleep(_LOOK_AGAIN_SECONDS)
            bar.update()


def _report(cache: Cache, seconds: float) -> int:
    """Write the lists, say what became of the records; returns the exit code."""
    tally, num_bytes = Tally(), 0
    for part, number in cache.numbers.items():
        path = cache.layout.part(number)
        count, bad = read_bad(path)
        tally.used += count - len(bad)
        num_bytes += path.stat().st_size
        for record_no, record in bad:
            tally.add(record.reason, f"{part}:{record_no}", record.detail)
    if tally.skipped:
        print(tally)
    if not tally.used:
        return _failed("not one record could be used")
    cache.layout.write_lists(cache.sources, cache.numbers)
    print(f"{tally.used} records in {len(cache.numbers)} parts, {num_bytes / 1e6:.1f} MB, in {seconds:.1f} s")
    unlisted = cache.layout.unlisted_parts(len(cache.numbers))
    if unlisted:
        print(f"Left from an earlier run and not in the list: {len(unlisted)} parts, e.g. {unlisted[0]}")
    print(f"File list: {cache.layout.file_list}")
    return 0


def _failed(message: str) -> int:
    print(f"cache_latents.py: error: {message}", file=sys.stderr)
    return 1


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        return run(args)
    except (OSError, ValueError) as error:
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error, OSError) and error.filename else ""
        return _failed(named + " ".join((getattr(error, "strerror", None) or str(error)).split("\n")))
    except KeyboardInterrupt:
        return _failed("interrupted; started again, it goes on from here")


if __name__ == "__main__":
    sys.exit(main())
