"""Run the VAE, and with --cache_text_encoder the text encoder, over a data set once, and train on what they give.

Writes, for each part that --file_list names (each once, however often it is named),

    OUTPUT/latents/NAME/part-000001.safetensors ...   mean and log variance of the latents, captions, further columns
    OUTPUT/filelist/NAME.filelist.list                what --file_list of the training scripts takes

with the same sources, weights, order and repeats. Images are cropped at their centre, as --center_crop does, and not
mirrored: a run on the cache is the run on the images with --center_crop and without --random_flip, step for step. The
format is in ppsd/formats/latents.py. Computes in float32.

Started again, it goes on where it was stopped or killed: a part that is there and was made from the same
file with the same models and flags is kept. On several devices:

    python -m paddle.distributed.launch --gpus 0,1,2,3 tools/cache_latents.py ...

The exit code is 1 when no record could be used, when a model or a list could not be read, and when nothing could be
written. Parts that cannot be read are counted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, get_type_hints

from ppsd import compat  # isort: skip  before paddle

import paddle
from ppdiffusers import AutoencoderKL
from ppdiffusers.transformers import AutoTokenizer, CLIPTextModel
from tqdm import tqdm

from ppsd.data.command_line import Parser, add_remote_flags, available_cpus, failed, natural, positive, run_tool
from ppsd.data.config import StreamConfig
from ppsd.formats.filelist import FILELIST_SUFFIX, LIST_SUFFIX
from ppsd.formats.latent_layout import LatentLayout
from ppsd.formats.latent_rows import DTYPES
from ppsd.formats.layout import check_name
from ppsd.models.loading import load_component
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.latent_cache import TextEncoder
from ppsd.trainers.latent_parts import LatentParts, Speed

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
    add("--batch_size", type=positive, default=16, help="Images encoded at a time. Default: %(default)s.")
    add("--num_workers", type=natural, default=available_cpus(), help="Threads that decode. Default: one a CPU.")
    add("--device", help="gpu, gpu:1, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")
    add_remote_flags(parser)
    add("--disable_tqdm", action="store_true", help="No progress bar.")
    return parser.parse_args(argv)


_SHARED: dict[Any, tuple[str, ...]] = {
    ModelArguments: (
        "pretrained_model_name_or_path",
        "vae_name_or_path",
        "text_encoder_name_or_path",
        "tokenizer_name",
        "model_max_length",
        "max_token_length",
        "clip_skip",
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
    whole = get_type_hints(arguments)[name] in (int, Optional[int])
    kind: Any = positive if whole else {float: float}.get(type(field.default), str)
    default = "" if field.default is None else " Default: %(default)s."
    parser.add_argument(f"--{name}", type=kind, default=field.default, help=shown + default)


def load(args: argparse.Namespace) -> LatentParts:
    """Networks and file list. Raises ValueError naming the flag for what cannot be loaded or used."""
    config = StreamConfig(
        **{name: getattr(args, name) for name in _SETTINGS},
        dialect=args.data_format,
        max_length=args.model_max_length,
        max_token_length=args.max_token_length,
        center_crop=True,
        random_flip=False,
        caption_dropout_rate=0.0,
    )
    name = args.output_name or _stem(args.file_list)
    check_name(name)
    vae = _component(args, AutoencoderKL, "vae", "vae_name_or_path")
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if args.resolution % factor:
        raise ValueError(f"--resolution {args.resolution} is not a multiple of {factor}, which this VAE needs")
    for flag in () if args.cache_text_encoder else ("max_token_length", "clip_skip"):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag} is for --cache_text_encoder: without it no caption is encoded")
    text = _load_text_encoder(args) if args.cache_text_encoder else None
    speed = Speed(args.batch_size, args.num_workers)
    return LatentParts(config, LatentLayout(args.output_path, name), vae, text, args.dtype, speed)


def _load_text_encoder(args: argparse.Namespace) -> TextEncoder:
    encoder = _component(args, CLIPTextModel, "text_encoder", "text_encoder_name_or_path")
    length, longest = args.model_max_length, encoder.config.max_position_embeddings
    if length > longest:
        raise ValueError(f"--model_max_length is {length}; the text encoder takes at most {longest}")
    tokenizer = _component(args, AutoTokenizer, "tokenizer", "tokenizer_name", model_max_length=length)
    return TextEncoder(encoder, tokenizer, args.clip_skip)


def _component(args: argparse.Namespace, cls: Any, folder: str, flag: str, **kwargs: Any) -> Any:
    """From the folder that its own flag names, else from the pipeline."""
    path = getattr(args, flag)
    if path is not None:
        return load_component(cls, path, None, f"--{flag}", **kwargs)
    pipeline = args.pretrained_model_name_or_path
    return load_component(cls, pipeline, folder, "--pretrained_model_name_or_path", **kwargs)


def _stem(file_list: str) -> str:
    name = Path(file_list).name
    return next((name[: -len(end)] for end in (LIST_SUFFIX, FILELIST_SUFFIX) if name.endswith(end)), name)


def run(args: argparse.Namespace) -> int:
    """Make this process's parts; the first process writes the lists when all parts of all processes are there."""
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    _set_device(args.device)
    begin = time.monotonic()
    parts = load(args)
    parts.layout.prepare()
    names = list(parts.numbers)
    kept = _make(names[rank::world], parts, disable=args.disable_tqdm or rank > 0)
    if args.dtype != "float32":
        moments, hidden = parts.rounding
        print(f"{args.dtype}: largest rounding error of the moments {moments:.2g}, of the hidden states {hidden:.2g}")
    if rank > 0:
        return 0
    _wait_for([name for i, name in enumerate(names) if i % world], parts, disable=args.disable_tqdm)
    if kept:
        print(f"{kept} parts were there already, made from the same files with the same models and flags")
    return _finish(parts, time.monotonic() - begin)


def _set_device(device: Optional[str]) -> None:
    """Of several GPUs, the one that the launcher gives this process."""
    name = device or paddle.get_device().split(":")[0]
    try:
        paddle.set_device(name)
        if ":" not in name and name != "cpu" and paddle.distributed.get_world_size() > 1:
            paddle.set_device(f"{name}:{paddle.distributed.ParallelEnv().device_id}")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--device {name}: {error}") from error


def _make(names: list[str], parts: LatentParts, disable: bool) -> int:
    """Make these parts but for those that are there already; returns how many are."""
    kept = 0
    records = tqdm(unit=" records", desc="Encoding", disable=disable)
    with records, tqdm(total=len(names), unit=" parts", desc="Parts", disable=disable) as bar:
        for name in names:
            if parts.is_made(name):
                kept += 1
            else:
                parts.make(name, on_record=records.update)
            bar.update()
    return kept


def _wait_for(names: list[str], parts: LatentParts, disable: bool) -> None:
    """Until the other processes have made these parts: however long that takes, and whatever machine they are on."""
    with tqdm(total=len(names), unit=" parts", desc="Other devices", disable=disable or not names) as bar:
        for name in names:
            while not parts.is_made(name):
                time.sleep(_LOOK_AGAIN_SECONDS)
            bar.update()


def _finish(parts: LatentParts, seconds: float) -> int:
    """Write the lists, say what became of the records; returns the exit code."""
    tally = parts.tally()
    if tally.skipped:
        print(tally)
    if not tally.used:
        return failed(__file__, "not one record could be used")
    parts.write_lists()
    count = len(parts.numbers)
    num_bytes = sum(parts.layout.part(number).stat().st_size for number in parts.numbers.values())
    print(f"{tally.used} records in {count} parts, {num_bytes / 1e6:.1f} MB, in {seconds:.1f} s")
    unlisted = parts.layout.unlisted_parts(count)
    if unlisted:
        print(f"Left from an earlier run and not in the list: {len(unlisted)} parts, e.g. {unlisted[0]}")
    print(f"File list: {parts.layout.file_list}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
