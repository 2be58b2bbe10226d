"""A look at the data before training: a few hundred records in about two seconds, or all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ppsd.data.config import StreamConfig
from ppsd.data.inspection.hints import filter_hints
from ppsd.data.inspection.job import Setup, make_setup
from ppsd.data.inspection.part import inspect_part
from ppsd.data.inspection.plan import distinct_parts, quick_jobs, read_sources
from ppsd.data.inspection.run import empty_summary, inspect_all
from ppsd.data.inspection.summary import SourceCount, Summary
from ppsd.data.inspection.verdict import percent, problems, reasons, warnings
from ppsd.data.source import RecordSource, open_sources

MODES = ("quick", "full")
QUICK_RECORDS = 200
QUICK_SECONDS = 2.0
STUBBORN_RECORDS = 2000  # how many records of a source must be unusable before a quick check gives it up
STUBBORN_PARTS = 200  # or how many of its parts missing
STUBBORN_SECONDS = 10.0


@dataclass
class CheckResult:
    """What a check has found; training can start."""

    mode: str
    summary: Summary
    seconds: float
    warnings: list[str]

    def lines(self) -> list[str]:
        """For the log: what was looked at, then what is not as it should be."""
        summary = self.summary
        skipped = summary.records - summary.tally.used
        looked = f"{summary.records} records of {summary.parts} parts in {self.seconds:.1f} s"
        why = f", {percent(skipped, summary.records)} not used ({reasons(summary.tally)})" if skipped else ""
        return [f"{self.mode} check of the data: {looked}{why}", *self.warnings]


def check_data(
    config: StreamConfig,
    tokenizer: Any,
    mode: str = "quick",
    *,
    seed: int = 0,
    num_workers: int = 0,
    sources: Optional[Sequence[RecordSource]] = None,
) -> CheckResult:
    """Look at the data as training will see it. quick: in this process; full: in `num_workers` others.

    sources: those of the config where they are open already. tokenizer: None: captions are not tokenised.

    Raises ValueError when training cannot start: no record of a source can be used, or most of its parts cannot be
    read; and what open_sources raises.
    """
    if mode not in MODES:
        raise ValueError(f"--check_data {mode!r} is not one of {', '.join((*MODES, 'off'))}")
    begin = time.monotonic()
    sources = open_sources(config) if sources is None else sources
    setup = make_setup(config, tokenizer, seed, details=False)
    if mode == "quick":
        summary = _quick(sources, setup)
    else:
        summary = inspect_all(sources, [distinct_parts(s.parts) for s in sources], setup, num_workers=num_workers)
    found = problems(summary, read_sources(sources))
    hints = filter_hints(config, summary.tally, seed)
    if found:
        raise ValueError(
            f"--file_list {config.file_list}: training cannot start: {'; '.join([*found, *hints])}."
            " tools/inspect_data.py tells more; --check_data off starts all the same"
        )
    return CheckResult(mode, summary, time.monotonic() - begin, [*warnings(summary), *hints])


def _quick(sources: Sequence[RecordSource], setup: Setup) -> Summary:
    """Records until there are enough or it takes too long, but of each source at least a usable one, if it has any."""
    summary, begin = empty_summary(sources), time.monotonic()
    read = read_sources(sources)
    for job in quick_jobs(sources, setup.seed, QUICK_RECORDS):
        counts = {index: summary.sources[index] for index in read}
        given_up = [index for index, count in counts.items() if _hopeless(count)]
        unproven = [index for index, count in counts.items() if not count.used and index not in given_up]
        seconds = time.monotonic() - begin
        enough = summary.records >= QUICK_RECORDS or seconds > QUICK_SECONDS
        if len(given_up) == len(read) or (enough and not unproven) or seconds > STUBBORN_SECONDS:
            break
        if job.source in unproven or (not enough and job.source not in given_up):
            summary.add(inspect_part(setup, job))
    return summary


def _hopeless(count: SourceCount) -> bool:
    """Whether so much of a source was unusable that looking further would not help."""
    return not count.used and (count.records >= STUBBORN_RECORDS or count.missing >= STUBBORN_PARTS)
