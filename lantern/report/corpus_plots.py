"""Plots of a corpus as inline SVG: text in, text out, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b5a300", "#8c8c8c")
"""Eight colours that people with any colour vision can tell apart (after Okabe and Ito), for light and dark pages."""
BINS = 16
_WIDTH = 360


def colour(index: int) -> str:
    """The colour of class *index*; from the ninth on they come again, so the name always stands beside."""
    return PALETTE[index % len(PALETTE)]


def class_bars(title: str, classes: Sequence[str], counts: Sequence[int]) -> str:
    """A bar per class with its count and its share of the labelled utterances."""
    total, most = sum(counts), max([*counts, 1])
    left = 12 + max(7 * min(max(map(len, classes)), 18), 40)
    room = _WIDTH - left - 96
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
    step, most = (_WIDTH - 2 * left) / len(counts), max(int(counts.max()), 1)
    rows = []
    for n, count in enumerate(counts.tolist()):
        size = height * count / most
        told = f"{edges[n]:.4g} to {edges[n + 1]:.4g}: {count:,}"
        rows.append(
            f'<rect x="{left + n * step + 1:.1f}" y="{top + height - size:.1f}" width="{step - 2:.1f}" '
            f'height="{size:.1f}" fill="{PALETTE[0]}"><title>{told}</title></rect>'
        )
    mean = float(values.mean())
    scale = (_WIDTH - 2 * left) / (edges[-1] - edges[0])
    x = left + (mean - edges[0]) * scale
    anchor, beside = ("start", x + 5) if x < _WIDTH / 2 else ("end", x - 5)
    rows.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{top + height}" class="mark"/>'
        f'<text x="{beside:.1f}" y="{top - 6}" text-anchor="{anchor}">mean {mean:.2f}</text>'
        f'<line x1="{left}" x2="{_WIDTH - left}" y1="{top + height}" y2="{top + height}" class="axis"/>'
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
    return (
        f'<figure><figcaption><b>{escape(title)}</b> <span class="dim">{escape(note)}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(words)}">{"".join(rows)}</svg></figure>'
    )
