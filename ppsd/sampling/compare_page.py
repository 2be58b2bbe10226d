"""A comparison as a page that needs no other file, and as one picture."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Row = Sequence[Sequence[np.ndarray]]
"""Of each column, its pictures uint8 [H,W,3]."""

_LINE = 16
_STYLE = """body{font:14px sans-serif;margin:1em}table{border-collapse:collapse}th,td{padding:4px;vertical-align:top}
thead th{position:sticky;top:0;background:#fff;z-index:1;max-width:0;overflow-wrap:break-word;text-align:left}
tbody th{position:sticky;left:0;background:#fff;text-align:left;max-width:14em;overflow-wrap:break-word}
img{display:block;margin-bottom:4px;min-width:128px;max-width:100%;image-rendering:auto}"""


def page(title: str, about: str, columns: Sequence[str], labels: Sequence[str], rows: Sequence[Row]) -> str:
    """HTML with the pictures in it. columns, labels: heads of the columns and of the rows; about: one line."""
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = []
    for label, row in zip(labels, rows):
        cells = []
        for column, pictures in zip(columns, row):
            alt = html.escape(f"{label}: {column}", quote=True)
            cells.append("".join(f'<img src="{_data_url(picture)}" alt="{alt}" title="{alt}">' for picture in pictures))
        body.append(f"<tr><th>{html.escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    table = f"<thead><tr><th></th>{heads}</tr></thead>\n<tbody>\n{''.join(body)}</tbody>"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><h1>{html.escape(title)}</h1>\n'
        f"<p>{html.escape(about)}</p>\n<table>{table}</table></body></html>\n"
    )


def _data_url(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def sheet(columns: Sequence[str], labels: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """The same as one picture uint8 [H,W,3]; several pictures of a cell stand beside one another."""
    tiles = [[np.concatenate([_padded(p, _heights(rows)) for p in cell], axis=1) for cell in row] for row in rows]
    scale = max(1, -(-128 // max(_heights(rows), 1)))
    height = _heights(rows) * scale
    widths = [max(row[i].shape[1] for row in tiles) * scale for i in range(len(columns))]
    heads = [textwrap.wrap(column, max(8, width // 7))[:4] for column, width in zip(columns, widths)]
    top = 8 + _LINE * max(len(lines) for lines in heads)
    left = 8 + 7 * min(28, max(len(line) for label in labels for line in label.split("\n")))
    picture = Image.new("RGB", (left + sum(widths) + 4 * len(widths), top + len(rows) * (height + 4)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    lefts = [left + sum(widths[:i]) + 4 * i for i in range(len(widths))]
    for x, lines in zip(lefts, heads):
        draw.multiline_text((x, 2), "\n".join(lines), fill="black", font=font)
    for number, (label, row) in enumerate(zip(labels, tiles)):
        y = top + number * (height + 4)
        lines = [piece for line in label.split("\n") for piece in textwrap.wrap(line, 28)]
        draw.multiline_text((4, y + 2), "\n".join(lines), fill="black", font=font)
        for x, tile in zip(lefts, row):
            enlarged = Image.fromarray(tile)
            enlarged = enlarged.resize((enlarged.width * scale, enlarged.height * scale), Image.Resampling.NEAREST)
            picture.paste(enlarged, (x, y))
    return np.asarray(picture)


def _heights(rows: Sequence[Row]) -> int:
    return max(picture.shape[0] for row in rows for cell in row for picture in cell)


def _padded(picture: np.ndarray, height: int) -> np.ndarray:
    """White below."""
    return np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0)), constant_values=255)
