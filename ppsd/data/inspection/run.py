"""Inspections of whole data sets, or of a sample, in any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Callable, Optional

from ppsd.data.inspection.job import PartJob, Setup
from ppsd.data.inspection.journal import Journal
from ppsd.data.inspection.part import inspect_part
from ppsd.data.inspection.plan import Distinct, all_jobs, sample_jobs
from ppsd.data.inspection.result import PartResult
from ppsd.data.inspection.summary import Summary
from ppsd.data.jobs import run_jobs
from ppsd.data.source import RecordSource

OnResult = Callable[[PartResult], None]


def nothing(result: PartResult) -> None:
    """Tells nobody."""


def empty_summary(sources: Sequence[RecordSource]) -> Summary:
    """That of sources of which no record has been read."""
    return Summary.of([source.name for source in sources], [len(source.parts) for source in sources])


def inspect_all(
    sources: Sequence[RecordSource],
    distinct: Sequence[Distinct],
    setup: Setup,
    *,
    num_workers: int = 0,
    journal: Optional[Journal] = None,
    on_result: OnResult = nothing,
) -> Summary:
    """Every record. What the journal has is not read again, the rest is added to it.

    Raises WorkerDied (see ppsd.data.jobs), OSError for a journal that cannot be written.
    """
    summary = empty_summary(sources)
    done = [bytearray(len(source.parts)) for source in sources]
    for result in journal.results(sources) if journal else ():
        if not done[result.source][result.part]:
            done[result.source][result.part] = 1
            summary.add(result)
            on_result(result)
    jobs = (job for job in all_jobs(sources, distinct, setup.seed) if not done[job.source][job.part])
    for result in _results(setup, jobs, num_workers):
        if journal:
            journal.add(result)
        summary.add(result)
        on_result(result)
    return summary


def inspect_sample(
    sources: Sequence[RecordSource],
    setup: Setup,
    records: int,
    *,
    num_workers: int = 0,
    on_result: OnResult = nothing,
) -> Summary:
    """About `records` of the records (at least that many, if there are), the same for any number of workers."""
    summary = empty_summary(sources)
    seen: set[tuple[int, int]] = set()
    for result in _results(setup, sample_jobs(sources, setup.seed, records), num_workers):
        place = (result.source, result.part)
        summary.add(result, again=place in seen)
        seen.add(place)
        on_result(result)
        if summary.records >= records:
            break
    return summary


def _results(setup: Setup, jobs: Iterable[PartJob], num_workers: int) -> Iterator[PartResult]:
    return run_jobs(partial(inspect_part, setup), jobs, num_workers)
