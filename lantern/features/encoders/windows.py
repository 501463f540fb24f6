"""Dialogues cut into windows of consecutive turns that an encoder reads at once. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Turns ``start`` to ``stop`` of a dialogue."""

    start: int
    stop: int
    own: tuple[int, ...]
    """The turns that take their vector from this window; the others are their context."""


def cut(lengths: Sequence[int], budget: int, causal: bool = False) -> list[Window]:
    """Windows of at most *budget* tokens over the turns of a dialogue with *lengths* tokens, all at most *budget*.

    Each turn is own in exactly one window. A dialogue that fits is one window. Otherwise each window begins in the
    middle of the one before it, and a turn belongs to the window that shows it most: the most tokens on its shorter
    side, or, where *causal*, the most tokens before it.
    """
    spans = [(0, _stop(lengths, 0, budget))]
    while spans[-1][1] < len(lengths):
        start, stop = spans[-1]
        half, middle = sum(lengths[start:stop]) / 2, start + 1
        while middle < stop and sum(lengths[start:middle]) < half:
            middle += 1
        spans.append((middle, _stop(lengths, middle, budget)))

    def shown(turn: int, span: tuple[int, int]) -> float:
        start, stop = span
        # What begins or ends with the dialogue lacks nothing there.
        before = sum(lengths[start:turn]) if start else float("inf")
        after = sum(lengths[turn + 1 : stop]) if stop < len(lengths) else float("inf")
        return before if causal else min(before, after)

    owner = {
        turn: max((span for span in spans if span[0] <= turn < span[1]), key=lambda span: shown(turn, span))
        for turn in range(len(lengths))
    }
    windows = [Window(*span, tuple(turn for turn, of in owner.items() if of == span)) for span in spans]
    return [window for window in windows if window.own]


def _stop(lengths: Sequence[int], start: int, budget: int) -> int:
    stop, total = start, 0
    while stop < len(lengths) and total + lengths[stop] <= budget:
        total += lengths[stop]
        stop += 1
    return stop
