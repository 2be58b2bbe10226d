"""A pretraining set of real photographs for benchmarks: gzip parts, the same records as tars and as cached latents.

The images are crops of the photographs that scikit-image and scikit-learn ship, 300 to 800 px a side, as JPEG of
quality 90; the captions are 5 to 20 words of an invented language whose words are as frequent as those of a real one.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppsd.formats.laion import write_part
from ppsd.formats.latents import write_latents
from ppsd.types import LatentRecord, Record
from tests.images import encode, photographs, write_lists

PER_PART = 125
COMMON_WORDS = 4000  # of these each is one token, as most words are to the tokenizer of CLIP


@dataclass(frozen=True)
class PhotoSet:
    """Where the parts of a set are, by the folder that holds them all."""

    folder: Path

    @property
    def file_list(self) -> Path:
        return self.folder / "photos.filelist.list"

    @property
    def tar_list(self) -> Path:
        return self.folder / "tars.filelist.list"

    @property
    def latent_list(self) -> Path:
        return self.folder / "latents.filelist.list"

    def parts(self, suffix: str) -> list[Path]:
        """The files of one kind, `.gz`, `.tar` or `.safetensors`, in order."""
        return sorted(self.folder.glob(f"part-*{suffix}"))


def make_set(folder: Path, num_images: int, resolution: int) -> PhotoSet:
    """Write gzip parts of 125 records as data preparation writes them, tars of the same records, made-up latents."""
    photos = PhotoSet(folder)
    records = make_records(num_images)
    for number, start in enumerate(range(0, num_images, PER_PART), 1):
        part = [next(records) for _ in range(min(PER_PART, num_images - start))]
        write_part(folder / f"part-{number:06d}.gz", part, gzip=True)
        _write_tar(folder / f"part-{number:06d}.tar", part)
        latents = [_with_moments(record, resolution, start + i) for i, record in enumerate(part)]
        write_latents(folder / f"part-{number:06d}.safetensors", enumerate(latents, 1), {"made": "up"})
    write_lists(folder, {"photos": photos.parts(".gz")})
    write_lists(folder, {"tars": photos.parts(".tar")})
    write_lists(folder, {"latents": photos.parts(".safetensors")})
    write_tokenizer(folder)
    return photos


def make_records(count: int) -> Iterator[Record]:
    """`count` records, the same ones at every call."""
    rng = random.Random(0)
    photos = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in sorted(photographs().items())]
    for _ in range(count):
        yield Record(encode(_crop(rng.choice(photos), rng), quality=90), _caption(rng))


def _crop(photo: Image.Image, rng: random.Random) -> Image.Image:
    width, height = rng.randint(300, 800), rng.randint(300, 800)
    scale = max(width / photo.width, height / photo.height)
    resized = photo.resize((max(width, round(photo.width * scale)), max(height, round(photo.height * scale))))
    left, top = rng.randint(0, resized.width - width), rng.randint(0, resized.height - height)
    return resized.crop((left, top, left + width, top + height))


def _caption(rng: random.Random) -> str:
    """5 to 20 words; word number n of a language is about 1 / n as frequent as the first."""
    ranks = [int(20000 ** rng.random()) for _ in range(rng.randint(5, 20))]
    return " ".join("".join(_syllables(rank)) for rank in ranks)


def _syllables(rank: int) -> list[str]:
    rng = random.Random(rank)
    return [rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(1 + len(str(rank)) // 2 + rank % 3)]


def _with_moments(record: Record, resolution: int, seed: int) -> LatentRecord:
    moments = np.random.default_rng(seed).standard_normal((8, resolution // 8, resolution // 8), dtype=np.float32)
    return LatentRecord(moments, record.caption)


def _write_tar(path: Path, records: Sequence[Record]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, record in enumerate(records):
            for suffix, data in (("jpg", record.image), ("txt", record.caption.encode())):
                member = tarfile.TarInfo(f"{path.stem[5:]}{number:04d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_tokenizer(folder: Path) -> None:
    """The files of a CLIP tokenizer to which each common word of the captions is one token."""
    ends = {f"{_syllables(rank)[-1]}</w>" for rank in range(1, COMMON_WORDS)}
    merges = {f"{syllable[0]} {syllable[1:]}": None for syllable in sorted(ends | {end[:2] for end in ends})}
    for rank in range(1, COMMON_WORDS):
        end, *others = reversed(_syllables(rank))
        end += "</w>"
        for syllable in others:
            merges[f"{syllable} {end}"] = None
            end = syllable + end
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer that `write_tokenizer` wrote."""
    from ppdiffusers.transformers import CLIPTokenizer

    names = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*names, max_len=77, model_max_length=77)
