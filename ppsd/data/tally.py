"""Counting what could not be used, by reason, with examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ppsd.types import BadRecord

EXAMPLES = 5
CONDITION, NO_COLUMN = "filter: ", "filter: no "  # how the reasons of ppsd.data.filters begin


@dataclass
class Tally:
    """Samples used, and records skipped: how many for each reason, and for each up to 5 examples "file:line detail".

    repeated: samples that stand in for others to fill a batch of one size.
    """

    used: int = 0
    repeated: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Records skipped for any reason."""
        return sum(self.counts.values())

    @property
    def unexpected(self) -> int:
        """Records skipped, without those that a condition of --filter leaves out."""
        return sum(n for key, n in self.counts.items() if not key.startswith(CONDITION) or key.startswith(NO_COLUMN))

    def add(self, reason: str, where: str, detail: str = "") -> None:
        """Count one record at `where` ("file:line")."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{where} {detail}".rstrip())

    def merge(self, other: Tally) -> None:
        """Add what another process or an earlier time has counted."""
        self.used += other.used
        self.repeated += other.repeated
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            examples = self.examples.setdefault(reason, [])
            examples.extend(other.examples[reason][: EXAMPLES - len(examples)])

    def __str__(self) -> str:
        """One line a fact: the totals, then each reason with its examples, most frequent first."""
        repeated = f" ({self.repeated} of them again, to fill batches of one size)" if self.repeated else ""
        lines = [f"{self.used} samples used{repeated}, {self.skipped} records skipped"]
        for reason, count in sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0])):
            lines += [f"  {count} {reason}, e.g."] + [f"    {example}" for example in self.examples[reason]]
        return "\n".join(lines)


def bad_records(found: Iterable[tuple[str, BadRecord]]) -> Tally:
    """The tally of bad records, each with where it is."""
    tally = Tally()
    for where, bad in found:
        tally.add(bad.reason, where, bad.detail)
    return tally
