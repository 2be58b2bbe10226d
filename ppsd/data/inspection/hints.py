"""What the user may have meant by a column of --filter that no record has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Optional

from ppsd.data.config import StreamConfig
from ppsd.data.filters import NAMES
from ppsd.data.inspection.plan import quick_jobs
from ppsd.data.inspection.single import as_parts
from ppsd.data.source import open_sources
from ppsd.data.tally import NO_COLUMN, Tally
from ppsd.types import BadRecord

LOOK_RECORDS = 200
LOOK_PARTS = 25
SHOWN_NAMES = 10


def filter_hints(config: StreamConfig, tally: Tally, seed: int) -> list[str]:
    """One line for each column that records were left out for and that none has. tally: of `config.filter`.

    Reads up to LOOK_RECORDS records, those of a quick check, again without the filter: it keeps their columns from
    whoever counts.
    """
    wanted = {reason[len(NO_COLUMN) :] for reason in tally.counts if reason.startswith(NO_COLUMN)}
    wanted = {name for name in wanted if name.isidentifier()}  # `no > 3` begins like that, too
    seen = _columns(config, wanted, seed) if wanted else None
    return [] if seen is None else [_hint(name, seen) for name in sorted(wanted - seen)]


def _columns(config: StreamConfig, wanted: set[str], seed: int) -> Optional[set[str]]:
    """Those of the first records of some parts, enough to tell which of `wanted` are there; None without a record."""
    sources = as_parts(open_sources(replace(config, filter=None)))
    records, seen = 0, set[str]()
    for job in islice(quick_jobs(sources, seed, LOOK_RECORDS), LOOK_PARTS):
        for _, record in islice(job.read(job.path), job.limit):
            if not isinstance(record, BadRecord):
                records += 1
                seen.update(record.meta)
        if records >= LOOK_RECORDS or wanted <= seen:
            break
    return seen if records else None


def _hint(name: str, seen: Iterable[str]) -> str:
    columns = sorted(column for column in seen if column.isidentifier())
    by_lower = {known.lower(): known for known in (*columns, *NAMES)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if near:
        meant = f"the nearest name is {by_lower[near[0]]}"
    else:
        more = ", ..." if len(columns) > SHOWN_NAMES else ""
        meant = f"their columns are {', '.join(columns[:SHOWN_NAMES])}{more}" if columns else "they have no columns"
    return f"--filter: no record that was looked at has a column {name}; {meant}"
