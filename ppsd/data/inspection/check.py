"""A look at the data before training: a few hundred records in about two seconds, or all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ppsd.data.bucket_table import sample_table
from ppsd.data.buckets import buckets_of
from ppsd.data.config import StreamConfig
from ppsd.data.indexed import IndexedSource
from ppsd.data.inspection.hints import filter_hints
from ppsd.data.inspection.job import Setup, make_setup
from ppsd.data.inspection.part import inspect_part
from ppsd.data.inspection.plan import distinct_parts, quick_jobs, read_sources
from ppsd.data.inspection.run import empty_summary, inspect_all
from ppsd.data.inspection.single import as_parts
from ppsd.data.inspection.summary import SourceCount, Summary
from ppsd.data.inspection.verdict import percent, problems, reasons, warnings
from ppsd.data.source import RecordSource, Source, open_sources, settled

MODES = ("quick", "full")
QUICK_RECORDS = 200
QUICK_SECONDS = 2.0
STUBBORN_RECORDS = 2000  # how many records of a source must be unusable before a quick check gives it up
STUBBORN_PARTS = 200  # or how many of its parts missing
STUBBORN_SECONDS = 10.0


@dataclass
class CheckResult:
    """What a check has found; training can start.

    of: how many images there are, where all data are indexed. table: the buckets of what was looked at, where they
    are not known for all images.
    """

    mode: str
    summary: Summary
    seconds: float
    warnings: list[str]
    of: Optional[int] = None
    table: Optional[str] = None

    def lines(self) -> list[str]:
        """For the log: what was looked at, then what is not as it should be."""
        summary = self.summary
        skipped = summary.records - summary.tally.used
        whole = f"records of {summary.parts} parts" if self.of is None else f"of {self.of} images"
        looked = f"{summary.records} {whole} in {self.seconds:.1f} s"
        why = f", {percent(skipped, summary.records)} not used ({reasons(summary.tally)})" if skipped else ""
        first = f"{self.mode} check of the data: {looked}{why}"
        return ["\n".join([first, self.table] if self.table else [first]), *self.warnings]


def check_data(
    config: StreamConfig,
    tokenizer: Any,
    mode: str = "quick",
    *,
    seed: int = 0,
    num_workers: int = 0,
    sources: Optional[Sequence[Source]] = None,
) -> CheckResult:
    """Look at the data as training will see it. quick: in this process; full: in `num_workers` others.

    sources: those of the config where they are open already. tokenizer: None: captions are not tokenised.

    Raises ValueError when training cannot start: no record of a source can be used, or most of its parts cannot be
    read; and what open_sources raises.
    """
    if mode not in MODES:
        raise ValueError(f"--check_data {mode!r} is not one of {', '.join((*MODES, 'off'))}")
    begin = time.monotonic()
    sources = open_sources(config, seed) if sources is None else sources
    parted = as_parts(sources)
    setup = make_setup(settled(config, sources), tokenizer, seed, details=False)
    if mode == "quick":
        summary = _quick(parted, setup)
    else:
        summary = inspect_all(parted, [distinct_parts(s.parts) for s in parted], setup, num_workers=num_workers)
    found = problems(summary, read_sources(parted))
    named = _named(config, sources)
    hints = filter_hints(config, summary.tally, seed) if named else []
    if found:
        raise ValueError(
            f"{named or 'the data'}: training cannot start: {'; '.join([*found, *hints])}."
            " tools/inspect_data.py tells more; --check_data off starts all the same"
        )
    indexed = all(isinstance(source, IndexedSource) for source in sources)
    count = sum(len(source.parts) for source in parted) if indexed else None
    table = None if indexed else _bucket_table(config, summary)
    return CheckResult(mode, summary, time.monotonic() - begin, [*warnings(summary), *hints], count, table)


def _named(config: StreamConfig, sources: Sequence[Source]) -> Optional[str]:
    """The flag that says which data these are, with its value; None for those that a method has opened by itself."""
    for flag in ("train_data_dir", "dataset_name"):
        if getattr(config, flag) is not None:
            return f"--{flag} {getattr(config, flag)}"
    if any(isinstance(source, IndexedSource) for source in sources):
        return None
    return f"--file_list {config.file_list}"


def _bucket_table(config: StreamConfig, summary: Summary) -> Optional[str]:
    """Of the records that were looked at and can be used."""
    buckets, rows = buckets_of(config), summary.rows.all()
    rows = rows[rows["good"]]
    if buckets is None or not len(rows):
        return None
    return sample_table(np.stack([rows["width"], rows["height"]], axis=1).astype(np.int64), buckets)


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
