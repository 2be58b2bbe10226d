from __future__ import annotations

from pathlib import Path

from ppsd.data.packing import pack
from ppsd.formats.items import FolderItem
from ppsd.formats.layout import Layout
from ppsd.formats.parts import read_any
from ppsd.types import Record
from tests.images import jpeg_bytes, part_line


def test_further_captions_are_packed_and_other_columns_are_not(tmp_path: Path) -> None:
    """However large those are; a record of one caption is a line of three columns."""
    image = tmp_path / "a.jpg"
    image.write_bytes(jpeg_bytes(8, 8))
    items = [
        ("a:1", FolderItem(image, "cat", {"notes": "x" * 2**20})),
        ("a:2", FolderItem(image, "cat", {"id": 1}, more_captions=("dog", "tom"))),
        ("a:3", FolderItem(image, "cat", more_captions=("x" * 2**18,))),
    ]
    packed = pack(items, Layout(tmp_path / "out", "set"), per_part=10)
    assert packed.tally.counts == {"meta too long": 1}
    (part,) = packed.parts
    line = part_line("cat", jpeg_bytes(8, 8))
    assert part.read_bytes() == line + line.rstrip(b"\n") + b'\t{"captions":["dog","tom"]}\n'
    assert [record for _, record in read_any(part)][1] == Record(jpeg_bytes(8, 8), "cat", {}, ("dog", "tom"))
