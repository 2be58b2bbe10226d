"""Parquet files with the bytes of images, as img2dataset and Hugging Face datasets write them.

The image is in a column of bytes (`jpg`, `png`, `webp`, `image` ...) or of structs {bytes, path}, the caption in one
of text or of lists of texts (`caption`, `text` ...). Other columns are the record's meta, but for those of bytes that
are not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Optional, Union

from ppsd.formats.atomic import PathLike
from ppsd.formats.extras import CAPTION_KEYS, further_captions, plain, split_row, without
from ppsd.formats.image_bytes import check_size
from ppsd.formats.laion import EMPTY_PART, UNREADABLE_PART
from ppsd.formats.lines import NOT_TEXT, parse_object
from ppsd.formats.opening import open_input
from ppsd.types import BadRecord, Record

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes")
MORE_META = "meta_json"
"""A column of JSON objects: the meta that has no column of its own (see ppsd.formats.parquet_writer)."""

CORRUPT_PARQUET = "corrupt parquet"
MISSING_COLUMN = "missing column"
NO_IMAGE_BYTES = "no image bytes"
BATCH_ROWS = 16
BUFFER_BYTES = 2**20

Line = tuple[int, Union[Record, BadRecord]]


def read_parquet(
    path: PathLike,
    start: int = 0,
    *,
    every: int = 1,
    offset: int = 0,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """The rows of a parquet file with their numbers, by the contract of ppsd.formats.laion.read_part.

    One page of the file and a few rows are held at a time. Row groups that are passed over are not read. A row group
    that cannot be read (on) ends with one BadRecord at its last row. more_images: columns of further images that the
    meta shall have.
    """
    import pyarrow as pa  # not needed for other parts, and large

    last = 0
    try:
        with open_input(path, seekable=True) as raw:
            watched = _Watched(raw)
            try:
                columns = image_column, caption_column, more_images
                for last, record in _read(watched, start, every, offset, *columns):
                    yield last, record
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                if watched.failure is not None:
                    raise watched.failure from None
                yield last + 1, BadRecord(CORRUPT_PARQUET, _one_line(error))
    except OSError as error:
        yield last + 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))


class _Watched:
    """A file that remembers why it could not be read: pyarrow, too, raises OSError for what it finds in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: Optional[OSError] = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """The file belongs to who opened it."""


def _read(
    raw: _Watched,
    start: int,
    every: int,
    offset: int,
    image_column: Optional[str],
    caption_column: Optional[str],
    more_images: Sequence[str],
) -> Iterator[Line]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    source = pa.PythonFile(raw, mode="r")
    file = ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    columns = _Columns.of(file.schema_arrow, image_column, caption_column, more_images)
    if isinstance(columns, BadRecord) or file.metadata.num_rows == 0:
        yield 1, columns if isinstance(columns, BadRecord) else BadRecord(EMPTY_PART, "no row in it")
        return
    before = 0
    for group in range(file.metadata.num_row_groups):
        end = before + file.metadata.row_group(group).num_rows
        if end > start:
            try:
                yield from _read_group(file, group, before, columns, start, every, offset)
            except (pa.ArrowException, OSError) as error:
                if raw.failure is not None:
                    raise
                yield end, BadRecord(CORRUPT_PARQUET, f"rows {before + 1} to {end}: {_one_line(error)}")
        before = end


def _read_group(
    file: ParquetFile, group: int, before: int, columns: _Columns, start: int, every: int, offset: int
) -> Iterator[Line]:
    import pyarrow as pa

    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns.names, use_threads=False):
        numbers = range(before + 1, before + batch.num_rows + 1)
        wanted = [number for number in numbers if number > start and (number - 1) % every == offset]
        if wanted:
            images = {name: _image_bytes(batch.column(name)) for name in columns.images}
            indices = [number - before - 1 for number in wanted]
            rows = _rows(batch.drop_columns(columns.images).take(pa.array(indices)))
            for number, index, row in zip(wanted, indices, rows):
                data = {name: column[index].as_py() for name, column in images.items()}
                yield number, row if isinstance(row, BadRecord) else columns.record(data, row)
        before += batch.num_rows


def _image_bytes(column: pa.Array) -> pa.Array:
    """A column of images without their paths, which need not be text."""
    from pyarrow import compute, types

    return compute.struct_field(column, "bytes") if types.is_struct(column.type) else column


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | BadRecord]:
    """The rows of a batch; one that has no text where there should be some does not cost the others."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [BadRecord(NOT_TEXT, str(error))]
    return [row for index in range(batch.num_rows) for row in _rows(batch.slice(index, 1))]


class _Columns:
    """Which columns of a file hold what. images: that of the image first."""

    def __init__(self, images: list[str], texts: list[str], caption: Optional[str]) -> None:
        self.names = [*images, *texts]
        self.images = images
        self._caption = caption

    @staticmethod
    def of(
        schema: pa.Schema, image_column: Optional[str], caption_column: Optional[str], more_images: Sequence[str]
    ) -> _Columns | BadRecord:
        images = [field.name for field in schema if _holds_image(field.type)]
        image = next(
            (name for name in (IMAGE_COLUMNS if image_column is None else [image_column]) if name in images), None
        )
        texts = [field.name for field in schema if field.name != image and not _holds_bytes(field.type)]
        if image is None:
            return _missing("image", image_column or " or ".join(IMAGE_COLUMNS), schema)
        if not any(name in texts for name in (CAPTION_KEYS if caption_column is None else [caption_column])):
            return _missing("caption", caption_column or " or ".join(CAPTION_KEYS), schema)
        further = [name for name in more_images if name in images and name != image]
        return _Columns([image, *further], texts, caption_column)

    def record(self, images: dict[str, Optional[bytes]], row: dict[str, Any]) -> Record | BadRecord:
        image, *further = self.images
        data = images[image]
        if data is None:
            return BadRecord(NO_IMAGE_BYTES, f"column {image!r}")
        there = {name: file for name in further if (file := images[name]) is not None}
        for name, file in ((image, data), *there.items()):
            bad = check_size(len(file), f"column {name!r}")
            if bad is not None:
                return bad
        more = _more_meta(row.pop(MORE_META, None))
        if isinstance(more, BadRecord):
            return more
        found = split_row(plain(row), self._caption)
        if isinstance(found, BadRecord):
            return found
        caption, captions, meta = found
        captions = tuple(dict.fromkeys([*captions, *further_captions(more, CAPTION_KEYS, caption)]))
        return Record(data, caption, {**meta, **without(more, CAPTION_KEYS), **there}, captions)


def _more_meta(text: object) -> dict[str, Any] | BadRecord:
    if text is None:
        return {}
    return parse_object(str(text))


def _missing(what: str, names: str, schema: pa.Schema) -> BadRecord:
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return BadRecord(MISSING_COLUMN, f"no {what} column {names}; --{what}_column names another of: {there[:300]}")


def _holds_image(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether there are bytes anywhere in values of this type."""
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return _is_bytes(kind) or any(map(_holds_bytes, inner))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
