"""Agreement of predicted with rated valence, arousal and dominance, on the corpus scale. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.corpora.types import DIMENSIONS
from lantern.tables import PredictionTable


def concordance(predicted: np.ndarray, rated: np.ndarray) -> float | None:
    """Concordance correlation (Lin 1989): ``2 cov / (var + var + (mean - mean)²)`` of two vectors ``[M]``.

    Population moments. None when either vector is constant or shorter than two.
    """
    if _degenerate(predicted) or _degenerate(rated):
        return None
    covariance = ((predicted - predicted.mean()) * (rated - rated.mean())).mean()
    return float(2 * covariance / (predicted.var() + rated.var() + (predicted.mean() - rated.mean()) ** 2))


def pearson(predicted: np.ndarray, rated: np.ndarray) -> float | None:
    """Pearson correlation of two vectors ``[M]``; None when either is constant or shorter than two."""
    if _degenerate(predicted) or _degenerate(rated):
        return None
    covariance = ((predicted - predicted.mean()) * (rated - rated.mean())).mean()
    return float(np.clip(covariance / (predicted.std() * rated.std()), -1, 1))


def rmse(predicted: np.ndarray, rated: np.ndarray) -> float | None:
    """Root mean squared error in scale points; None without a pair."""
    return float(np.sqrt(np.square(predicted - rated).mean())) if len(predicted) else None


def dimension_report(
    predicted: np.ndarray, rated: np.ndarray, names: Sequence[str] = DIMENSIONS
) -> dict[str, dict[str, Any]]:
    """Per dimension: ``rows``, ``ccc``, ``pearson``, ``rmse``; plain JSON values, None where undefined.

    Args:
        predicted: ``[N, K]`` on the corpus scale; NaN where there is none.
        rated: ``[N, K]`` on the corpus scale; NaN where nobody rated.

    Raises:
        ValueError: the shapes do not fit.
    """
    predicted, rated = np.asarray(predicted, dtype=np.float64), np.asarray(rated, dtype=np.float64)
    if predicted.shape != rated.shape or predicted.ndim != 2 or predicted.shape[1] != len(names):
        raise ValueError(f"predicted {predicted.shape} and rated {rated.shape} must both be [N, {len(names)}]")
    report = {}
    for k, name in enumerate(names):
        both = np.isfinite(predicted[:, k]) & np.isfinite(rated[:, k])
        p, r = predicted[both, k], rated[both, k]
        report[name] = {"rows": int(both.sum()), "ccc": concordance(p, r), "pearson": pearson(p, r), "rmse": rmse(p, r)}
    return report


def table_dimension_report(table: PredictionTable) -> dict[str, dict[str, Any]] | None:
    """:func:`dimension_report` over all rated rows of *table*; None when nothing is predicted or rated."""
    if table.predicted_scores is None or np.isnan(table.scores).all():
        return None
    return dimension_report(table.predicted_scores, table.scores)


def _degenerate(values: np.ndarray) -> bool:
    return len(values) < 2 or bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
