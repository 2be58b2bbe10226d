from __future__ import annotations

import os
import pickle
import random
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fsspec
import pytest

from ppsd.formats import list_index
from ppsd.formats.filelist import (
    Source,
    read_file_list,
    read_filelist,
    relative_entry,
    write_file_list,
    write_filelist,
)
from ppsd.formats.list_index import names_digest
from ppsd.formats.part_list import PartList
from ppsd.formats.urls import beside_url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: `a.filelist` and `my set.filelist` of parts that exist, below `lists`."""
    monkeypatch.chdir(tmp_path)
    for name in ("parts/part-000001", "parts/part 2", "elsewhere/part-3", "parts/part-000001.gz"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("lists").mkdir()
    Path("lists/a.filelist").write_text("parts/part-000001\nparts/part 2\nparts/part-000001\n")
    Path("lists/my set.filelist").write_text("parts/part-000001.gz")
    return tmp_path


def listed(text: str, name: str = "lists/train.filelist.list", encoding: str = "utf-8") -> str:
    Path(name).write_bytes(text.encode(encoding))
    return name


A = ("parts/part-000001", "parts/part 2", "parts/part-000001")


def test_filelist_of_parts_is_one_source(folder: Path) -> None:
    assert read_file_list("lists/a.filelist") == [Source("a", A, None, "auto")]


def test_list_of_filelists_keeps_order_and_repeats(folder: Path) -> None:
    sources = read_file_list(listed("lists/my set.filelist\n\n  lists/a.filelist \r\n"), dialect="laion_aes")
    assert sources == [
        Source("my set", ("parts/part-000001.gz",), None, "laion_aes"),
        Source("a", A, None, "laion_aes"),
    ]


def test_weights(folder: Path) -> None:
    sources = read_file_list(listed("lists/my set.filelist 3\nlists/a.filelist  0.25\nlists/a.filelist 0"))
    assert [(source.name, source.weight) for source in sources] == [("my set", 3.0), ("a", 0.25), ("a", 0.0)]


def test_a_number_at_the_end_of_a_name_is_a_weight_only_if_the_rest_is_a_file(folder: Path) -> None:
    shutil.copy("lists/a.filelist", "lists/run 2")
    assert [(s.name, s.weight) for s in read_file_list(listed("lists/run 2"))] == [("run 2", None)]
    shutil.copy("lists/a.filelist", "lists/run")
    assert [(s.name, s.weight) for s in read_file_list(listed("lists/run 2"))] == [("run", 2.0)]


def test_paths_are_relative_to_the_working_directory_then_to_the_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed("a.filelist\n")
    Path("lists/a.filelist").write_text("beside\nparts/part 2\nnowhere/part\n")
    Path("lists/beside").touch()
    assert read_file_list("lists/train.filelist.list")[0].parts == ("lists/beside", "parts/part 2", "nowhere/part")
    Path("beside").touch()
    assert read_file_list("lists/train.filelist.list")[0].parts[0] == "beside"
    monkeypatch.chdir("lists")
    assert read_file_list(folder / "lists/train.filelist.list")[0].parts[0] == "beside"


def test_dot_dot_is_relative_to_the_list_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in ("one", "two"):
        for name in (f"{data}/parts/part-000001", f"{data}/filelist/{data}.filelist"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        write_filelist(f"{data}/filelist/{data}.filelist", ["../parts/part-000001"])
    monkeypatch.chdir("two/filelist")
    assert read_file_list("../../one/filelist/one.filelist")[0].parts == ("../../one/parts/part-000001",)


def test_part_that_is_not_there_is_named_from_the_working_directory(folder: Path) -> None:
    listed("../parts/gone\nparts/gone\n/gone\n", "lists/a.filelist")
    assert read_filelist("lists/a.filelist") == ["parts/gone", "parts/gone", "/gone"]


def test_relative_entries_survive_a_move_of_the_whole_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, filelist, file_list = Path("data/p/part-1"), Path("data/filelist/x.filelist"), "data/filelist/x.filelist.list"
    for path in (part, filelist):
        path.parent.mkdir(parents=True)
        path.touch()
    write_filelist(filelist, [relative_entry(part, filelist)])
    write_file_list(file_list, [relative_entry(filelist, file_list)])
    assert (filelist.read_text(), Path(file_list).read_text()) == ("../p/part-1\n", "../filelist/x.filelist\n")
    shutil.move("data", "moved")
    assert read_file_list("moved/filelist/x.filelist.list") == [Source("x", ("moved/p/part-1",))]
    monkeypatch.chdir("moved/filelist")
    assert Path(read_file_list("x.filelist.list")[0].parts[0]).samefile(folder / "moved/p/part-1")


def test_written_weights_are_read_back(folder: Path) -> None:
    write_file_list("w.filelist.list", ["lists/a.filelist", "lists/my set.filelist"], weights=[0.1, 1e-7])
    assert [source.weight for source in read_file_list("w.filelist.list")] == [0.1, 1e-7]


def test_byte_order_mark_and_chinese_paths(folder: Path) -> None:
    Path("数据").touch()
    Path("lists/中文.filelist").write_text("数据\n", encoding="utf-8-sig")
    sources = read_file_list(listed("lists/中文.filelist\n", encoding="utf-8-sig"))
    assert sources == [Source("中文", ("数据",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train.filelist.list: the file list is empty; expected the path of one filelist a line"),
        ("\n \n", r"the file list is empty"),
        ("lists/a.filelist 1\nlists/my set.filelist", r"train.filelist.list:2: no weight here"),
        ("lists/a.filelist\nlists/my set.filelist 1", r"train.filelist.list:1: no weight here"),
        ("lists/a.filelist 0\nlists/my set.filelist 0.0", r"train.filelist.list: all weights are 0"),
        ("lists/a.filelist -1", r"train.filelist.list:1: weight '-1': expected a finite number >= 0"),
        ("lists/a.filelist nan", r"weight 'nan'"),
        ("lists/a.filelist inf", r"weight 'inf'"),
        ("lists/a.filelist half", r"weight 'half'"),
        ("a cat\tNONE\tAAAA", r"train.filelist.list:1: not a path \(is this a part file\?\)"),
        ("lists/a.filelist\n" + "x" * 70_000, r"train.filelist.list:2: not a path"),
        ("lists/empty.filelist", r"lists/empty.filelist: the file list is empty; expected the path of one part a line"),
        ("lists", r"not found"),
    ],
)
def test_list_that_is_wrong(folder: Path, text: str, message: str) -> None:
    Path("lists/empty.filelist").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_file_list(listed(text))


@pytest.mark.parametrize("name", ["no.filelist", "no.filelist 0.5"])
def test_filelist_that_is_not_there(folder: Path, name: str) -> None:
    expected = (
        f"train.filelist.list:2: filelist 'no.filelist' not found (looked in {os.getcwd()} and in {folder}/lists)"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        read_file_list(listed(f"lists/a.filelist\n{name}\n"))


@pytest.mark.parametrize("name", ["gone.filelist.list", "gone.filelist"])
def test_list_that_is_not_there(folder: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name}: file list not found; .* --train_data_dir"):
        read_file_list(name)


def test_folder_or_binary_part_in_place_of_a_list(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"lists: is a folder; expected the path of a .filelist.list or .filelist"):
        read_file_list("lists")
    Path("part-1.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ValueError, match=r"part-1.gz:1: not a path"):
        read_file_list("part-1.gz")


def test_path_that_cannot_be_a_line_is_not_written(folder: Path) -> None:
    for entry in ("a\nb", " "):
        with pytest.raises(ValueError, match=r"x.filelist: .* cannot be a line"):
            write_filelist("x.filelist", [entry])
    assert not Path("x.filelist").exists()


def naive_entries(data: bytes) -> list[str]:
    """What a list names, by the plain definition: a line at a time."""
    lines = [line.decode("utf-8-sig").strip() for line in data.split(b"\n")]
    return [line for line in lines if line]


LINES = ["", " ", "\t", "\u3000", "\r", "a", "/a/b", "/a/数据", "x/part-000001.gz", " \ufeff p/q \t\r", "\ufeff/x/y"]
LINES += ["s3://bucket/k/part-1", "/folder/", "/folder//", "/c d/e\u00a0", "/a/b\r", "/ß/Ω\u2029", "/" + "n" * 300]


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 2**20])
@pytest.mark.parametrize("seed", range(6))
def test_list_names_what_its_lines_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, seed: int
) -> None:
    monkeypatch.setattr(list_index, "BLOCK_BYTES", block_bytes)
    rng = random.Random(seed)
    data = (
        "\n".join(rng.choice(LINES) for _ in range(rng.randint(1, 200))).encode() + b"\n/last"[: rng.choice([0, 1, 6])]
    )
    path = tmp_path / "x.filelist"
    path.write_bytes(data + (b"" if naive_entries(data) else b"one"))
    expected = naive_entries(path.read_bytes())
    parts = PartList(str(path), str)
    assert (len(parts), list(parts)) == (len(expected), expected)
    assert [parts[i] for i in range(len(expected))] == expected
    assert (parts[-1], parts[2:9]) == (expected[-1], tuple(expected[2:9]))
    assert parts.names_digest() == names_digest(expected)
    with pytest.raises(IndexError):
        parts[len(expected)]


def test_digest_is_of_the_names_in_their_order_and_of_nothing_else(tmp_path: Path) -> None:
    def digest(data: str, name: str = "x.filelist") -> str:
        (tmp_path / name).write_bytes(data.encode())
        return read_filelist(tmp_path / name).names_digest()

    same = ["/a/p-1\n/a/p-2\n", "p-1\np-2", "\ufeffs3://b/p-1\r\n\r\nx/y/p-2/ \r\n"]
    other = ["/a/p-2\n/a/p-1\n", "/a/p-1\n", "/a/p-1\n/a/p-2\n/a/p-2\n", "/a/p-1p\n/a/-2\n", "/a/p-1p-\n/a/2\n"]
    assert len({digest(text) for text in same}) == 1
    assert len({digest(text) for text in same[:1] + other}) == 1 + len(other)
    assert digest(same[0]) == names_digest(["/elsewhere/p-1", "p-2"])


@pytest.mark.parametrize("bad", ["/a\tb", "/a\0b", "/" + "x" * 70_000, "\udcff"])
@pytest.mark.parametrize("before", [0, 1, 1000, 70_000])
def test_the_line_that_is_no_path_is_named(tmp_path: Path, bad: str, before: int) -> None:
    path = tmp_path / "x.filelist"
    rows = [*(f"/data/part-{i}" for i in range(before)), bad, "/good", "/worse\t"]
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"x.filelist:{before + 1}: not a path \(is this a part file\?\)"):
        read_filelist(path)


def test_a_file_without_lines_is_refused_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "x.filelist", "wb") as file:
        file.truncate(2**40)  # sparse: reading it whole would take hours
    with pytest.raises(ValueError, match=r"x.filelist:1: not a path"):
        read_filelist(tmp_path / "x.filelist")


def test_parts_are_not_looked_up_before_they_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lists/a.filelist").write_text("parts/part-000001\nbeside\n" * 1000)
    looked_up: list[str] = []
    monkeypatch.setattr(os.path, "exists", lambda path: bool(looked_up.append(path)) or os.path.isfile(path))
    parts = read_filelist("lists/a.filelist")
    assert len(parts) == 2000
    assert looked_up == []
    Path("lists/beside").touch()
    assert parts[1999] == "lists/beside"
    assert looked_up == ["beside", "lists/beside"]


def test_a_part_may_be_a_folder(folder: Path) -> None:
    Path("lists/photos").mkdir()
    Path("lists/a.filelist").write_text("photos/\n")
    assert read_filelist("lists/a.filelist") == ["lists/photos"]


def test_list_that_changes_during_the_run_is_noticed_and_one_that_is_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.filelist"
    path.write_text("".join(f"/part-{i:03d}\n" for i in range(100)))
    parts = read_filelist(path)
    with open(path, "r+b") as file:
        file.seek(10 * 50)
        file.write(b"/tart")
    assert parts[3] == "/part-003"
    with pytest.raises(ValueError, match=r"x.filelist: changed while it was in use"):
        parts[50]
    again = read_filelist(path)
    write_filelist(path, ["/other"])
    assert again[50] == "/tart-050"


def test_list_is_read_in_forked_processes_and_through_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.filelist"
    path.write_text("".join(f"/part-{i:04d}\n" for i in range(2000)))
    parts = read_filelist(path)
    with ProcessPoolExecutor(2, mp_context=get_context("fork"), initializer=_inherit, initargs=(parts,)) as pool:
        assert list(pool.map(_inherited, range(2000), chunksize=10)) == [f"/part-{i:04d}" for i in range(2000)]
    copy = pickle.loads(pickle.dumps(parts))
    assert (copy == parts, copy.names_digest()) == (True, parts.names_digest())


def _inherit(parts: Sequence[str]) -> None:
    globals()["inherited"] = parts


def _inherited(index: int) -> str:
    return globals()["inherited"][index]


def test_urls_are_parts_and_lists_as_they_are(folder: Path) -> None:
    Path("lists/u.filelist").write_text("s3://bucket/a/part-1.gz\nhttps://host/p?x=1\n/abs\n")
    assert read_filelist("lists/u.filelist") == ["s3://bucket/a/part-1.gz", "https://host/p?x=1", "/abs"]
    files = fsspec.filesystem("memory")
    files.pipe("/set/lists/a.filelist", b"../parts/part-1\nmemory://else/part-2\n/abs/part-3\nbeside\n")
    files.pipe("/set/all.filelist.list", b"lists/a.filelist 2\nmemory://set/lists/a.filelist 0.5\n")
    expected = ("memory://set/parts/part-1", "memory://else/part-2", "/abs/part-3", "memory://set/lists/beside")
    sources = read_file_list("memory://set/all.filelist.list")
    assert sources == [Source("a", expected, 2.0), Source("a", expected, 0.5)]
    assert [source.weight for source in read_file_list(listed("memory://set/lists/a.filelist"))] == [None]
    with pytest.raises(ValueError, match=r"train.filelist.list:1: weight 'half': expected a finite number"):
        read_file_list(listed("memory://set/lists/a.filelist half"))
    with pytest.raises(FileNotFoundError, match=r"^memory://set/none.filelist: file list not found"):
        read_file_list("memory://set/none.filelist")


@pytest.mark.parametrize(
    ("url", "entry", "expected"),
    [
        ("s3://b/x/y.filelist", "p/q", "s3://b/x/p/q"),
        ("s3://b/x/y.filelist", "../q", "s3://b/q"),
        ("s3://b/y.filelist", "q", "s3://b/q"),
        ("s3://b/y.filelist", "../q", "s3://b/q"),
        ("http://h:1/x/y.filelist?sig=/a", "p q", "http://h:1/x/p q"),
        ("hdfs://host:8020/x/y.filelist", "./p", "hdfs://host:8020/x/p"),
    ],
)
def test_entry_beside_a_url(url: str, entry: str, expected: str) -> None:
    assert beside_url(url, entry) == expected
