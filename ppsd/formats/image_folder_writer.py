"""Writing a folder of images with metadata.jsonl, as ppsd, diffusers and Hugging Face datasets read them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.extras import further_images, plain
from ppsd.formats.image_bytes import image_extension
from ppsd.formats.items import IMAGE_COLUMNS
from ppsd.formats.layout import remove_part
from ppsd.formats.lines import json_line
from ppsd.types import Record

METADATA = "metadata.jsonl"
_OWN_KEYS = ("file_name", "text", "captions")


def write_folder(path: PathLike, records: Iterable[Record]) -> int:
    """Write a folder, whole or not at all, in the place of one that is there; returns the number of records.

    Images are 000001.jpg and so on. An image in a record's meta (its mask, say), as bytes or by a path, becomes
    000001.mask.png. Meta under a name that the format gives another meaning is left out: file_name, and IMAGE_COLUMNS
    that are no image.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        count = 0
        with atomic_write(temporary / METADATA) as metadata:
            for count, record in enumerate(records, start=1):
                _write_record(temporary, f"{count:06d}", record, metadata)
        remove_part(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return count


def _write_record(folder: Path, stem: str, record: Record, metadata: BinaryIO) -> None:
    if not record.image:
        raise ValueError(f"record without an image: caption {record.caption[:60]!r}")
    name = f"{stem}.{image_extension(record.image)}"
    (folder / name).write_bytes(record.image)
    row: dict[str, Any] = {"file_name": name, "text": record.caption}
    if record.more_captions:
        row["captions"] = list(record.more_captions)
    for key, data in further_images(record).items():
        row[key] = f"{stem}.{key}.{image_extension(data)}"
        (folder / row[key]).write_bytes(data)
    for key, value in sorted(record.meta.items()):
        if key in IMAGE_COLUMNS and isinstance(value, Path):
            row[key] = f"{stem}.{key}{value.suffix}"
            shutil.copyfile(value, folder / row[key])
        elif key not in (*_OWN_KEYS, *IMAGE_COLUMNS) and plain(value) is not None:
            row[key] = plain(value)
    metadata.write(json_line(row))
