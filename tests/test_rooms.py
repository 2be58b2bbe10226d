"""The rooms of ppsd: an import may only point to a room above its own line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PPSD = Path(__file__).parent.parent / "ppsd"
ORDER = "compat types formats data diffusion models adapters sampling interop trainers launch".split()  # noqa: SIM905  a list of words
STRANGERS = {"data", "diffusion", "models"}
FILES = sorted(PPSD.rglob("*.py"))


def rooms_imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name.split(".")[1] for name in names if name.startswith("ppsd."))
    return found - {"__version__"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PPSD)))
def test_imports_point_up(file: Path) -> None:
    room = file.relative_to(PPSD).parts[0].removesuffix(".py")
    if room == "__init__":
        assert rooms_imported(file) == set()
        return
    for other in rooms_imported(file):
        assert ORDER.index(other) <= ORDER.index(room), f"{room} imports {other}, which stands below it"
        assert {room, other} - STRANGERS or room == other, f"{room} and {other} must not know each other"


def test_every_room_is_listed() -> None:
    rooms = {path.name.removesuffix(".py") for path in PPSD.iterdir() if not path.name.startswith("_")}
    assert rooms - {"py.typed"} == set(ORDER)


def test_formats_and_types_do_without_paddle() -> None:
    """The data tools must start fast, and on machines without paddle."""
    names = [f"ppsd.formats.{file.stem}" for file in (PPSD / "formats").glob("[a-z]*.py")] + ["ppsd.types"]
    code = f"import sys, {', '.join(names)}; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PPSD.parent).returncode == 0
