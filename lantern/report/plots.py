"""Small SVG drawings for a page: no script, no network, colours from the page's own style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lantern.report.pages import macros

WIDTH, HEIGHT = 320, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 38
_BOX = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
"""Of a chart: its size, and where its axes end."""
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

    @property
    def radius(self) -> float:
        """Of the mark."""
        return 2.5 + 3 * math.sqrt(max(0.0, min(1.0, self.weight)))


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

    return macros("drawings.html").chart(_BOX, x, y, series, label, px, py, diagonal, zero)


def strip(low: float, value: float, high: float, span: tuple[float, float], label: str, width: int = 120) -> str:
    """An interval on a line of its own, zero marked; strips with the same *span* can be read below each other."""
    zero, *ends = (_along(number, span, width) for number in (0, low, value, high))
    return macros("drawings.html").strip(width, label, low > 0 or high < 0, zero, *ends)


def ruler(span: tuple[float, float], title: str, width: int) -> str:
    """The axis below strips of *span* and *width*."""
    return macros("drawings.html").ruler(width, Axis(*span, title), lambda value: _along(value, span, width))


def _along(number: float, span: tuple[float, float], width: int) -> float:
    share = (number - span[0]) / (span[1] - span[0] or 1)
    return round(4 + max(0.0, min(1.0, share)) * (width - 8), 1)


def bars(names: Sequence[str], values: Sequence[float], sds: Sequence[float | None], label: str) -> str:
    """Upright bars from 0 to 1 with their value above and the standard deviation as a whisker; the first is vanilla."""
    base, top = HEIGHT - BOTTOM, TOP + 8
    high = max([*values, 0.01])
    reach = min(1.0, nice_step(high, 4) * math.ceil(high / nice_step(high, 4) - 1e-9))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(names))
    rows = []
    for place, (name, value, sd) in enumerate(zip(names, values, sds, strict=True)):
        height, half = (number / reach * (base - top) for number in (value, sd or 0.0))
        ends = {"high": max(TOP, base - height - half), "low": min(base, base - height + half)} if sd else {}
        bar = {"x": LEFT + step * (place + 0.5), "width": min(46.0, step * 0.6), "top": base - height}
        shown = {"name": name, "value": value, "sd": sd, "height": max(height, 0.5)}
        rows.append({**bar, **shown, "high": base - height, **ends})

    def py(value: float) -> float:
        return round(base - value / reach * (base - top), 1)

    return macros("drawings.html").bars(_BOX, Axis(0, reach, "weight"), rows, label, py, top + (base - top) / 2)


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
        share = f"{100 * count / total:.1f} %" if total else "-"
        rows.append((_short(name), count, max(room * count / most, 1.5 if count else 0), share, colour(n)))
    words = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    return macros("drawings.html").class_bars(title, f"{total:,} labelled", f"{title}: {words}", BARS_WIDTH, left, rows)


def histogram(title: str, values: np.ndarray, low: float, high: float) -> str:
    """How often each score from *low* to *high* was given; *values* ``[N]``, not empty."""
    edges = _edges(values, low, high)
    counts, _ = np.histogram(values, bins=edges)
    left, top, height = 12, 18, 110
    step, most = (BARS_WIDTH - 2 * left) / len(counts), max(int(counts.max()), 1)
    rows = []
    for n, count in enumerate(counts.tolist()):
        text = f"{edges[n]:.4g} to {edges[n + 1]:.4g}: {count:,}"
        rows.append((left + n * step + 1, height * count / most, step - 2, text))

    def at(value: float) -> float:
        return left + (value - edges[0]) * (BARS_WIDTH - 2 * left) / (edges[-1] - edges[0])

    first, last = ("start", "end") if edges[0] == low else ("middle", "middle")
    ticks = [(low + n * (high - low) / 2, anchor) for n, anchor in enumerate((first, "middle", last))]
    note, mean = f"{len(values):,} scores, sd {values.std():.2f}", float(values.mean())
    return macros("drawings.html").histogram(
        title, note, mean, BARS_WIDTH, left, top, top + height, rows, ticks, at, PALETTE[0]
    )


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
