"""Classification and calibration metrics of a whole split, from stored probabilities. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 15


def scored(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with a label: probabilities ``[M, C]`` and labels ``[M]`` of ``[N, C]`` and ``[N]`` (-1: not scored).

    Raises:
        ValueError: shapes do not fit, a label is not a class, a probability is not finite, or no row is labelled.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"probabilities {probabilities.shape} and labels {labels.shape} must be [N, C] and [N]")
    keep = labels >= 0
    if not keep.any():
        raise ValueError(f"none of the {len(labels)} rows is labelled; there is nothing to score")
    probabilities, labels = probabilities[keep], labels[keep].astype(np.int64)
    if labels.max() >= probabilities.shape[1]:
        raise ValueError(f"label {labels.max()} is not one of the {probabilities.shape[1]} classes")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite")
    return probabilities, labels


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``[C, C]``, rows gold, columns predicted; both inputs ``[M]`` without -1."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_of_counts(hits: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """F1 of counts of one shape: right, predicted and gold; 0 where a class is neither gold nor predicted."""
    return _ratio(2 * hits, predicted + gold)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 ``[C]`` of a confusion matrix ``[C, C]``."""
    return f1_of_counts(np.diagonal(confusion), confusion.sum(0), confusion.sum(1))


def weighted_f1(confusion: np.ndarray) -> float:
    """Mean of the per-class F1 weighted by gold support; 0 without utterances."""
    support = confusion.sum(1)
    return float((f1_per_class(confusion) * support).sum() / max(support.sum(), 1))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean ``-log p[y]`` in nats; ``p`` is floored at 1e-12."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the one-hot label summed over classes (Brier 1950): 0 best, 2 worst."""
    error = probabilities.copy()
    error[np.arange(len(labels)), labels] -= 1
    return float(np.square(error).sum(1).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Reliability curve of the top class over equal bins ``(low, high]`` of confidence; empty bins have None.

    The tie of two top classes goes to the first one, as everywhere in this module.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    mean, hit = _ratio(np.bincount(place, confidence, bins), count), _ratio(np.bincount(place, correct, bins), count)
    return [
        {
            "low": k / bins,
            "high": (k + 1) / bins,
            "count": int(count[k]),
            "confidence": float(mean[k]) if count[k] else None,
            "accuracy": float(hit[k]) if count[k] else None,
        }
        for k in range(bins)
    ]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of the top class (Guo et al. 2017, eq. 3)."""
    return _curve_error(reliability(probabilities, labels, bins), len(labels))


def _curve_error(curve: Sequence[Mapping[str, Any]], rows: int) -> float:
    return float(sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in curve if b["count"]) / rows)


def classification_report(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Every classification and calibration number of a split, as plain JSON values.

    ``macro_f1`` and ``uar`` average over the classes that occur among the labels (``macro_over`` names them); a class
    that does not occur has recall None. Precision is 0 for a class that is never predicted, as in scikit-learn with
    ``zero_division=0``. All rates are fractions of 1.

    Args:
        probabilities: ``[N, C]``.
        labels: ``[N]``, -1 where not scored.
        classes: the ``C`` names.

    Raises:
        ValueError: no row is labelled, or the shapes do not fit.
    """
    probabilities, labels = scored(probabilities, labels)
    if probabilities.shape[1] != len(classes):
        raise ValueError(f"{probabilities.shape[1]} probabilities per row, but {len(classes)} classes")
    return _report(
        confusion_matrix(probabilities.argmax(1), labels, len(classes)),
        negative_log_likelihood(probabilities, labels),
        brier(probabilities, labels),
        reliability(probabilities, labels),
        classes,
    )


def pooled_report(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The :func:`classification_report` of the rows of all *reports* together; None where an old one lacks its counts.

    The reports are over different rows of the same classes; each was written with as many bins.
    """
    if not all({"confusion", "reliability", "per_class", "rows", "nll", "brier"} <= set(one) for one in reports):
        return None
    rows = np.array([one["rows"] for one in reports])
    nll, error = (float(np.dot(rows, [one[name] for one in reports]) / rows.sum()) for name in ("nll", "brier"))
    confusion = np.sum([one["confusion"] for one in reports], axis=0)
    return _report(confusion, nll, error, pooled_curve(reports), list(reports[0]["per_class"]))


def pooled_curve(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The :func:`reliability` curve of the rows of all *reports* together."""
    curve = []
    for bins in zip(*(one["reliability"] for one in reports), strict=True):
        counts = np.array([one["count"] for one in bins])
        joined = {**bins[0], "count": int(counts.sum())}
        for name in ("confidence", "accuracy"):
            known = [one[name] or 0.0 for one in bins]
            joined[name] = float(np.dot(counts, known) / counts.sum()) if counts.any() else None
        curve.append(joined)
    return curve


def _report(
    confusion: np.ndarray, nll: float, error: float, curve: list[dict[str, Any]], classes: Sequence[str]
) -> dict[str, Any]:
    rows = int(confusion.sum())
    hits, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    recall, f1, precision = _ratio(hits, support), f1_per_class(confusion), _ratio(hits, predicted)
    present = support > 0
    return {
        "rows": rows,
        "accuracy": float(hits.sum() / rows),
        "weighted_f1": weighted_f1(confusion),
        "macro_f1": float(f1[present].mean()),
        "macro_over": [name for name, here in zip(classes, present, strict=True) if here],
        "uar": float(recall[present].mean()),
        "nll": nll,
        "brier": error,
        "ece": _curve_error(curve, rows),
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]) if present[k] else None,
                "f1": float(f1[k]),
                "support": int(support[k]),
                "predicted": int(predicted[k]),
            }
            for k, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "reliability": curve,
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    below = np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)
