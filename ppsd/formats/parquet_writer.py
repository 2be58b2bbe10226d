"""Writing parquet in the layout of Hugging Face's image data sets: `image` {bytes, path}, `text`, then the meta.

`captions` has the further captions. Meta that is a number, a text or a boolean in all of the first rows that have it
gets a column of its own; everything else is in the column `meta_json`, so that nothing changes its type on the way.
Further images have columns like `image`, those that the first rows have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.extras import CAPTION_KEYS, further_images, plain
from ppsd.formats.lines import checked_text
from ppsd.formats.parquet import IMAGE_COLUMNS, MORE_META
from ppsd.types import Record

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 256
ROWS_PER_PAGE = 16  # a reader holds one page at least; 1024 rows of images would be large
MAX_GROUP_BYTES = 64 * 2**20
_RESERVED = frozenset({*CAPTION_KEYS, *IMAGE_COLUMNS, MORE_META})
_HUGGING_FACE = {"text": {"dtype": "string", "_type": "Value"}}


def write_parquet(path: PathLike, records: Iterable[Record]) -> int:
    """Write a parquet file, whole or not at all; returns the number of records. One row group is held at a time.

    The bytes are a function of the records and of pyarrow's version. Raises ValueError for a record without an image,
    and for a further image for which there is no column because no record of the first group has one.
    """
    from pyarrow.parquet import ParquetWriter

    groups = _groups(iter(records))
    first = next(groups, [])
    schema = _schema(first)
    count = 0
    # Images do not compress, and statistics of them would be copies in the footer.
    options: dict[str, Any] = {
        "write_page_checksum": True,
        "write_batch_size": ROWS_PER_PAGE,
        "compression": "snappy",
        "use_dictionary": False,
        "write_statistics": _columns_of_numbers(schema),
    }
    with atomic_write(path) as file, ParquetWriter(file, schema, **options) as writer:
        for group in chain([first], groups):
            writer.write_table(_table(group, schema), row_group_size=len(group) or None)
            count += len(group)
    return count


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    num_bytes = 0
    for record in records:
        if not record.image:
            raise ValueError(f"record without an image: caption {record.caption[:60]!r}")
        group.append(record)
        num_bytes += len(record.image)
        if len(group) == ROWS_PER_GROUP or num_bytes > MAX_GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _schema(group: list[Record]) -> pa.Schema:
    import pyarrow as pa

    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    seen: dict[str, set[type]] = {}
    for record in group:
        for key, value in plain(record.meta).items():
            if value is not None:
                seen.setdefault(key, set()).add(type(value))
    named = [(key, kinds[next(iter(types))]) for key, types in sorted(seen.items()) if _gets_column(key, types)]
    further = sorted({name for record in group for name in further_images(record)} - _RESERVED)
    pictures = [(name, image) for name in further]
    fields = [("image", image), ("text", pa.string()), ("captions", pa.list_(pa.string())), *pictures, *named]
    info = {"info": {"features": {**{name: {"_type": "Image"} for name in ("image", *further)}, **_HUGGING_FACE}}}
    return pa.schema([*fields, (MORE_META, pa.string())], metadata={"huggingface": json.dumps(info)})


def _gets_column(key: str, types: set[type]) -> bool:
    return len(types) == 1 and types <= {bool, int, float, str} and key not in _RESERVED and key.isidentifier()


def _columns_of_numbers(schema: pa.Schema) -> list[str]:
    from pyarrow import types

    return [field.name for field in schema if types.is_integer(field.type) or types.is_floating(field.type)]


def _table(group: list[Record], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([_row(record, schema) for record in group], schema)


def _row(record: Record, schema: pa.Schema) -> dict[str, Any]:
    row: dict[str, Any] = {"image": {"bytes": record.image, "path": None}, "text": record.caption}
    row["captions"] = list(record.more_captions) or None
    for name, data in further_images(record).items():
        if name in _RESERVED or schema.get_field_index(name) < 0:
            raise ValueError(f"record with a {name} where the first {ROWS_PER_GROUP} records of the part have none")
        row[name] = {"bytes": data, "path": None}
    rest = {}
    for key, value in plain(record.meta).items():
        column = schema.get_field_index(key)
        if column >= 0 and key not in _RESERVED and _fits(value, schema.field(column).type):
            row[key] = value
        else:
            rest[key] = value
    row[MORE_META] = json.dumps(rest, sort_keys=True) if rest else None
    return row


def _fits(value: Any, kind: pa.DataType) -> bool:
    from pyarrow import types

    if isinstance(value, bool):
        return types.is_boolean(kind)
    if isinstance(value, int):
        return types.is_integer(kind) and -(2**63) <= value < 2**63
    if isinstance(value, float):
        return types.is_floating(kind)
    return isinstance(value, str) and types.is_string(kind) and isinstance(checked_text(value), str)
