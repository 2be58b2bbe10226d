"""Everything that an inspection has to say, ready to be printed or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from ppsd.data.captions import choose_caption
from ppsd.data.config import StreamConfig
from ppsd.data.inspection.figures import Figures, Place, make_figures
from ppsd.data.inspection.hints import filter_hints
from ppsd.data.inspection.plan import read_sources
from ppsd.data.inspection.result import Tile
from ppsd.data.inspection.summary import Summary
from ppsd.data.inspection.verdict import filtered, percent, problems, unusable, warnings
from ppsd.data.source import RecordSource
from ppsd.formats.urls import shown_url
from ppsd.types import BadRecord

Table = list[tuple[str, ...]]


@dataclass
class Report:
    """facts: (what, how much); tables: by title, the first row their head; notes: for which there is no number."""

    file_list: str
    scope: str
    problems: list[str]
    warnings: list[str]
    facts: list[tuple[str, str]]
    tables: dict[str, Table]
    rows: np.ndarray
    resolution: int
    max_length: int
    tiles: list[Tile] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One line."""
        return "Training cannot start." if self.problems else "Training can start."


def make_report(
    sources: Sequence[RecordSource],
    config: StreamConfig,
    summary: Summary,
    repeated_parts: int,
    *,
    sampled: bool,
    tokenized: bool,
) -> Report:
    """repeated_parts: entries of the lists that name a part again; tokenized: whether there was a tokenizer."""
    rows = summary.rows.all()
    figures = make_figures(rows, config.longest_caption)
    parts = sum(source.all_parts for source in summary.sources)
    scope = f"a sample of {summary.parts} of {parts} parts" if sampled else f"all {parts} parts"
    return Report(
        config.file_list,
        f"{summary.records:,} records of {scope}",
        problems(summary, read_sources(sources)),
        [*warnings(summary), *filter_hints(config, summary.tally, seed=0)],
        [
            *_records(summary, repeated_parts),
            *_speed(summary, sampled),
            *_captions(figures, config, tokenized),
            *_doubles(figures),
        ],
        _tables(sources, config, summary, figures),
        rows,
        config.resolution,
        config.longest_caption,
        summary.tiles,
    )


def _records(summary: Summary, repeated_parts: int) -> list[tuple[str, str]]:
    bad, left_out = unusable(summary), filtered(summary)
    facts = [
        ("records", f"{summary.records:,}"),
        ("usable records", f"{summary.tally.used:,} ({percent(summary.tally.used, summary.records)})"),
        ("records with something wrong", f"{bad:,} ({percent(bad, summary.records)})"),
        ("missing or damaged parts", f"{summary.failures.skipped:,} of {summary.parts:,}"),
        ("image files", size(summary.num_bytes)),
    ]
    if left_out:
        facts.insert(3, ("left out by --filter", f"{left_out:,} ({percent(left_out, summary.records)})"))
    if repeated_parts:
        facts.append(("parts listed again", f"{repeated_parts:,} (looked at once)"))
    if summary.rows.share < 1:
        facts.append(("figures below are of", f"a random 1/{round(1 / summary.rows.share)} of the images"))
    return facts


def _speed(summary: Summary, sampled: bool) -> list[tuple[str, str]]:
    """An epoch is all usable records once, those of repeated parts as often as they are listed."""
    if not summary.tally.used:
        return []
    each = summary.seconds / summary.tally.used
    facts = [("one worker reads and decodes", f"{1 / each:,.0f} samples/s ({1000 * each:.2f} ms each)")]
    count: Optional[float] = summary.epoch_used
    if sampled:
        known = summary.sized_records / summary.sized_parts if summary.sized_parts else None
        share = summary.tally.used / summary.records
        count = None if known is None else share * known * sum(source.all_parts for source in summary.sources)
    if count is None:
        return [*facts, ("an epoch takes one worker", "unknown: the sample ends within its parts")]
    about = "about " if sampled else ""
    return [*facts, ("an epoch takes one worker", f"{duration(count * each)} for {about}{round(count):,} samples")]


def _captions(figures: Figures, config: StreamConfig, tokenized: bool) -> list[tuple[str, str]]:
    count = figures.count
    facts = [("empty captions", f"{figures.empty_captions:,} ({percent(figures.empty_captions, count)})")]
    if "tokens" in figures.quantiles:
        cut = f"{figures.cut_captions:,} ({percent(figures.cut_captions, count)})"
        facts.append((f"captions cut at {config.longest_caption} tokens", cut))
    else:
        why = "no usable record" if tokenized else "no --tokenizer"
        facts.append(("captions in tokens", f"not counted: {why}"))
    return facts


def _doubles(figures: Figures) -> list[tuple[str, str]]:
    count = figures.count
    return [
        ("exact copies of other images", f"{figures.copies:,} ({percent(figures.copies, count)})"),
        ("images that look like another", f"{figures.near:,} ({percent(figures.near, count)})"),
    ]


def _tables(
    sources: Sequence[RecordSource], config: StreamConfig, summary: Summary, figures: Figures
) -> dict[str, Table]:
    """Those that have rows."""
    tables: dict[str, Table] = {
        "Sources": [("source", "weight", "parts", "looked at", "missing", "records", "usable")],
        "Why records are not used": [("records", "reason", "for example")],
        "Missing or damaged parts": [("parts", "reason", "for example")],
        "Sizes and lengths of what can be used": [
            ("", "min", "1 %", "5 %", "25 %", "median", "75 %", "95 %", "99 %", "max")
        ],
        "Kinds of images": [("images", "format and mode", "")],
        "Most repeated captions": [("times", "caption", "first")],
        "Most repeated images": [("times", "first", "also")],
        "Images that look alike": [("one", "other", "")],
    }
    for source, count in zip(sources, summary.sources):
        weight = "" if source.weight is None else f"{source.weight:g}"
        numbers = (count.all_parts, count.parts, count.missing, count.records, count.used)
        tables["Sources"].append((count.name, weight, *(f"{number:,}" for number in numbers)))
    for title, tally in (("Why records are not used", summary.tally), ("Missing or damaged parts", summary.failures)):
        for reason, number in sorted(tally.counts.items(), key=lambda entry: (-entry[1], entry[0])):
            if tally is summary.failures or reason not in summary.failures.counts:
                tables[title].append((f"{number:,}", reason, "\n".join(tally.examples[reason])))
    for name, values in figures.quantiles.items():
        tables["Sizes and lengths of what can be used"].append(
            (name, *(f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in values))
        )
    tables["Kinds of images"] += [(f"{number:,}", kind, "") for kind, number in summary.kinds.most_common(20)]
    tables["Most repeated captions"] += [
        (f"{number:,}", _caption_at(sources, config, place), _where(sources, place))
        for number, place in figures.repeated_captions
    ]
    tables["Most repeated images"] += [
        (f"{number:,}", *(_where(sources, place) for place in places[:2])) for number, places in figures.repeated_images
    ]
    tables["Images that look alike"] += [(_where(sources, a), _where(sources, b), "") for a, b in figures.near_pairs]
    return {title: table for title, table in tables.items() if len(table) > 1}


def _where(sources: Sequence[RecordSource], place: Place) -> str:
    return f"{shown_url(sources[place.source].parts[place.part])}:{place.number}"


def _caption_at(sources: Sequence[RecordSource], config: StreamConfig, place: Place) -> str:
    """The caption of a record, which is read again."""
    source = sources[place.source]
    record = next(source.read(source.parts[place.part], place.number - 1), (0, None))[1]
    if record is None or isinstance(record, BadRecord):
        return "(no longer there)"
    rule = "first" if config.caption_rule == "random" else config.caption_rule
    caption = choose_caption((record.caption, *record.more_captions), rule, 0)
    return caption if len(caption) <= 200 else f"{caption[:200]}..."


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"
