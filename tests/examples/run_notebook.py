"""Run a notebook's cells one after another, as its kernel does, in the working directory.

    python run_notebook.py NOTEBOOK

Cells with the tag install or download are left out. The first cell that fails ends the program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

LEFT_OUT = {"install", "download"}
MAY_FAIL = "prompt_accuracy.py"
"""Its exit code says that a model which was trained for two steps does not know its colours."""


class Shell(InteractiveShell):
    """`!command` that fails ends its cell, which a notebook does not do by itself."""

    def system(self, cmd: str) -> None:
        sys.stdout.flush()
        code = subprocess.run(self.var_expand(cmd, depth=1), shell=True, stderr=subprocess.STDOUT).returncode
        if code and MAY_FAIL not in cmd:
            raise RuntimeError(f"exit code {code}: {cmd}")


def main() -> None:
    shell = Shell.instance(config=Config(HistoryManager={"enabled": False}))
    for cell in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and not LEFT_OUT & set(cell["metadata"].get("tags", [])):
            shell.run_cell("".join(cell["source"])).raise_error()


if __name__ == "__main__":
    main()
