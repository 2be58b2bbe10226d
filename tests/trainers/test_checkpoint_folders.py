"""Which folders are checkpoints, what happens to the others, and that a kill at any moment leaves no half one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from ppsd.trainers import checkpoint as folders
from ppsd.trainers import manifest
from ppsd.trainers.checkpoint import (
    clean_leftovers,
    find_checkpoints,
    forget_run,
    named_checkpoints,
    publish,
    rotate,
    staged,
    take_place,
)
from ppsd.trainers.manifest import COMPLETE, checksum_fault, digest, fault, read_manifest
from ppsd.trainers.resuming import check_same_disk, choose_checkpoint, continuing_command, newest_step
from ppsd.trainers.run_state import STATE


def make(run: Path, step: int, text: str = "weights", told: str | None = None) -> Path:
    """A whole checkpoint of two files, or of three: told --resume_from_checkpoint."""
    with staged(run, f"checkpoint-{step}") as folder:
        (folder / "unet").mkdir()
        (folder / "unet" / "model").write_text(text)
        (folder / "state").write_text("state")
        if told is not None:
            (folder / STATE).write_text(json.dumps({"version": 1, "flags": {"resume_from_checkpoint": told}}))
        publish(folder, run / f"checkpoint-{step}", step, {})
    return run / f"checkpoint-{step}"


def names(found: list[Path]) -> list[str]:
    return [path.name for path in found]


def test_complete_lists_every_file(tmp_path: Path) -> None:
    made = make(tmp_path, 5)
    assert (read_manifest(made).step, set(read_manifest(made).files)) == (5, {"unet/model", "state"})
    (tmp_path / "known").write_text("123456789")
    assert digest(tmp_path / "known") == (9, 0xCBF43926)  # the check value of CRC-32
    (tmp_path / "known").unlink()
    assert read_manifest(made).files["unet/model"] == digest(made / "unet" / "model")
    assert (fault(made), checksum_fault(made)) == (None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]


def test_a_known_digest_is_not_computed_again(tmp_path: Path) -> None:
    with staged(tmp_path, "checkpoint-1") as folder:
        (folder / "a").write_text("abc")
        publish(folder, tmp_path / "checkpoint-1", 1, {folder / "a": digest(folder / "a")._replace(crc32=1)})
    assert fault(tmp_path / "checkpoint-1") is None
    assert checksum_fault(tmp_path / "checkpoint-1") == "a is damaged: its checksum differs"


def test_what_is_missing_cut_or_damaged_is_named(tmp_path: Path) -> None:
    file = make(tmp_path, 1) / "unet" / "model"
    file.write_text("Weights")
    assert (fault(file.parents[1]), checksum_fault(file.parents[1])) == (
        None,
        "unet/model is damaged: its checksum differs",
    )
    file.write_text("weight")
    assert fault(file.parents[1]) == checksum_fault(file.parents[1]) == "unet/model has 6 bytes instead of 7"
    file.unlink()
    assert fault(file.parents[1]) == "unet/model is missing"
    complete = make(tmp_path, 2) / COMPLETE
    complete.write_text(complete.read_text().replace('"version": 1', '"version": 9'))
    assert "version 9" in str(fault(complete.parent))
    for text in ("{", "[]", '{"version": 1, "step": 2, "files": []}', '{"version": 1, "files": {"state": [5]}}'):
        complete.write_text(text)
        assert "cannot be read" in str(fault(complete.parent))
    complete.unlink()
    assert fault(complete.parent) == "it has no COMPLETE file"


def only_first(rename: Callable[..., None]) -> Callable[..., None]:
    """The kill comes between the first renaming and the second."""
    calls: list[Any] = []

    def renaming(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) > 1:
            raise KeyboardInterrupt
        rename(*paths)

    return renaming


@pytest.mark.parametrize("killed_in", ["seal", "set_aside", "replace", "second replace", "rmtree"])
def test_a_kill_while_a_step_is_saved_again_leaves_no_half_checkpoint(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = make(tmp_path, 5, "old")
    make(tmp_path, 4)

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    staging = tmp_path / ".saving" / "checkpoint-5.12345678"
    staging.mkdir(parents=True)
    (staging / "model").write_text("new")
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        if killed_in == "second replace":
            patch.setattr(folders.os, "replace", only_first(os.replace))
        elif killed_in in ("seal", "set_aside"):
            patch.setattr(folders, killed_in, killed)
        else:
            patch.setattr(shutil if killed_in == "rmtree" else folders.os, killed_in, killed)
        publish(staging, final, 5, {})
    found = find_checkpoints(tmp_path)
    assert names(found) in (["checkpoint-4"], ["checkpoint-4", "checkpoint-5"])
    assert all(checksum_fault(path) is None for path in found)
    clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names(found)


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with suppress(OSError), staged(tmp_path, "checkpoint-1") as folder:
        (folder / "half").write_text("x")
        raise OSError("a full disk")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_keeps_its_name_when_the_new_one_cannot_have_it(tmp_path: Path) -> None:
    final = make(tmp_path, 5, "old")
    with pytest.raises(FileNotFoundError):
        take_place(tmp_path / "gone", final)
    assert checksum_fault(final) is None
    assert (final / "unet" / "model").read_text() == "old"


def test_only_what_a_run_left_behind_is_cleaned(tmp_path: Path) -> None:
    left = (".saving/checkpoint-1.12345678", ".checkpoint-3.0123abcd.old", ".unet.0123abcd.old")
    kept = (".mine.old", "checkpoint-3", ".git", "unet.old")
    for name in (*left, *kept):
        (tmp_path / name).mkdir(parents=True)
    clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    ("code", "file", "matters"), [(errno.EINVAL, "", False), (errno.EINVAL, "a", True), (5, "", True)]
)
def test_only_file_systems_without_flushing_of_folders_are_spared(
    code: int, file: str, matters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(code, "no")

    (tmp_path / "a").touch()
    monkeypatch.setattr(manifest.os, "fsync", failing)
    with pytest.raises(OSError, match=str(tmp_path)) if matters else nullcontext():
        manifest.flush(tmp_path / file)


def test_only_the_newest_whole_ones_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        make(tmp_path, step)
    (tmp_path / "checkpoint-2" / "state").unlink()
    rotate(tmp_path, 10, 2)
    assert names(find_checkpoints(tmp_path)) == ["checkpoint-3", "checkpoint-10", "checkpoint-20"]
    assert names(named_checkpoints(tmp_path))[0] == "checkpoint-2"  # not whole: not counted, not touched
    for limit in (None, 0, -1):
        rotate(tmp_path, 20, limit)
    assert len(find_checkpoints(tmp_path)) == 3


def test_the_newest_undamaged_one_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (9, 10, 11, 12):
        make(tmp_path, step)
    (tmp_path / "checkpoint-12" / COMPLETE).unlink()  # as an older version left them
    (tmp_path / "checkpoint-11" / "unet" / "model").write_text("WEIGHTS")
    with caplog.at_level("WARNING", logger="ppsd"):
        for asked in (None, "latest"):
            assert choose_checkpoint(str(tmp_path), asked, False) == str(tmp_path / "checkpoint-10")
    assert f"{tmp_path / 'checkpoint-12'} is passed over: it has no COMPLETE file" in caplog.text
    assert f"{tmp_path / 'checkpoint-11'} is passed over: unet/model is damaged" in caplog.text
    assert choose_checkpoint(str(tmp_path), None, True) is None


def test_a_run_does_not_start_over_because_all_is_damaged(tmp_path: Path) -> None:
    assert choose_checkpoint(str(tmp_path), None, False) is None
    (make(tmp_path, 3) / "state").write_text("STATE")
    with pytest.raises(ValueError, match=r"has no checkpoint that can be continued \(checkpoint-3: state is damaged"):
        choose_checkpoint(str(tmp_path), None, False)
    (tmp_path / "checkpoint-3" / COMPLETE).unlink()
    (tmp_path / "checkpoint-4").mkdir()
    for asked in (None, "latest"):
        with pytest.raises(
            ValueError, match=r"\(checkpoint-4: it has no COMPLETE file; checkpoint-3: it has no COMPLETE file\)"
        ):
            choose_checkpoint(str(tmp_path), asked, False)
    forget_run(str(tmp_path), None)
    assert choose_checkpoint(str(tmp_path), None, False) is None


def test_what_was_asked_for_must_be_there_and_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latest: .* has no whole checkpoint"):
        choose_checkpoint(str(tmp_path), "latest", False)
    whole = make(tmp_path, 3)
    assert choose_checkpoint("elsewhere", str(whole), False) == str(whole)
    with pytest.raises(ValueError, match=r"none: .* has checkpoint-3"):
        choose_checkpoint(str(tmp_path), "none", False)
    (whole / "state").write_text("STATE")
    with pytest.raises(ValueError, match=r"--resume_from_checkpoint: .*checkpoint-3 .*state is damaged"):
        choose_checkpoint(str(tmp_path), str(whole), False)
    with pytest.raises(ValueError, match="there is no such folder"):
        choose_checkpoint(str(tmp_path), str(tmp_path / "checkpoint-4"), False)


def test_the_command_that_was_begun_from_a_path_goes_on_with_what_it_has_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(make(tmp_path / "other", 50))
    run = tmp_path / "run"
    make(run, 80, told="")
    with caplog.at_level("WARNING", logger="ppsd"):
        assert choose_checkpoint(str(run), path, False) == path
    assert "keeps checkpoint-80 of another run" in caplog.text
    for step in (60, 70):
        make(run, step, told=path)
    shutil.rmtree(path)  # as --save_total_limit deletes it, if it is in the same folder
    assert choose_checkpoint(str(run), f"{path}/", False) == str(run / "checkpoint-70")
    (run / "checkpoint-70" / "state").write_text("STATE")
    assert choose_checkpoint(str(run), path, False) == str(run / "checkpoint-60")
    with pytest.raises(ValueError, match="there is no such folder"):
        choose_checkpoint(str(run), path, True)


def test_the_first_process_must_see_the_newest(tmp_path: Path) -> None:
    assert newest_step(str(tmp_path)) == -1
    make(tmp_path, 3)
    (tmp_path / "checkpoint-9").mkdir()  # what paddlenlp leaves on machines that do not see the checkpoint
    assert newest_step(str(tmp_path)) == 3
    check_same_disk([3, -1, 3], "out", saved_by_each=False)
    check_same_disk([3, 4], "out", saved_by_each=True)  # killed when only one had saved
    with pytest.raises(ValueError, match="--output_dir: out holds checkpoint-500 on the machine of rank 2, but not"):
        check_same_disk([3, -1, 500, 500], "out", saved_by_each=False)
    with pytest.raises(ValueError, match="holds checkpoint-4 on the machine of rank 1"):
        check_same_disk([-1, 4], "out", saved_by_each=True)


def test_what_continues_is_not_what_starts_over() -> None:
    assert continuing_command(None, False) == continuing_command("other/checkpoint-5", False) == "the same command"
    assert continuing_command("none", False) == "the same command without --resume_from_checkpoint none"
    assert continuing_command("other/checkpoint-5", True) == "the same command without --overwrite_output_dir"
