"""A small chart writer: panels with linear axes, lines, points, bars and labels, as accessible SVG text.

A picture needs no font, script or network. Colours come from CSS classes (the Okabe-Ito palette, safe for colour-blind
readers) with a second set for dark mode, so the same text works inside a page and as a file of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]

GREY = 6
"""Series number of the neutral grey; the numbers below it are colours, all of `charts.css`."""
GAP = 18.0
"""Between panels, in pixels."""

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CORNERS = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.2), (1.1, 0.85), (-1.1, 0.85)),
    "diamond": ((0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)),
    "cross": ((-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3))
    + ((1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3)),
}
_SHAPES = tuple(_CORNERS)
_SIZE = 3.6
"""Of a marker, in pixels."""


def clean(text: str) -> str:
    """`text` escaped for XML and HTML; characters that XML forbids become U+FFFD."""
    return escape(_NOT_XML.sub("\ufffd", str(text)))


def colour(series: int) -> int:
    """The palette entry of a series number, never the grey."""
    return series % GREY


@cache
def style() -> str:
    """The CSS that every chart needs: once in a page, or inside a file of its own."""
    return "".join(resources.files(__package__).joinpath("charts.css").read_text("utf-8").splitlines())


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) from `low` to `high`, inside the range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else [0.0]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """`value` with as many decimals as tell the ticks apart; thousands as 12k."""
    largest = max((abs(t) for t in ticks), default=0)
    if largest >= 10_000:
        return f"{value / 1000:g}k"
    if largest < 1e-3 or len(ticks) < 2:
        return f"{value:g}"
    return f"{value:.{next((d for d in range(7) if all(abs(t - round(t, d)) < 1e-9 for t in ticks)), 6)}f}"


def ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """Round numbers as of `nice_ticks`, each with its text."""
    values = nice_ticks(low, high, count)
    return [(value, tick_text(value, values)) for value in values]


def padded_range(values: Sequence[float], *, zero: bool = False, pad: float = 0.08) -> tuple[float, float]:
    """A range that holds the finite `values` with a margin; from 0 when `zero`, and never empty."""
    kept = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(kept), max(kept)
    if zero and low == high == 0:
        return 0.0, 1.0
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * pad or max(abs(high) * pad, 0.5)
    return (low if zero and low == 0 else low - margin), (high if zero and high == 0 else high + margin)


@dataclass
class Panel:
    """One pair of axes. Draw in data coordinates; x grows to the right and y upwards."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_ticks: Sequence[tuple[float, str]] | None = None
    width: float = 300
    height: float = 220
    left: float = 46
    right: float = 12
    grid: str = "y"
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.top, self.bottom = (26 if self.title else 10), (40 if self.x_label else 24)
        if self.x_ticks is None:
            self.x_ticks = ticks(*self.x, max(3, int(self.width / 75)))
        if self.y_ticks is None:
            self.y_ticks = ticks(*self.y, max(3, int(self.height / 45)))

    def px(self, x: float) -> float:
        """The pixel of data coordinate x."""
        span = (self.x[1] - self.x[0]) or 1.0
        return self.left + (x - self.x[0]) / span * (self.width - self.left - self.right)

    def py(self, y: float) -> float:
        """The pixel of data coordinate y."""
        span = (self.y[1] - self.y[0]) or 1.0
        return self.height - self.bottom - (y - self.y[0]) / span * (self.height - self.top - self.bottom)

    def line(self, points: Sequence[Point], series: int, *, dashed: bool = False, thin: bool = False) -> None:
        """A line through the finite points; a gap where one is not."""
        path, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                path.append(f"{pen}{self.px(x):.1f} {self.py(y):.1f}")
                pen = "L"
            else:
                pen = "M"
        if path:
            classes = f"line s{series}" + " dash" * dashed + " thin" * thin
            self.parts.append(f'<path class="{classes}" d="{"".join(path)}"/>')

    def point(self, x: float, y: float, series: int, *, shape: int = 0, hollow: bool = False, tip: str = "") -> None:
        """One marker; `shape` tells seeds apart, `tip` is the text shown on hovering."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        classes = f'class="pt s{series} {"o" if hollow else "f"}{series}"'
        mark = _marker(self.px(x), self.py(y), _SHAPES[shape % len(_SHAPES)], classes)
        self.parts.append(mark.replace("/>", f"><title>{clean(tip)}</title></{mark[1:].split(' ', 1)[0]}>"))

    def bar(self, low: Point, high: Point, series: int, *, soft: bool = False, tip: str = "") -> None:
        """A rectangle between two corners; `soft` for the paler of a pair."""
        x0, x1 = sorted((self.px(low[0]), self.px(high[0])))
        y0, y1 = sorted((self.py(low[1]), self.py(high[1])))
        box = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
        self.parts.append(f'<rect class="bar f{series}{" soft" * soft}" {box}><title>{clean(tip)}</title></rect>')

    def error(self, x: float, mean: float, deviation: float) -> None:
        """A vertical error bar of one deviation either way."""
        a, b, p = self.py(mean - deviation), self.py(mean + deviation), self.px(x)
        self.parts.append(
            f'<path class="axis err" d="M{p:.1f} {a:.1f}V{b:.1f}M{p - 3:.1f} {a:.1f}H{p + 3:.1f}'
            f'M{p - 3:.1f} {b:.1f}H{p + 3:.1f}"/>'
        )

    def rule(self, a: Point, b: Point) -> None:
        """A thin straight line between two data points (a reference line)."""
        x0, y0, x1, y1 = self.px(a[0]), self.py(a[1]), self.px(b[0]), self.py(b[1])
        self.parts.append(f'<line class="rule" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')

    def band(self, x0: float, x1: float) -> None:
        """A pale background between two x positions, under whatever is drawn later."""
        self.parts.append(
            f'<rect class="band" x="{self.px(x0):.1f}" y="{self.top}" width="{self.px(x1) - self.px(x0):.1f}" '
            f'height="{self.height - self.top - self.bottom:.1f}"/>'
        )

    def label(
        self, x: float, y: float, text: str, *, anchor: str = "middle", dx: float = 0, dy: float = 0, css: str = "small"
    ) -> None:
        """Text at a data point, moved by (dx, dy) pixels; a halo keeps it readable over lines."""
        self.parts.append(
            f'<text class="{css} halo tab" x="{self.px(x) + dx:.1f}" y="{self.py(y) + dy:.1f}" '
            f'text-anchor="{anchor}">{clean(text)}</text>'
        )

    def render(self) -> str:
        """The panel as an SVG group."""
        right, base = self.width - self.right, self.height - self.bottom
        out = [f'<text class="title" x="0" y="14">{clean(self.title)}</text>'] if self.title else []
        for value, text in self.y_ticks or ():
            y = self.py(value)
            if "y" in self.grid:
                out.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            spot = f'x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end"'
            out.append(f'<text class="small muted tab" {spot}>{clean(text)}</text>')
        for value, text in self.x_ticks or ():
            x = self.px(value)
            if "x" in self.grid:
                out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{base}"/>')
            spot = f'x="{x:.1f}" y="{base + 15}" text-anchor="middle"'
            out.append(f'<text class="small muted tab" {spot}>{clean(text)}</text>')
        if "y" in self.grid:
            out.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{base}" y2="{base}"/>')
        if self.x_label:
            spot = f'x="{(self.left + right) / 2:.1f}" y="{self.height - 6}" text-anchor="middle"'
            out.append(f'<text class="small" {spot}>{clean(self.x_label)}</text>')
        if self.y_label:
            spot = f'transform="translate(11 {(self.top + base) / 2:.1f}) rotate(-90)" text-anchor="middle"'
            out.append(f'<text class="small" {spot}>{clean(self.y_label)}</text>')
        return "".join(out + self.parts)


@dataclass(frozen=True)
class Key:
    """One entry of a legend: its text and what it stands for."""

    text: str
    series: int
    mark: str = "line"
    """`line`, `dash`, `thin`, `bar`, `soft`, `hollow`, or the name of a marker shape."""


def _marker(x: float, y: float, shape: str, classes: str) -> str:
    if shape == "circle":
        return f'<circle {classes} cx="{x:.1f}" cy="{y:.1f}" r="{_SIZE}"/>'
    points = " ".join(f"{x + _SIZE * a:.1f},{y + _SIZE * b:.1f}" for a, b in _CORNERS[shape])
    return f'<polygon {classes} points="{points}"/>'


def _key_mark(key: Key, x: float, y: float) -> str:
    if key.mark in ("bar", "soft"):
        css = f"f{key.series}" + " soft" * (key.mark == "soft")
        return f'<rect class="{css}" x="{x + 4}" y="{y - 6}" width="14" height="12"/>'
    if key.mark in ("line", "dash", "thin"):
        css = f"line s{key.series}" + (f" {key.mark}" if key.mark != "line" else "")
        return f'<line class="{css}" x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}"/>'
    fill, shape = ("o", "circle") if key.mark == "hollow" else ("f", key.mark)
    return _marker(x + 12, y, shape, f'class="s{key.series} {fill}{key.series}"')


def _legend(keys: Sequence[Key], width: float) -> tuple[str, float]:
    out, x, y = [], 0.0, 10.0
    for key in keys:
        need = 26 + 6.6 * len(key.text) + 18
        if x and x + need > width:
            x, y = 0.0, y + 18
        out.append(_key_mark(key, x, y))
        out.append(f'<text class="small" x="{x + 27}" y="{y + 4}">{clean(key.text)}</text>')
        x += need
    return "".join(out), (y + 16 if keys else 0.0)


def shape_name(index: int) -> str:
    """The marker that `Panel.point(shape=index)` draws."""
    return _SHAPES[index % len(_SHAPES)]


def figure(panels: Sequence[Panel], *, title: str, description: str, columns: int, keys: Sequence[Key] = ()) -> str:
    """Panels in rows of `columns` under one legend, as one `<svg>`; `title` and `description` are read aloud."""
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    width = max((sum(p.width for p in row) + GAP * (len(row) - 1) for row in rows), default=200.0)
    legend, y = _legend(keys, width)
    body = [legend]
    for row in rows:
        x = 0.0
        for panel in row:
            body.append(f'<g class="panel" transform="translate({x:.1f} {y:.1f})">{panel.render()}</g>')
            x += panel.width + GAP
        y += max(p.height for p in row) + GAP
    height, label = max(y - GAP, 20), quoteattr(_NOT_XML.sub("\ufffd", title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="xlt" role="img" aria-label={label} '
        f'viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" width="{width + 4:.0f}" height="{height + 4:.0f}">'
        f"<title>{clean(title)}</title><desc>{clean(description)}</desc>{''.join(body)}</svg>"
    )


def standalone(svg: str) -> str:
    """A figure as a file of its own: with its style and a background."""
    head, rest = svg.split("<title>", 1)
    title, rest = rest.split("</desc>", 1)
    match = re.search(r'viewBox="-2 -2 (\d+) (\d+)" width="\d+" height="\d+"', head)
    assert match, "not a figure of this module"
    w, h = int(match[1]) + 20, int(match[2]) + 20
    head = head.replace(match[0], f'viewBox="-12 -12 {w} {h}" width="{w}" height="{h}"')
    back = f'<rect class="bg" x="-12" y="-12" width="{w}" height="{h}"/>'
    return f"{head}<title>{title}</desc><style>{style()}</style>{back}{rest}\n"
