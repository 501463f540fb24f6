"""Small SVG drawings for a page: no script, no network, colours from the page's own style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 38
BARS_WIDTH = 360
BINS = 16
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b5a300", "#8c8c8c")
"""Eight colours that people with any colour vision can tell apart (after Okabe and Ito), for light and dark pages."""


@dataclass(frozen=True, slots=True)
class Point:
    """A mark: where it stands, how far it is sure, what a pointer over it reads."""

    x: float
    y: float
    note: str = ""
    low: float | None = None
    high: float | None = None
    weight: float = 1.0
    """Share of the largest mark's area."""
    text: str = ""
    """Stands beside the mark."""


@dataclass(frozen=True, slots=True)
class Series:
    """Marks of one colour and one shape; ``style`` names both: ``vanilla``, ``weighted``, ``c0`` to ``c7``."""

    style: str
    points: Sequence[Point]
    line: bool = False
    name: str = ""
    """In the key of its chart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Range and name of one axis."""

    low: float
    high: float
    title: str
    digits: int = 0
    ticks: Sequence[float] | None = None

    @property
    def marks(self) -> list[float]:
        """Where ticks stand."""
        if self.ticks is not None:
            return list(self.ticks)
        step = nice_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def tick(self, value: float) -> str:
        """Text of a tick."""
        step = self.marks[1] - self.marks[0] if len(self.marks) > 1 else 1
        digits = max(self.digits, 0 if step >= 1 else min(6, math.ceil(-math.log10(step) - 1e-9)))
        return f"{value + 0.0:.{digits}f}"


def nice_step(span: float, most: int = 6) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts *span* into at most *most* parts."""
    raw = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9))


def padded(values: Sequence[float], include: Sequence[float] = (), share: float = 0.08) -> tuple[float, float]:
    """A range around *values* and *include* with some air; never empty."""
    whole = [*values, *include]
    low, high = (min(whole), max(whole)) if whole else (0.0, 1.0)
    air = share * (high - low) or 1.0
    return low - air, high + air


def chart(x: Axis, y: Axis, series: Sequence[Series], label: str, *, diagonal: bool = False, zero: bool = False) -> str:
    """A chart of points and lines; *label* tells it to who cannot see it.

    *diagonal* draws ``y = x``, *zero* the line ``y = 0``.
    """

    def px(value: float) -> float:
        return round(LEFT + (value - x.low) / (x.high - x.low or 1) * (WIDTH - LEFT - RIGHT), 1)

    def py(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y.low) / (y.high - y.low or 1) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [_open(WIDTH, HEIGHT, label, "chart")]
    for value in y.marks:
        parts.append(f'<path class="grid" d="M{LEFT} {py(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{py(value) + 3.5}">{y.tick(value)}</text>')
    for value in x.marks:
        parts.append(f'<path class="grid" d="M{px(value)} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick mid" x="{px(value)}" y="{HEIGHT - BOTTOM + 14}">{x.tick(value)}</text>')
    if diagonal:
        parts.append(f'<path class="rule" d="M{px(x.low)} {py(x.low)}L{px(x.high)} {py(x.high)}"/>')
    if zero and y.low <= 0 <= y.high:
        parts.append(f'<path class="rule" d="M{LEFT} {py(0)}H{WIDTH - RIGHT}"/>')
    for one in series:
        marks = [(px(p.x), py(p.y), p) for p in one.points]
        if one.line and len(marks) > 1:
            path = "L".join(f"{a} {b}" for a, b, _ in marks)
            parts.append(f'<path class="line {one.style}" d="M{path}"/>')
        for a, b, point in marks:
            whisker = ""
            if point.low is not None and point.high is not None:
                low, high = py(max(point.low, y.low)), py(min(point.high, y.high))
                whisker = f'<path class="whisker {one.style}" d="M{a} {low}V{high}"/>'
            shape = mark(one.style, a, b, 2.5 + 3 * math.sqrt(max(0.0, min(1.0, point.weight))))
            name = ""
            if point.text:
                side = a > LEFT + 0.7 * (WIDTH - LEFT - RIGHT)
                kind, at = ("value end", a - 9) if side else ("value", a + 9)
                name = f'<text class="{kind}" x="{at:.1f}" y="{b + 4:.1f}">{escape(point.text)}</text>'
            parts.append(f"<g>{whisker}{shape}{name}<title>{escape(point.note)}</title></g>")
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(f'<text class="name mid" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x.title)}</text>')
    parts.append(f'<text class="name mid" transform="translate(11 {middle}) rotate(-90)">{escape(y.title)}</text>')
    return Markup("".join([*parts, "</svg>"]))


def mark(style: str, x: float, y: float, radius: float) -> str:
    """The shape of a style: a hollow circle for vanilla, a square for weighted, a diamond for anything else."""
    r = round(radius, 1)
    if style == "vanilla":
        return f'<circle class="mark {style}" cx="{x}" cy="{y}" r="{r}"/>'
    if style == "weighted":
        return f'<rect class="mark {style}" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
    d = f"M{x} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z"
    return f'<path class="mark {style}" d="{d}"/>'


def strip(low: float, value: float, high: float, span: tuple[float, float], label: str, width: int = 120) -> str:
    """An interval on a line of its own, zero marked; strips with the same *span* can be read below each other."""
    x0, x1, x2, x3 = (_along(number, span, width) for number in (0, low, value, high))
    sure = "sure" if low > 0 or high < 0 else "unsure"
    return Markup(
        f"{_open(width, 18, label, 'strip')}"
        f'<path class="rule" d="M{x0} 1V17"/>'
        f'<path class="whisker weighted {sure}" d="M{x1} 9H{x3}"/>'
        f"{mark('weighted', x2, 9, 3.5)}</svg>"
    )


def ruler(span: tuple[float, float], title: str, width: int) -> str:
    """The axis below strips of *span* and *width*."""
    axis = Axis(*span, title)
    parts = [_open(width, 34, title, "strip"), f'<path class="grid" d="M4 1H{width - 4}"/>']
    for value in axis.marks:
        x = _along(value, span, width)
        parts.append(
            f'<path class="grid" d="M{x} 1v4"/><text class="tick mid" x="{x}" y="16">{axis.tick(value)}</text>'
        )
    return Markup("".join([*parts, f'<text class="name mid" x="{width / 2}" y="31">{escape(title)}</text></svg>']))


def _along(number: float, span: tuple[float, float], width: int) -> float:
    share = (number - span[0]) / (span[1] - span[0] or 1)
    return round(4 + max(0.0, min(1.0, share)) * (width - 8), 1)


def bars(names: Sequence[str], values: Sequence[float], sds: Sequence[float | None], label: str) -> str:
    """Upright bars from 0 to 1 with their value above and the standard deviation as a whisker; the first is vanilla."""
    parts = [_open(WIDTH, HEIGHT, label, "chart")]
    room, base, top = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM, TOP + 8
    high = max([*values, 0.01])
    reach = min(1.0, nice_step(high, 4) * math.ceil(high / nice_step(high, 4) - 1e-9))
    axis = Axis(0, reach, "weight")
    for value in axis.marks:
        y = round(base - value / reach * (base - top), 1)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 3.5}">{axis.tick(value)}</text>')
    step = room / max(1, len(names))
    for place, (name, value, sd) in enumerate(zip(names, values, sds, strict=True)):
        x, width = LEFT + step * (place + 0.5), min(46.0, step * 0.6)
        height = value / reach * (base - top)
        style = "vanilla" if place == 0 else "weighted"
        parts.append(
            f'<rect class="bar {style}" x="{x - width / 2:.1f}" y="{base - height:.1f}" width="{width:.1f}" '
            f'height="{max(height, 0.5):.1f}"/>'
        )
        above = base - height
        if sd:
            half = sd / reach * (base - top)
            high_end = max(TOP, base - height - half)
            parts.append(
                f'<path class="whisker ink" d="M{x:.1f} {high_end:.1f}V{min(base, base - height + half):.1f}"/>'
            )
            above = high_end
        parts.append(f'<text class="value mid" x="{x:.1f}" y="{max(9, above - 4):.1f}">{value:.2f}</text>')
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{base + 14}">{escape(name)}</text>')
    middle = top + (base - top) / 2
    parts.append(f'<text class="name mid" transform="translate(11 {middle}) rotate(-90)">mean weight</text>')
    return Markup("".join([*parts, "</svg>"]))


def colour(index: int) -> str:
    """The colour of class *index*; from the ninth on they come again, so the name always stands beside."""
    return PALETTE[index % len(PALETTE)]


def class_bars(title: str, classes: Sequence[str], counts: Sequence[int]) -> str:
    """A bar per class with its count and its share of the labelled utterances."""
    total, most = sum(counts), max([*counts, 1])
    left = 12 + max(7 * min(max(map(len, classes)), 18), 40)
    room = BARS_WIDTH - left - 96
    rows = []
    for n, (name, count) in enumerate(zip(classes, counts, strict=True)):
        y, width = 26 * n + 6, max(room * count / most, 1.5 if count else 0)
        share = f"{100 * count / total:.1f} %" if total else "-"
        rows.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{colour(n)}"/>'
            f'<text x="{left + width + 6:.1f}" y="{y + 13}">{count:,} <tspan class="dim">{share}</tspan></text>'
        )
    words = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    return _figure(title, f"{total:,} labelled", f"{title}: {words}", 26 * len(classes) + 8, rows)


def histogram(title: str, values: np.ndarray, low: float, high: float) -> str:
    """How often each score from *low* to *high* was given; *values* ``[N]``, not empty."""
    edges = _edges(values, low, high)
    counts, _ = np.histogram(values, bins=edges)
    left, top, height = 12, 18, 110
    step, most = (BARS_WIDTH - 2 * left) / len(counts), max(int(counts.max()), 1)
    rows = []
    for n, count in enumerate(counts.tolist()):
        size = height * count / most
        note = f"{edges[n]:.4g} to {edges[n + 1]:.4g}: {count:,}"
        rows.append(
            f'<rect x="{left + n * step + 1:.1f}" y="{top + height - size:.1f}" width="{step - 2:.1f}" '
            f'height="{size:.1f}" fill="{PALETTE[0]}"><title>{note}</title></rect>'
        )
    mean = float(values.mean())
    scale = (BARS_WIDTH - 2 * left) / (edges[-1] - edges[0])
    x = left + (mean - edges[0]) * scale
    anchor, beside = ("start", x + 5) if x < BARS_WIDTH / 2 else ("end", x - 5)
    rows.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{top + height}" class="rule"/>'
        f'<text x="{beside:.1f}" y="{top - 6}" text-anchor="{anchor}">mean {mean:.2f}</text>'
        f'<line x1="{left}" x2="{BARS_WIDTH - left}" y1="{top + height}" y2="{top + height}" class="grid"/>'
    )
    inward = ("start", "end") if edges[0] == low else ("middle", "middle")
    for n, anchor in ((0, inward[0]), (1, "middle"), (2, inward[1])):
        tick = low + n * (high - low) / 2
        at = left + (tick - edges[0]) * scale
        rows.append(f'<text x="{at:.1f}" y="{top + height + 17}" text-anchor="{anchor}" class="dim">{tick:g}</text>')
    note = f"{len(values):,} scores, sd {values.std():.2f}"
    return _figure(title, note, f"{title}: {note}, mean {mean:.2f}", top + height + 24, rows)


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of the bars: around each value where raters could give few, else evenly spaced."""
    for step in (1.0, 0.5, 0.25):
        places = (values - low) / step
        bars = (high - low) / step
        if bars <= 20 and np.allclose(places, places.round(), atol=1e-6) and math.isclose(bars, round(bars)):
            return low + step * (np.arange(round(bars) + 2) - 0.5)
    return np.linspace(low, high, BINS + 1)


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _figure(title: str, note: str, words: str, height: int, rows: Sequence[str]) -> str:
    return Markup(
        f'<figure><figcaption>{escape(title)} <span class="dim">{escape(note)}</span></figcaption>'
        f'<svg class="bars" viewBox="0 0 {BARS_WIDTH} {height}" role="img" aria-label="{escape(words)}">'
        f"{''.join(rows)}</svg></figure>"
    )


def _open(width: int, height: int, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">'
    )
