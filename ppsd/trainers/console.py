"""What a person at the terminal sees: log lines, and errors of one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Callable, TypeVar

import ppsd.compat

from paddlenlp.utils.log import logger as paddlenlp_logger
from tqdm import tqdm

from ppsd.trainers.exit_codes import ERROR

T = TypeVar("T")


def show_log() -> None:
    """ppsd's own log lines on standard error, as paddlenlp shows its own."""
    handler = AboveTheBar()
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("ppsd")
    root.handlers, root.propagate = [handler], False
    root.setLevel(logging.INFO)
    paddlenlp_logger.set_level("WARNING")


class AboveTheBar(logging.Handler):
    """Writes lines to standard error without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except OSError:  # the terminal is gone; the run still has to save
            self.handleError(record)


def one_line_errors(run: Callable[[], T]) -> T:
    """Run; a ValueError or OSError that ppsd raised on purpose becomes one line, anything else keeps its traceback."""
    try:
        return run()
    except (ValueError, OSError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not frames[-1].filename.startswith(os.path.dirname(ppsd.__file__)):
            raise
        ppsd.compat.abandon_process_group(ERROR, f"error: {error}")
        sys.exit(f"error: {error}")
