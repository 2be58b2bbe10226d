"""The data tools on parts at URLs: the same results, and parts kept in --data_cache_dir, also by worker processes."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppsd.formats import remote_settings
from tests.formats.bad_server import BadServer
from tests.images import jpeg_bytes, part_line, write_parts

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def url_list(tmp_path: Path) -> Iterator[Path]:
    """A filelist of two parts at a server."""
    server = BadServer()
    parts = sorted((write_parts(tmp_path / "parts", [3, 4]).parent / "set").iterdir())
    file_list = tmp_path / "remote.filelist"
    file_list.write_text("".join(f"{server.add(part.name, part.read_bytes())}\n" for part in parts))
    yield file_list
    server.close()
    remote_settings.configure(cache_dir=None, cache_gb=20.0)


def flags(tool: str, file_list: Path, folder: Path) -> list[str]:
    if tool == "inspect_data.py":
        return ["--file_list", str(file_list), "--resolution", "64", "--report", str(folder / "report.html")]
    return ["--input", str(file_list), "--output_format", "webdataset", "--output_path", str(folder / "out")]


@pytest.mark.parametrize("tool", ["inspect_data.py", "convert_dataset.py"])
def test_parts_at_urls_are_kept(tool: str, url_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    main = runpy.run_path(str(TOOLS / tool), run_name="tool")["main"]
    options = ["--num_workers", "1", "--data_cache_dir", str(cache), "--disable_tqdm"]
    assert main([*flags(tool, url_list, tmp_path), *options]) == 0
    assert "7" in capsys.readouterr().out
    kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    assert kept >= sum(part.stat().st_size for part in (tmp_path / "parts" / "set").iterdir())


@pytest.mark.parametrize("tool", ["inspect_data.py", "convert_dataset.py"])
def test_signatures_of_urls_are_not_shown(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = BadServer()
    url = server.add("part-1", part_line("a cat", jpeg_bytes(80, 80)) + b"one column\n")
    file_list = tmp_path / "remote.filelist"
    file_list.write_text(f"{url}?sig=secret\n{url[:-1]}2?sig=secret\n")
    main = runpy.run_path(str(TOOLS / tool), run_name="tool")["main"]
    assert main([*flags(tool, file_list, tmp_path), "--num_workers", "0", "--disable_tqdm"]) == 0
    server.close()
    shown = "".join(capsys.readouterr())
    shown += "".join(page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html"))
    assert "part-1?...:2 1 of 3" in shown
    assert "part-2?...: not found" in shown
    assert "secret" not in shown


@pytest.mark.parametrize("tool", ["inspect_data.py", "convert_dataset.py"])
def test_wrong_cache_flags(tool: str, url_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    main = runpy.run_path(str(TOOLS / tool), run_name="tool")["main"]
    assert main([*flags(tool, url_list, tmp_path), "--data_cache_dir", str(tmp_path / "file")]) == 1
    assert "--data_cache_dir" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*flags(tool, url_list, tmp_path), "--data_cache_gb", "0"])
    assert "'0' is not a number above 0" in capsys.readouterr().err
