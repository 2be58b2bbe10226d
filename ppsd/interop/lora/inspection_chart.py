"""Bars of how much each block changes, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppsd.interop.lora.inspection import BlockFacts, Inspection

WIDTH, ROW, HEAD, GAP = 900, 18, 44, 16
COLORS = {"text": "#7a5195", "down": "#2f6fab", "mid": "#ef8a17", "up": "#2a9d6f", "ends": "#8a8a8a"}


def draw_chart(found: Sequence[Inspection]) -> np.ndarray:
    """uint8 [H,W,3]: a panel for each file, all with one scale."""
    height = sum(HEAD + ROW * len(one.blocks) + GAP for one in found)
    picture = Image.new("RGB", (WIDTH, max(height, HEAD)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    names = [_title(facts) for one in found for facts in one.blocks]
    left = 16 + int(max((draw.textlength(name, font=font) for name in names), default=0))
    most = max((facts.norm for one in found for facts in one.blocks), default=0.0)
    y = 0
    for one in found:
        draw.text((8, y + 8), _plain(f"{one.path.name}: norm of the change of each block"), fill="black", font=font)
        _legend(draw, font, y + 24, {group(facts) for facts in one.blocks})
        y += HEAD
        for facts in one.blocks:
            _bar(draw, font, facts, left, y, most)
            y += ROW
        y += GAP
    return np.asarray(picture)


def group(facts: BlockFacts) -> str:
    """A key of COLORS."""
    head = facts.block.name.split("_")[0]
    return head if head in COLORS else "ends"


def _bar(draw: ImageDraw.ImageDraw, font: Any, facts: BlockFacts, left: int, y: int, most: float) -> None:
    text = _title(facts)
    draw.text((left - 8 - draw.textlength(text, font=font), y + 3), text, fill="black", font=font)
    width = (WIDTH - left - 80) * (facts.norm / most if most else 0.0)
    draw.rectangle((left, y + 2, left + max(width, 1), y + ROW - 3), fill=COLORS[group(facts)])
    draw.text((left + width + 6, y + 3), f"{facts.norm:.4g}", fill="#444444", font=font)


def _legend(draw: ImageDraw.ImageDraw, font: Any, y: int, groups: set[str]) -> None:
    names = {"text": "text encoder", "down": "UNet, down", "mid": "middle", "up": "up", "ends": "ends"}
    x = 8.0
    for key, name in ((key, name) for key, name in names.items() if key in groups):
        draw.rectangle((x, y + 2, x + 9, y + 11), fill=COLORS[key])
        draw.text((x + 13, y), name, fill="#444444", font=font)
        x += 13 + draw.textlength(name, font=font) + 14


def _title(facts: BlockFacts) -> str:
    return f"{facts.block.name}  {facts.block.label}".rstrip()


def _plain(text: str) -> str:
    """What the built-in font has."""
    return text.encode("ascii", "backslashreplace").decode()
