"""What the attempts of a run have used, from their journals, and what they should have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ppsd.data.seeds import Draw, derive_seed

Steps = dict[int, list[tuple[int, ...]]]


def counted_steps(journal: Path) -> Steps:
    """The seeds of each micro-batch by step, of the last attempt that has done the step: it is the one that counts."""
    attempts: dict[int, dict[int, list[tuple[int, ...]]]] = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        by_attempt = attempts.setdefault(entry["step"], {})
        by_attempt.setdefault(entry["attempt"], []).append(tuple(entry["seeds"]))
    return {step: by_attempt[max(by_attempt)] for step, by_attempt in attempts.items()}


def repeated_steps(journal: Path) -> int:
    """Steps that more than one attempt has begun, counted once for each attempt too many."""
    begun = {(e["step"], e["attempt"]) for e in map(json.loads, journal.read_text(encoding="utf-8").splitlines())}
    return len(begun) - len({step for step, _ in begun})


def record_seeds(records_per_part: Sequence[int], seed: int, epoch: int) -> set[int]:
    """The seeds of all records of an epoch of the first source; lines count from 1."""
    source = derive_seed(seed, 0)
    return {
        derive_seed(source, Draw.RECORD, epoch, part, line + 1, -1)
        for part, count in enumerate(records_per_part)
        for line in range(count)
    }


def require_each_record_once(used: Sequence[Steps], records_per_part: Sequence[int], seed: int, steps: int) -> int:
    """Of the steps of all ranks: each epoch that is over has each of its records exactly once, and the one that is not
    has none twice. Returns the number of whole epochs."""
    assert all(sorted(rank) == list(range(1, steps + 1)) for rank in used), "steps are missing"
    in_order = [s for step in range(1, steps + 1) for rank in used for batch in rank[step] for s in batch]
    total = sum(records_per_part)
    for start in range(0, len(in_order), total):
        expected = record_seeds(records_per_part, seed, start // total)
        counts = Counter(in_order[start : start + total])
        twice = [s for s, count in counts.items() if count > 1]
        assert not twice, f"epoch {start // total}: {len(twice)} records were used more than once"
        assert counts.keys() <= expected, f"epoch {start // total}: records of another epoch"
        assert len(counts) == total or start + total > len(in_order), f"epoch {start // total}: records are missing"
    return len(in_order) // total
