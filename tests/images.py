"""Tiny images, part files and real photographs for tests. Everything is a function of its arguments."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppsd.data.decode import decode_shrunk
from ppsd.types import BadRecord


def noise_image(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """An RGB image of seeded low-frequency noise, which survives JPEG."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    """`image` as the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg_bytes(width: int = 64, height: int = 64, seed: int = 0) -> bytes:
    """A JPEG file of seeded noise."""
    return encode(noise_image(width, height, seed), quality=90)


def png_header_bytes(width: int, height: int) -> bytes:
    """A PNG file whose header claims width x height pixels and that holds none: a decompression bomb when large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def part_line(caption: str | bytes, image: bytes, placeholder: bytes = b"NONE") -> bytes:
    """One line of a LAION part, with its line ending."""
    text = caption.encode("utf-8") if isinstance(caption, str) else caption
    return b"\t".join([text, placeholder, base64.b64encode(image)]) + b"\n"


def write_lines(path: Path, lines: Iterable[bytes], compress: bool = False) -> Path:
    """A part file of exactly these lines; returns `path`."""
    data = b"".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return path


def write_parts(
    folder: Path, records_per_part: Sequence[int], width: int = 64, height: int = 64, name: str = "set"
) -> Path:
    """Parts of seeded JPEGs, record i of part p with the caption `{name} {p} {i}`, and their file list.

    Returns the path of `{name}.filelist.list`; all paths in it are absolute.
    """
    parts = []
    for p, count in enumerate(records_per_part):
        lines = [part_line(f"{name} {p} {i}", jpeg_bytes(width, height, seed=1000 * p + i)) for i in range(count)]
        parts.append(write_lines(folder / name / f"part-{p + 1:06d}", lines))
    return write_lists(folder, {name: parts})


def write_lists(folder: Path, sources: dict[str, Sequence[Path]], weights: Sequence[float] | None = None) -> Path:
    """One filelist per source and the list over them, named after the first source; returns the list's path."""
    rows = []
    for index, (name, parts) in enumerate(sources.items()):
        filelist = folder / f"{name}.filelist"
        filelist.write_text("".join(f"{part.absolute()}\n" for part in parts), encoding="utf-8")
        rows.append(f"{filelist.absolute()}" + (f" {weights[index]}" if weights else ""))
    file_list = folder / f"{next(iter(sources))}.filelist.list"
    file_list.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return file_list


def photographs() -> dict[str, bytes]:
    """Real photographs by name, as the bytes of their JPEG and PNG files; scikit-image and scikit-learn ship them."""
    import skimage.data
    import sklearn.datasets

    folders = [Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"]
    names = {"astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "flower.jpg"}
    return {
        path.name: path.read_bytes() for folder in folders for path in sorted(folder.iterdir()) if path.name in names
    }


def decode_pixels(data: bytes, **limits: int) -> np.ndarray | BadRecord:
    """RGB uint8 [H,W,3] as training decodes it, whole."""
    pixels = decode_shrunk(data, **limits)
    return pixels if isinstance(pixels, BadRecord) else pixels.array
