"""What the LLM did to the vanilla predictions, read off a predictions table. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.metrics.classification import calibration_error
from lantern.tables import ANSWERED, KINDS, Fields, PredictionTable


def llm_effect(table: PredictionTable) -> dict[str, Any]:
    """Copying, flips, gains, failures, disagreement and calibration; plain JSON values, None where undefined.

    A *reply* is what one field said of one utterance. Copy rate: share of replies that leave the vanilla arg-max alone,
    over all rows. Flips, accuracies and calibration are over labelled rows only; a gain compares with the vanilla
    prediction of the very same utterances. Rates are fractions of 1.

    Keys: ``rows``, ``labelled``, ``replies`` (asked, answered, failed, repaired, failures by kind, rows without any),
    ``bands`` and ``lengths`` (lists of :func:`change` with ``band`` or ``length``), ``all_replies`` and ``merged``
    (:func:`change`; ``merged`` is None before the weighting stage), ``disagreement`` between bands.
    """
    labels, vanilla = table.labels, table.vanilla
    fields = table.fields or Fields.empty(len(table), 0, len(table.classes), 0)
    refined, mask, lengths = fields.probabilities, fields.mask, fields.lengths
    bands = [{"band": k, **change(vanilla, refined[:, k], labels, mask[:, k])} for k in range(mask.shape[1])]
    by_length = []
    for length in np.unique(lengths[mask]):
        at, band = np.nonzero(mask & (lengths == length))
        by_length.append({"length": int(length), **change(vanilla[at], refined[at, band], labels[at])})
    at, band = np.nonzero(mask)
    return {
        "rows": len(table),
        "labelled": int(table.labelled.sum()),
        "replies": _replies(fields),
        "all_replies": change(vanilla[at], refined[at, band], labels[at]),
        "bands": bands,
        "lengths": by_length,
        "merged": None if table.merged is None else change(vanilla, table.merged, labels),
        "disagreement": disagreement(refined, mask),
    }


def change(before: np.ndarray, after: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> dict[str, Any]:
    """From *before* ``[N, C]`` to *after* ``[N, C]`` on the rows of *mask* ``[N]``, labels ``[N]`` with -1 unscored.

    ``helpful``: wrong before, right after; ``harmful``: right before, wrong after; ``neutral``: wrong both times, but
    differently.
    """
    if mask is not None:
        before, after, labels = before[mask], after[mask], labels[mask]
    if not len(labels):
        empty = dict.fromkeys(("copy_rate", "accuracy_before", "accuracy_after", "gain", "ece_before", "ece_after"))
        return {"replies": 0, "scored": 0, **empty, "helpful": 0, "harmful": 0, "neutral": 0}
    first, then = before.argmax(1), after.argmax(1)
    kept = labels >= 0
    right_before, right_after = (first == labels)[kept], (then == labels)[kept]
    flipped = (first != then)[kept]
    some = bool(kept.any())
    return {
        "replies": len(labels),
        "scored": int(kept.sum()),
        "copy_rate": float((first == then).mean()),
        "accuracy_before": float(right_before.mean()) if some else None,
        "accuracy_after": float(right_after.mean()) if some else None,
        "gain": float(right_after.mean() - right_before.mean()) if some else None,
        "ece_before": calibration_error(before[kept], labels[kept]) if some else None,
        "ece_after": calibration_error(after[kept], labels[kept]) if some else None,
        "helpful": int((~right_before & right_after).sum()),
        "harmful": int((right_before & ~right_after).sum()),
        "neutral": int((flipped & ~right_before & ~right_after).sum()),
    }


def disagreement(refined: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Between bands, over rows where both replied: share of different arg-max and mean total variation distance.

    Args:
        refined: ``[N, t, C]``.
        mask: ``[N, t]``.

    Returns:
        ``argmax`` and ``distance``: ``t × t`` lists, None where two bands never both replied;
        ``rows_split``: share of rows with at least two replies whose arg-max are not all the same.
    """
    t = mask.shape[1]
    top = refined.argmax(-1) if mask.size else np.zeros(mask.shape, dtype=np.int64)
    argmax: list[list[float | None]] = [[None] * t for _ in range(t)]
    distance: list[list[float | None]] = [[None] * t for _ in range(t)]
    for a in range(t):
        for b in range(t):
            both = mask[:, a] & mask[:, b]
            if both.any():
                argmax[a][b] = float((top[both, a] != top[both, b]).mean())
                distance[a][b] = float(np.abs(refined[both, a] - refined[both, b]).sum(-1).mean() / 2)
    several = mask.sum(1) >= 2
    split = None
    if several.any():
        highest = np.where(mask, top, -1).max(1)
        lowest = np.where(mask, top, np.iinfo(np.int64).max).min(1)
        split = float((highest != lowest)[several].mean())
    return {"argmax": argmax, "distance": distance, "rows_split": split}


def _replies(fields: Fields) -> dict[str, Any]:
    failed = fields.failures[fields.failures != ANSWERED]
    kinds, counts = np.unique(failed, return_counts=True)
    return {
        "asked": fields.failures.size,
        "answered": fields.failures.size - len(failed),
        "failed": len(failed),
        "repaired": int((fields.repaired & fields.mask).sum()),
        "failures": dict(sorted((str(KINDS[k]), int(n)) for k, n in zip(kinds, counts, strict=True))),
        "rows_without": int((~fields.mask.any(axis=1)).sum()),
    }
