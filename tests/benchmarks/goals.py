"""A table of what was wanted and what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One line of the table."""

    what: str
    goal: str
    result: str
    met: bool


def at_least(what: str, share: float, least: float) -> Goal:
    """A share that should be `least` or more."""
    return Goal(what, f">= {least:.0%}", f"{share:.0%}", share >= least)


def print_goals(rows: list[Goal]) -> None:
    print(f"\n{'':<42}{'goal':<26}{'result':<32}")
    for row in rows:
        print(f"{row.what:<42}{row.goal:<26}{row.result:<32}{'met' if row.met else 'NOT MET'}")
