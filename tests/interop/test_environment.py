"""The environment of the tests with diffusers is made once, whole, or not at all."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

from tests.interop import environment


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of nothing, in a folder of its own, and a pip without any index."""
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path / "requirements.txt")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    return tmp_path


def test_what_pip_cannot_get_is_said_and_tried_again(elsewhere, monkeypatch):
    command = environment._command

    def without_venv(words: list[str]) -> None:
        """Making a real one takes long; this one is the python of the tests."""
        if words[2] != "venv":
            return command(words)
        python = elsewhere / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)

    monkeypatch.setattr(environment, "_command", without_venv)
    wanted = elsewhere / "requirements.txt"
    wanted.write_text("no-such-package==1\n", encoding="utf-8")
    with pytest.raises(environment.CannotInstall, match="no-such-package"):
        environment.interpreter()
    assert not list((elsewhere / "venv").glob(".installed-*"))
    wanted.write_text("# nothing\n", encoding="utf-8")
    assert environment.interpreter().is_file()


def test_processes_that_ask_at_once_make_one(elsewhere, monkeypatch):
    calls = elsewhere / "calls"

    def command(words: list[str]) -> None:
        with calls.open("a") as file:
            file.write(f"{words[2]}\n")
        (elsewhere / "venv").mkdir(exist_ok=True)

    monkeypatch.setattr(environment, "_command", command)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=environment.interpreter) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert calls.read_text().split() == ["venv", "pip"]
    (elsewhere / "requirements.txt").write_text("another\n", encoding="utf-8")
    environment.interpreter()
    assert len(calls.read_text().split()) == 4
