"""A report as one HTML page that needs nothing else: plots are SVG, pictures are in the page, no script runs."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ppsd.data.inspection.charts import bars, histogram, scatter
from ppsd.data.inspection.report import Report, Table
from ppsd.data.inspection.result import Tile
from ppsd.data.inspection.style import STYLE
from ppsd.formats.atomic import atomic_write

POINTS = 1500
REASONS = 8
ABOUT_TILES = (
    "The crops of the first epoch; below each the conditions that are asked for."
    " Captions as tokens say them; what is cut off is in red."
)


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write("".join(page(report)).encode("utf-8", "backslashreplace"))


def page(report: Report) -> Iterator[str]:
    """The page in pieces."""
    title = html.escape(report.file_list)
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
    yield f'<p class="soft">{html.escape(report.scope)}</p>\n'
    yield f'<p class="verdict {"cannot" if report.problems else "can"}">{report.verdict}</p>\n'
    for kind, notes in (("problem", report.problems), ("warning", report.warnings)):
        yield from (f'<p class="note {kind}">{html.escape(note)}</p>\n' for note in notes)
    yield '<div class="facts">\n'
    for name, value in report.facts:
        yield f'<div class="fact"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>\n'
    yield '</div>\n<h2>Plots</h2>\n<div class="charts">\n'
    yield from _charts(report)
    yield "</div>\n"
    for name, table in report.tables.items():
        yield f'<h2>{html.escape(name)}</h2>\n<div class="wide">{_table(table)}</div>\n'
    if report.tiles:
        yield "<h2>Random samples as training sees them</h2>\n"
        yield f'<p class="soft">{ABOUT_TILES}</p>\n'
        yield '<div class="sheet">\n'
        yield from map(_tile, report.tiles)
        yield "</div>\n"
    yield "</body></html>\n"


def _charts(report: Report) -> Iterator[str]:
    sized = report.rows[(report.rows["width"] > 0) & (report.rows["height"] > 0)]
    good = report.rows[report.rows["good"]]
    width, height = sized["width"].astype(float), sized["height"].astype(float)
    side = report.resolution
    yield histogram(np.minimum(width, height), "Short side", "pixels", log=True, mark=side, name="--resolution")
    yield histogram(width / height, "Aspect ratio", "width / height", log=True, mark=1, name="square")
    some = np.random.default_rng(0).permutation(len(sized))[:POINTS]
    title = f"Width and height of {len(some):,} images (red: not used)"
    yield scatter(width[some], height[some], sized["good"][some], title, "pixels", side)
    if good["tokens"].any():
        mark = report.max_length
        yield histogram(good["tokens"], "Caption length", "tokens, with both ends", mark=mark, name="cut here")
    yield histogram(good["characters"], "Caption length", "characters")
    yield histogram(good["num_bytes"] / 1e3, "Image files", "KB", log=True)
    bad = report.tables.get("Why records are not used", [])[1 : REASONS + 1]
    yield bars([(row[1], int(row[0].replace(",", ""))) for row in bad], "Why records are not used")


def _table(table: Table) -> str:
    used = [i for i in range(len(table[0])) if any(row[i] for row in table)]
    numbers = {i for i in used if all(row[i][:1].isdigit() and "/" not in row[i] for row in table[1:])}
    rows = []
    for place, row in enumerate(table):
        tag = "td" if place else "th"
        cells = []
        for i in used:
            kind = ' class="number"' if i in numbers else ""
            cells.append(f"<{tag}{kind}>{html.escape(row[i]).replace(chr(10), '<br>')}</{tag}>")
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return f"<table>\n{''.join(rows)}</table>"


def _tile(tile: Tile) -> str:
    caption = f"{html.escape(tile.kept)}" if tile.kept is not None else html.escape(tile.caption)
    rest = _cut(tile)
    if rest:
        caption += f" <del>{html.escape(rest)}</del>"
    if not tile.caption:
        caption = '<span class="soft">(empty caption)</span>'
    tokens = f"{tile.tokens} tokens, " if tile.tokens else ""
    facts = f"<small>{tokens}{html.escape(tile.where)}</small>"
    picture = f'<img alt="" src="data:image/jpeg;base64,{tile.jpeg}">'
    return f"<figure>{picture}<figcaption>{caption}{facts}</figcaption></figure>\n"


def _cut(tile: Tile) -> str:
    """The end of the caption that its tokens do not say, about: letters are counted without blanks and signs."""
    if tile.kept is None or not tile.cut:
        return ""
    kept = sum(letter.isalnum() for letter in tile.kept)
    for place, letter in enumerate(tile.caption):
        if kept == 0:
            return tile.caption[place:] if any(rest.isalnum() for rest in tile.caption[place:]) else ""
        kept -= letter.isalnum()
    return ""
