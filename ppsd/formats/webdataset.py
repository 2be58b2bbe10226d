"""Tar files as webdataset and img2dataset write them: files of one name up to the first dot are one example.

    000012.jpg   the image: jpg, jpeg, png, webp ...
    000012.txt   its caption
    000012.json  more about it, or the caption, too: "caption", "text", "txt", "TEXT" or a list "captions"

Other keys of the JSON are the record's meta, and so is `.cls`. A further image `mask` is 000012.mask.png (or another
extension of images). Other files are passed over. The tar may be gzip.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Optional, Union

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.byte_reader import byte_reader
from ppsd.formats.extras import CAPTION_KEYS, extras_json, further_captions, further_images, split_row, without
from ppsd.formats.image_bytes import IMAGE_EXTENSIONS, check_size, image_extension
from ppsd.formats.inflate import PIECE_BYTES, CorruptGzip, deflated_if
from ppsd.formats.laion import CORRUPT_GZIP, EMPTY_PART, TRUNCATED_GZIP, UNREADABLE_PART
from ppsd.formats.lines import NO_CAPTION, decode_text, excerpt, parse_object
from ppsd.formats.opening import open_input
from ppsd.formats.tar import BadTar, TarReader
from ppsd.types import BadRecord, Record

NO_IMAGE = "no image"
TEXT_TOO_LARGE = "text file too large"
DUPLICATE_MEMBER = "duplicate member"
MAX_TEXT_BYTES = 2**20
MAX_LABEL_DIGITS = 18

Line = tuple[int, Union[Record, BadRecord]]


def read_tar(
    path: PathLike,
    start: int = 0,
    *,
    every: int = 1,
    offset: int = 0,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """The examples of a tar with their numbers, by the contract of ppsd.formats.laion.read_part.

    image_column: the extension of the image, or several with semicolons between; caption_column: the extension of the
    caption, or its key in the JSON. more_images: further images that the meta shall have, by name or by extension.
    """
    try:
        raw = open_input(path)
    except OSError as error:
        yield 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))
        return
    with raw:
        yield from read_members(raw, b"", start, every, offset, image_column, caption_column, more_images)


def read_members(
    raw: BinaryIO,
    head: bytes,
    start: int,
    every: int,
    offset: int,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """As read_tar, of an open file of which `head` has been read already."""
    number, key, reading = 0, None, False
    example: Optional[_Example] = None
    failure: Optional[BadRecord] = None
    try:
        source = byte_reader(raw, head or raw.read(PIECE_BYTES))
        tar = TarReader(source)
        while (member := tar.next()) is not None:
            member_key, extension = split_name(member.name)
            if not extension:
                continue
            if member_key != key:
                if example is not None:
                    yield number, example.record()
                key, number = member_key, number + 1
                wanted = number > start and (number - 1) % every == offset
                example = _Example(member_key, image_column, caption_column, more_images) if wanted else None
            if example is not None:
                reading = True
                example.add(extension, member.size, tar)
                reading = False
        source.skip(sys.maxsize)  # the checksum of gzip is at its end
    except (BadTar, EOFError, CorruptGzip, OSError) as error:
        failure = _failure(error)
        if reading:  # the example is not whole; the failure stands in its place
            number, example = number - 1, None
    if example is not None:
        yield number, example.record()
    if failure is not None or number == 0:
        yield number + 1, failure or BadRecord(EMPTY_PART, "no file in it that belongs to an example")


def split_name(name: str) -> tuple[str, str]:
    """The key of a file's example, with its folder, and the extension; that is "" for a file that belongs to none."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and not folder.startswith("__") else ("", "")


def _failure(error: Exception) -> BadRecord:
    if isinstance(error, BadTar):
        return BadRecord(error.reason, str(error))
    if isinstance(error, EOFError):
        return BadRecord(TRUNCATED_GZIP, "the file ends within the compressed data")
    if isinstance(error, CorruptGzip):
        return BadRecord(CORRUPT_GZIP, str(error))
    assert isinstance(error, OSError)
    return BadRecord(UNREADABLE_PART, error.strerror or str(error))


class _Example:
    """The files of one key, of which only those that are needed are read."""

    def __init__(
        self, key: str, image_column: Optional[str], caption_column: Optional[str], more_images: Sequence[str]
    ) -> None:
        self._key = key
        self._further = {
            extension: name
            for name in more_images
            for extension in (name.lower(), *(f"{name.lower()}.{kind}" for kind in IMAGE_EXTENSIONS))
        }
        self._more: dict[str, bytes] = {}
        self._caption_column = caption_column
        self._image_names = tuple(image_column.lower().split(";")) if image_column else IMAGE_EXTENSIONS
        self._text_names = ("txt", "json", "cls", *([caption_column.lower()] if caption_column else []))
        self._files: dict[str, bytes] = {}
        self._bad: Optional[BadRecord] = None

    def add(self, extension: str, size: int, tar: TarReader) -> None:
        further = self._further.get(extension) if self._further else None
        is_image = extension in self._image_names
        if not is_image and extension not in self._text_names and further is None:
            return
        file = f"{self._key}.{extension}"
        bad = check_size(size, file) if is_image or further is not None else None
        if size > MAX_TEXT_BYTES and not is_image and further is None:
            bad = BadRecord(TEXT_TOO_LARGE, f"{file}: {size} bytes, the limit is {MAX_TEXT_BYTES}")
        if bad is not None:
            self._bad = bad
        elif extension in self._files or further in self._more:
            what = file if further is None else f"{self._key}.{further}"
            self._bad = BadRecord(DUPLICATE_MEMBER, f"{what} is there more than once")
        elif further is not None and not is_image:
            self._more[further] = tar.read()
        else:
            self._files[extension] = tar.read()

    def record(self) -> Record | BadRecord:
        if self._bad is not None:
            return self._bad
        image = next((self._files[name] for name in self._image_names if name in self._files), None)
        if image is None:
            return self._lacks(NO_IMAGE)
        row = self._row()
        captions = row if isinstance(row, BadRecord) else self._captions(row)
        if isinstance(captions, BadRecord):
            return captions
        caption, meta, more_captions = captions
        return Record(image, caption, {**meta, **self._more} if self._more else meta, more_captions)

    def _row(self) -> dict[str, Any] | BadRecord:
        text = decode_text(self._files.get("json", b"{}"))
        row = text if isinstance(text, BadRecord) else parse_object(text)
        if isinstance(row, BadRecord):
            return BadRecord(row.reason, f"{self._key}.json: {row.detail}")
        if "cls" in self._files:
            label = self._files["cls"].decode("utf-8", "replace").strip()
            is_number = label.isdecimal() and len(label) <= MAX_LABEL_DIGITS
            row.setdefault("cls", int(label) if is_number else label)
        return row

    def _captions(self, row: dict[str, Any]) -> tuple[str, dict[str, Any], tuple[str, ...]] | BadRecord:
        """Caption, meta and further captions."""
        name = (self._caption_column or "txt").lower()
        if "txt" in self._files and name != "txt":
            row = {"txt": self._files["txt"].decode("utf-8", "surrogateescape"), **row}
        if name not in self._files or name == "json":
            found = split_row(row, self._caption_column)
            if isinstance(found, BadRecord):
                return self._lacks(NO_CAPTION) if "json" not in self._files else found
            return found[0], found[2], found[1]
        caption = decode_text(self._files[name].rstrip(b"\r\n"))
        if isinstance(caption, BadRecord):
            return caption
        caption = caption.lstrip("\ufeff")
        return caption, without(row, CAPTION_KEYS), further_captions(row, CAPTION_KEYS, caption)

    def _lacks(self, reason: str) -> BadRecord:
        return BadRecord(reason, f"{excerpt(self._key)} has {', '.join(sorted(self._files)) or 'nothing that is read'}")


def write_tar(path: PathLike, records: Iterable[Record], gzip: bool = False, prefix: str = "", first: int = 1) -> int:
    """Write a tar, whole or not at all; returns the number of records. The bytes are a function of the arguments.

    The example's key is `prefix` and a number of 6 digits, from `first` on. There is JSON where the record has meta or
    further captions.
    """
    count = 0
    with atomic_write(path) as file, deflated_if(gzip, file) as out, _archive(out) as tar:
        for count, record in enumerate(records, start=1):
            key = f"{prefix}{first + count - 1:06d}"
            for extension, data in _files_of(record):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return count


def _archive(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)


def _files_of(record: Record) -> Iterator[tuple[str, bytes]]:
    if not record.image:
        raise ValueError(f"record without an image: caption {record.caption[:60]!r}")
    yield image_extension(record.image), record.image
    yield "txt", record.caption.encode()
    for name, data in further_images(record).items():
        if not name or "/" in name or name != name.lower():
            raise ValueError(f"a tar has no place for an image {name!r}: its name must be lower case, without slashes")
        yield f"{name}.{image_extension(data)}", data
    extras = extras_json(record)
    if extras:
        yield "json", extras.encode()
