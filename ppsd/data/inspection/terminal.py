"""A report as text for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from ppsd.data.inspection.report import Report, Table

WIDEST = 100


def report_lines(report: Report) -> Iterator[str]:
    """The lines of the report. Captions cannot control the terminal."""
    return (re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line) for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.file_list}: {report.scope}"
    yield ""
    yield from table_lines([("", ""), *report.facts])[1:]
    for title, table in report.tables.items():
        yield ""
        yield title
        yield from (f"  {line}" for line in table_lines(table))
    yield ""
    yield from (f"Warning: {line}" for line in report.warnings)
    yield from (f"Problem: {line}" for line in report.problems)
    yield report.verdict


def table_lines(table: Table) -> list[str]:
    """One line a row; of a cell with several lines the others below it. Columns of numbers end at the right."""
    cells = [[cell.split("\n") for cell in row] for row in table]
    columns = range(len(table[0]))
    widths = [max(min(columns_of(text), WIDEST) for row in cells for text in row[i]) for i in columns]
    right = [all(_is_number(row[i]) for row in table[1:]) for i in columns]
    lines = []
    for row in cells:
        for depth in range(max(map(len, row))):
            texts = [cell[depth] if depth < len(cell) else "" for cell in row]
            lines.append("  ".join(_pad(text, widths[i], right[i]) for i, text in enumerate(texts)).rstrip())
    return lines


def columns_of(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _pad(text: str, width: int, right: bool) -> str:
    blanks = " " * max(0, width - columns_of(text))
    return blanks + text if right else text + blanks


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("e+", "").isdecimal()
