"""Figures for a notebook or a paper: matplotlib, which the extra ``notebook`` brings."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.errors import UserError
from lantern.metrics.methods import WEIGHTED
from lantern.results.comparison import Comparison
from lantern.results.load import Run


def plot_gains(comparison: Comparison, axes: Any = None) -> Any:
    """A forest plot: the gain of every setting with an LLM, in points of accuracy, with its 95 % interval.

    Args:
        comparison: one of those that :func:`lantern.compare_runs` returns.
        axes: of matplotlib; None for new ones.

    Returns:
        The axes.

    Raises:
        UserError: matplotlib is not installed, or no setting has an LLM.
    """
    lines = [(line.name, line.verdict) for line in comparison.lines]
    shown = [(name, one) for name, one in lines if one is not None]
    if not shown:
        raise UserError(f"{comparison.title}: no setting has an LLM, there is no gain to draw")
    axes = _axes(axes, (7, 0.6 + 0.4 * len(shown)))
    for place, (_, one) in enumerate(shown):
        known = one.low is not None and one.high is not None
        spread = [[one.gain - one.low], [one.high - one.gain]] if known else None  # type: ignore[operator]
        axes.errorbar([one.gain], [place], xerr=spread, fmt="s", color="C0", capsize=3)
    axes.axvline(0, color="0.5", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("gain in points of accuracy, 95 % interval over dialogues")
    return axes


def plot_confusion(run: Run, method: str = WEIGHTED, axes: Any = None) -> Any:
    """The confusion matrix of *method* on the test split, each row as shares of its gold class.

    Args:
        run: a finished run.
        method: a key of ``run.result["test"]["methods"]``, for instance ``vanilla``.
        axes: of matplotlib; None for new ones.

    Returns:
        The axes.

    Raises:
        UserError: matplotlib is not installed, or the run has no such method.
    """
    reports = run.result["test"]["methods"]
    if method not in reports:
        raise UserError(f"method={method!r}: the run has {', '.join(reports)}")
    counts, classes = np.array(reports[method]["confusion"], dtype=float), list(reports[method]["per_class"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = _axes(axes, (5, 5))
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for gold, row in enumerate(shares):
        for predicted, share in enumerate(row):
            colour = "white" if share > 0.6 else "black"
            axes.text(predicted, gold, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="gold", title=f"{method}, per cent of the gold class")
    return axes


def _axes(axes: Any, size: tuple[float, float]) -> Any:
    if axes is not None:
        return axes
    try:
        from matplotlib.figure import Figure
        from matplotlib.pyplot import subplots
    except ModuleNotFoundError:
        raise UserError("plots need matplotlib: pip install matplotlib") from None
    made: tuple[Figure, Any] = subplots(figsize=size, layout="constrained")
    return made[1]
