"""What the data tools have in common: a strict command line, and errors in one line."""

from __future__ import annotations

import argparse
import difflib
import io
import math
import os
import sys
from pathlib import Path
from typing import Callable, NoReturn

from ppsd.data.jobs import WorkerDied
from ppsd.data.packing import Packed
from ppsd.formats.layout import Layout
from ppsd.formats.remote_settings import RemoteSettings, configure


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: error: {message}{hint} (--help lists the flags)\n")


def natural(text: str) -> int:
    """An integer >= 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 0")
    return int(text)


def positive(text: str) -> int:
    """An integer >= 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)


def size(text: str) -> float:
    """A number > 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_remote_flags(parser: argparse.ArgumentParser) -> None:
    """Flags about parts at URLs, which `run_tool` follows."""
    kept = "Folder on a local disk that keeps parts read from URLs. Default: they are not kept."
    parser.add_argument("--data_cache_dir", help=kept)
    limit = "Size limit of --data_cache_dir; the parts used longest ago are deleted. Default: %(default)s."
    parser.add_argument("--data_cache_gb", type=size, default=RemoteSettings.cache_gb, help=limit)


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tool(tool: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The exit code of `run`; 1, with one line on stderr, for an error that a user can cause."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # captions and paths may hold anything
    try:
        if hasattr(args, "data_cache_dir"):
            configure(cache_dir=args.data_cache_dir, cache_gb=args.data_cache_gb)
        return run(args)
    except (OSError, ValueError, WorkerDied) as error:
        return failed(tool, describe(error))
    except KeyboardInterrupt:
        return failed(tool, "interrupted")


def failed(tool: str, message: str) -> int:
    """Say what went wrong; returns the exit code."""
    sys.stderr.write(f"{Path(tool).name}: error: {message}\n")
    return 1


def describe(error: Exception) -> str:
    """One line about an error, with the file it is about."""
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split("\n"))


def report(packed: Packed, layout: Layout, seconds: float) -> str:
    """What was written and what was not."""
    lines = [str(packed.tally)] if packed.tally.skipped or not packed.parts else []
    if packed.parts:
        size = f"{packed.num_bytes / 1e6:.1f} MB"
        lines.append(f"{packed.tally.used} records in {len(packed.parts)} parts, {size}, in {seconds:.1f} s")
        unlisted = layout.unlisted_parts(packed.parts)
        if unlisted:
            lines.append(f"Left from an earlier run and not in the list: {len(unlisted)} parts, e.g. {unlisted[0]}")
        lines.append(f"File list: {layout.file_list}")
    return "\n".join(lines)
