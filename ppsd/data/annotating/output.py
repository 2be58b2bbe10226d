"""The folder that is written to: nobody's, or that of an earlier run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ppsd.formats.atomic import atomic_write

MARKER = ".annotated.json"
KINDS = ("parts", "images")


def claim(output: Path, kind: str) -> None:
    """Make the folder, and leave a marker in it. kind: of KINDS.

    Raises ValueError for a folder with files that no earlier run has written, or with an output of another kind: files
    of the same names would be replaced.
    """
    assert kind in KINDS
    marker = output / MARKER
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8")).get("kind")
        if found != kind:
            raise ValueError(
                f"--output_path {output}: has annotated {found} in it, these are {kind}; name another folder"
            )
        return
    if output.is_dir() and any(not entry.name.startswith(f".{MARKER}.") for entry in os.scandir(output)):
        raise ValueError(f"--output_path {output}: has files in it that were not written here; name another folder")
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(marker) as file:
        file.write(json.dumps({"kind": kind}).encode() + b"\n")
