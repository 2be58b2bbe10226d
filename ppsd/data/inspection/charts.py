"""Bar charts and scatter plots as SVG, small and without a library. Colours come from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 24, 40


def histogram(
    values: np.ndarray, title: str, unit: str, *, log: bool = False, mark: float | None = None, name: str = ""
) -> str:
    """How many of `values` [N] are where, from their 0.5 to their 99.5 percentile; those outside are in the end bars.

    log: bars of equal ratio. mark: a value to draw a line at, called `name`.
    """
    values = values[values > 0] if log else values
    if not len(values):
        return ""
    low, high = np.quantile(values, (0.005, 0.995))
    if mark is not None:
        low, high = min(low, mark), max(high, mark)
    edges = _edges(float(low), float(high), log)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    scale = _Scale(float(edges[0]), float(edges[-1]), log)
    top = max(1, int(counts.max()))
    body = _frame(title, unit) + _y_axis(top)
    for count, begin, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist()):
        if count:
            x, width = scale.x(begin), max(0.8, scale.x(end) - scale.x(begin) - 0.8)
            height = max(1.0, (HEIGHT - TOP - BOTTOM) * count / top)
            tip = html.escape(f"{_short(begin)} to {_short(end)} {unit}: {count:,}")
            y = HEIGHT - BOTTOM - height
            place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            body += f'<rect class="bar" {place}><title>{tip}</title></rect>'
    return _svg(body + _x_axis(scale) + _mark(scale, mark, name), title)


def scatter(x: np.ndarray, y: np.ndarray, good: np.ndarray, title: str, unit: str, mark: float) -> str:
    """Points (x, y) on logarithmic axes with equal ends; those that are not good in the warning colour."""
    if not len(x):
        return ""
    both = np.concatenate([x, y])
    scale = _Scale(float(min(both.min(), mark)) * 0.9, float(max(both.max(), mark)) * 1.1, True)
    body = _frame(title, unit)
    for a, b, usable in zip(x.tolist(), y.tolist(), good.tolist()):
        body += f'<circle class="{"point" if usable else "bad"}" cx="{scale.x(a):.1f}" cy="{scale.y(b):.1f}" r="2"/>'
    for tick in scale.ticks():
        body += f'<text class="tick" x="{LEFT - 6}" y="{scale.y(tick) + 3:.1f}" text-anchor="end">{_short(tick)}</text>'
    x0, y0 = scale.x(mark), scale.y(mark)
    lines = f'<path class="mark" d="M{x0:.1f} {TOP}V{y0:.1f}H{WIDTH - RIGHT}"/>'
    return _svg(body + _x_axis(scale) + lines, title)


def bars(counts: Sequence[tuple[str, int]], title: str) -> str:
    """One bar a name, lying, the longest ones first."""
    if not counts:
        return ""
    top, step = max(count for _, count in counts), 34
    body = f'<text class="title" x="4" y="12">{html.escape(title)}</text>'
    for row, (name, count) in enumerate(counts):
        y = TOP + 12 + row * step
        label = html.escape(name if len(name) <= 60 else f"{name[:57]}...")
        body += f'<text class="label" x="4" y="{y + 10}">{label}</text>'
        width = max(1.0, (WIDTH - 90) * count / top)
        body += f'<rect class="bar bad" x="4" y="{y + 14}" width="{width:.1f}" height="10"/>'
        body += f'<text class="tick" x="{width + 10:.1f}" y="{y + 23}">{count:,}</text>'
    return _svg(body, title, TOP + 16 + step * len(counts))


class _Scale:
    """Values -> places in the frame."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self._low, self._high, self._log = low, high if high > low else low + 1, log

    def _share(self, value: float) -> float:
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self._share(value)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self._share(value)

    def ticks(self) -> list[float]:
        """A few round values within the scale."""
        if self._log:
            decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            found = [factor * 10.0**decade for decade in decades for factor in (1, 1.5, 2, 3, 5, 7)]
        else:
            step = _round_step((self._high - self._low) / 5)
            found = [step * number for number in range(math.ceil(self._low / step), math.floor(self._high / step) + 1)]
        inside = [tick for tick in found if self._low <= tick <= self._high]
        return inside[:: -(-len(inside) // 8)] if inside else []


def _edges(low: float, high: float, log: bool, count: int = 40) -> np.ndarray:
    if log:
        low, high = (low, high) if high / low > 1.05 else (low / 1.05, high * 1.05)
        return np.geomspace(low, high, count + 1)
    if high - low < count:  # whole numbers
        low, high = math.floor(low), math.floor(high) + 1
        return np.linspace(low, high, high - low + 1)
    return np.linspace(low, high, count + 1)


def _round_step(step: float) -> float:
    base = 10.0 ** math.floor(math.log10(step))
    return next(base * factor for factor in (1, 2, 5, 10) if base * factor >= step)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _svg(body: str, title: str, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">{body}</svg>'


def _frame(title: str, unit: str) -> str:
    base = HEIGHT - BOTTOM
    return (
        f'<text class="title" x="4" y="12">{html.escape(title)}</text>'
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>'
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(unit)}</text>"
    )


def _y_axis(top: int) -> str:
    step = max(1.0, _round_step(top / 4))
    parts = []
    for number in range(int(top / step) + 1):
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * number * step / top
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{number * step:,.0f}</text>')
    return "".join(parts)


def _x_axis(scale: _Scale) -> str:
    y = HEIGHT - BOTTOM + 14
    texts = (
        f'<text class="tick" x="{scale.x(t):.1f}" y="{y}" text-anchor="middle">{_short(t)}</text>'
        for t in scale.ticks()
    )
    return "".join(texts)


def _mark(scale: _Scale, value: float | None, name: str) -> str:
    if value is None:
        return ""
    x = scale.x(value)
    anchor, dx = ("end", -4) if x > WIDTH / 2 else ("start", 4)
    line = f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    return (
        f'{line}<text class="marked" x="{x + dx:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{html.escape(name)}</text>'
    )
