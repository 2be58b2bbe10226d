"""Whether training can start, and what the user should know before it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ppsd.data.inspection.summary import Summary
from ppsd.data.tally import CONDITION, NO_COLUMN, Tally

MOST_MISSING = 0.5
MUCH_BAD = 0.1
MUCH_MISSING = 0.01


def problems(summary: Summary, read: Sequence[int]) -> list[str]:
    """Why training cannot start. read: the sources, by index, that training reads (weight above 0).

    A source of which no record can be used, or of which most parts cannot be read, with its own reasons.
    """
    found = []
    for index in read:
        source = summary.sources[index]
        if source.parts and not source.used:
            seen = f"{source.records} records of {source.parts} parts, {source.missing} of which cannot be read"
            found.append(f"{source.name}: not one usable record among {seen}{_because(source.tally)}")
        elif source.missing > MOST_MISSING * source.parts:
            lost = _only(source.tally, summary.failures.counts)
            found.append(f"{source.name}: {source.missing} of {source.parts} parts cannot be read{_because(lost)}")
    return found


def warnings(summary: Summary) -> list[str]:
    """What will not keep training from starting."""
    found = []
    bad = unusable(summary)
    if bad > MUCH_BAD * summary.records:
        found.append(f"{percent(bad, summary.records)} of the records cannot be used: {reasons(_wrong(summary.tally))}")
    failed = summary.failures.skipped
    if failed > MUCH_MISSING * summary.parts:
        share = percent(failed, summary.parts)
        found.append(f"{share} of the parts are missing or damaged: {reasons(summary.failures)}")
    return found


def _wrong(tally: Tally) -> Tally:
    """Without what a filter leaves out."""
    return _only(tally, (key for key in tally.counts if not key.startswith(CONDITION) or key.startswith(NO_COLUMN)))


def _only(tally: Tally, kept: Iterable[str]) -> Tally:
    """The counts of some reasons."""
    counts = {key: tally.counts[key] for key in kept if key in tally.counts}
    return Tally(used=tally.used, counts=counts, examples=tally.examples)


def _because(tally: Tally) -> str:
    return f" ({reasons(tally)})" if tally.counts else ""


def filtered(summary: Summary) -> int:
    """Records that --filter leaves out because a condition does not hold, which is what it is for."""
    return summary.tally.skipped - _wrong(summary.tally).skipped


def unusable(summary: Summary) -> int:
    """Records with something wrong, of those that were looked at."""
    return summary.records - summary.tally.used - filtered(summary)


def reasons(tally: Tally, count: int = 3) -> str:
    """The most frequent reasons, each with an example, on one line."""
    top = sorted(tally.counts.items(), key=lambda entry: (-entry[1], entry[0]))[:count]
    return "; ".join(f"{number} {reason}, e.g. {tally.examples[reason][0]}" for reason, number in top)


def percent(count: float, whole: float) -> str:
    """`count` of `whole`, with as many digits as say something."""
    share = 100 * count / whole if whole else 0.0
    return f"{share:.2g} %" if 0 < share < 1 else f"{share:.0f} %" if share in (0, 100) else f"{min(share, 99.9):.1f} %"
