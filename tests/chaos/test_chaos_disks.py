"""Checkpoints that are damaged, folders that cannot be written to, disks that are full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.chaos.campaign import require_only_whole, require_same_end, undisturbed
from tests.chaos.outcome import finished_by
from tests.chaos.places import NoMounts, mounted, seen_by
from tests.chaos.recipe import Folders, Recipe
from tests.chaos.runners import Zygote

CHECKPOINTS = (3, 6, 9)


@pytest.fixture(scope="module")
def short(recipe: Recipe) -> Recipe:
    return replace(recipe, max_steps=12, save_steps=3, workers=[0], more={"save_total_limit": 9})


@pytest.fixture(scope="module")
def plain(zygote: Zygote, short: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return undisturbed(zygote, short, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture
def cut(plain: Folders, tmp_path: Path) -> Folders:
    """The run as it was after step 9."""
    folders = Folders.make(tmp_path / "cut")
    for step in CHECKPOINTS:
        shutil.copytree(plain.output / f"checkpoint-{step}", folders.output / f"checkpoint-{step}")
    shutil.copy(plain.work / "journal-0.jsonl", folders.work)
    return folders


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """One bit in the middle; the size stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def remove(file: Path) -> None:
    file.unlink()


DAMAGES = [
    (truncate, "*.safetensors"),
    (flip, "optimizer*.safetensors"),
    (flip, "unet/*.ema.safetensors"),
    (remove, "unet/*model.safetensors"),
    (flip, "data_position.json"),
    (truncate, "trainer_state.json"),
    (truncate, "COMPLETE"),
    (remove, "COMPLETE"),
]


@pytest.mark.parametrize(("damage", "pattern"), DAMAGES, ids=[f"{d.__name__} {p}" for d, p in DAMAGES])
def test_the_checkpoint_before_a_damaged_one_is_used(
    zygote: Zygote, short: Recipe, plain: Folders, cut: Folders, damage: Callable[[Path], None], pattern: str
) -> None:
    files = list((cut.output / "checkpoint-9").glob(f"**/{pattern}" if "/" not in pattern else pattern))
    assert files
    for file in files:
        damage(file)
    code, said = finished_by(zygote, cut.spec(short, 1), 1)
    assert code == (0,), said
    assert f"continuing from {cut.output / 'checkpoint-6'}" in said
    assert any("WARNING" in line and "checkpoint-9" in line for line in said.splitlines()), said
    require_only_whole(cut.output)
    require_same_end(short, cut, plain)


def test_two_damaged_ones_in_a_row(zygote: Zygote, short: Recipe, plain: Folders, cut: Folders) -> None:
    flip(cut.output / "checkpoint-9" / "data_position.json")
    remove(cut.output / "checkpoint-6" / "COMPLETE")
    code, said = finished_by(zygote, cut.spec(short, 1), 1)
    assert code == (0,), said
    assert f"continuing from {cut.output / 'checkpoint-3'}" in said
    require_same_end(short, cut, plain)


def test_a_damaged_one_that_is_asked_for_is_an_error(zygote: Zygote, short: Recipe, cut: Folders) -> None:
    flip(cut.output / "checkpoint-9" / "data_position.json")
    asked = replace(short, more={**short.more, "resume_from_checkpoint": cut.output / "checkpoint-9"})
    code, said = finished_by(zygote, cut.spec(asked, 1), 1)
    assert code == (1,)
    assert "error:" in said.splitlines()[-1]
    assert "data_position.json" in said.splitlines()[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Folders, int]]:
    """A run whose output folder is a disk of its own, of 16 MB, and the process that sees it."""
    folders = Folders.make(tmp_path / "run")
    folders.output.mkdir()
    try:
        with mounted(f"mount -t tmpfs -o size=16m chaos '{folders.output}'") as namespace:
            yield folders, namespace
    except NoMounts as error:
        pytest.skip(str(error))


def fill(output: Path, left_kb: int) -> str:
    """A shell command that leaves so much of the disk."""
    blocks = f"$(( $(df -k --output=avail '{output}' | tail -1) - {left_kb} ))"
    return f"dd if=/dev/zero of='{output}/filler' bs=1k count={blocks} status=none"


@pytest.mark.parametrize("when", ["5", "save 2"])
def test_a_full_disk_ends_the_run_with_one_line_and_costs_nothing_else(
    zygote: Zygote, short: Recipe, plain: Folders, small_disk: tuple[Folders, int], when: str
) -> None:
    """The second save finds no room, or gets halfway."""
    folders, namespace = small_disk
    options: dict[str, Any] = {"namespace": namespace}
    full = folders.spec(short, 0, commands={when: fill(folders.output, 100)}, **options)
    code, said = finished_by(zygote, full, 1)
    assert code == (1,), said
    assert "No space left on device" in said.splitlines()[-1], said
    assert "Traceback" not in said
    seen = seen_by(namespace, folders.output)
    require_only_whole(seen)
    assert not list(seen.glob(".saving/*/*"))  # what was half-written takes no room
    assert [path.name for path in seen.glob("checkpoint-*")] == ["checkpoint-3"]
    (seen / "filler").unlink()
    code, said = finished_by(zygote, folders.spec(short, 1, **options), 1)
    assert code == (0,), said
    assert f"continuing from {folders.output / 'checkpoint-3'}" in said
    require_same_end(short, replace(folders, output=seen), plain)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_may_go_on_saves_again_when_there_is_room(
    zygote: Zygote, short: Recipe, plain: Folders, small_disk: tuple[Folders, int], ranks: int, tmp_path: Path
) -> None:
    folders, namespace = small_disk
    going_on = replace(short, ranks=ranks, micro_batch=4 // ranks, more={**short.more, "on_save_error": "continue"})
    commands = {"save 2": fill(folders.output, 100), "8": f"rm '{folders.output}/filler'"}
    code, said = finished_by(zygote, folders.spec(going_on, 0, commands=commands, namespace=namespace), ranks)
    assert code == (0,) * ranks, said
    assert any("No space left" in line and "[ " in line for line in said.splitlines()), said
    seen = seen_by(namespace, folders.output)
    require_only_whole(seen)
    assert {path.name for path in seen.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-9", "checkpoint-12"}
    of_as_many = plain if ranks == 1 else undisturbed(zygote, going_on, tmp_path / "plain")
    require_same_end(going_on, replace(folders, output=seen), of_as_many)


def test_two_processes_both_end_when_the_disk_is_full(
    zygote: Zygote, short: Recipe, small_disk: tuple[Folders, int]
) -> None:
    folders, namespace = small_disk
    of_two = replace(short, ranks=2, micro_batch=2)
    full = folders.spec(of_two, 0, commands={"save 2": fill(folders.output, 100)}, namespace=namespace)
    code, said = finished_by(zygote, full, 2)
    assert all(code), said
    assert "No space left on device" in said
    require_only_whole(seen_by(namespace, folders.output))


def test_a_read_only_folder_is_an_error_before_anything_is_loaded(
    zygote: Zygote, short: Recipe, small_disk: tuple[Folders, int]
) -> None:
    folders, namespace = small_disk
    read_only = folders.spec(short, 0, namespace=namespace)
    code, said = finished_by(zygote, replace(read_only, before=f"mount -o remount,ro '{folders.output}'"), 1)
    assert code == (1,)
    assert said.splitlines()[-1] == f"error: --output_dir: cannot write to {folders.output}: Read-only file system"


def test_a_folder_that_becomes_read_only(
    zygote: Zygote, short: Recipe, plain: Folders, small_disk: tuple[Folders, int]
) -> None:
    """As a file system does after an error of its disk."""
    folders, namespace = small_disk
    remount = f"mount -o remount,{{}} '{folders.output}'"
    broken = folders.spec(short, 0, commands={"5": remount.format("ro")}, namespace=namespace)
    code, said = finished_by(zygote, broken, 1)
    assert code == (1,), said
    assert "Read-only file system" in said.splitlines()[-1], said
    require_only_whole(seen_by(namespace, folders.output))
    mended = folders.spec(short, 1, namespace=namespace, before=remount.format("rw"))
    code, said = finished_by(zygote, mended, 1)
    assert code == (0,), said
    require_same_end(short, replace(folders, output=seen_by(namespace, folders.output)), plain)
