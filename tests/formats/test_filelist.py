from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from ppsd.formats.filelist import Source, read_file_list, relative_entry, write_file_list, write_filelist


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
    with pytest.raises(FileNotFoundError, match=rf"{name}: file list not found"):
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
