"""Types and shapes of the arrays of a predictions table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lantern.tables.table import PredictionTable


def wrong_column(table: PredictionTable) -> str | None:
    """The first array of *table* that is of another type or size than it must be; None where all are right."""
    n, c, t = len(table.labels), len(table.classes), table.coverage
    sources = 1 + t if table.weights is None else table.weights.shape[-1]
    if not all(isinstance(name, str) for name in table.classes):
        return "classes"
    rows: dict[str, tuple[str, tuple[int, ...]]] = {
        **dict.fromkeys(("dialogues", "utterances", "speakers"), ("O", (n,))),
        "indices": ("iu", (n,)),
        "scores": ("f", (n, 3)),
        "vanilla": ("f", (n, c)),
        "predicted_scores": ("f", (n, 3)),
        "weights": ("f", (n, sources)),
        "merged": ("f", (n, c)),
    }
    fields: dict[str, tuple[str, tuple[int, ...]]] = {
        "probabilities": ("f", (n, t, c)),
        **dict.fromkeys(("lengths", "positions"), ("iu", (n, t))),
        "repaired": ("b", (n, t)),
        **dict.fromkeys(("raw_sums", "spreads"), ("f", (n, t))),
    }
    for name, (kind, shape) in rows.items():
        values = getattr(table, name)
        optional = values is None and name in ("predicted_scores", "weights", "merged")
        if not optional and not _is_of(values, kind, shape):
            return name
    for name, (kind, shape) in fields.items() if table.fields is not None else ():
        if not _is_of(getattr(table.fields, name), kind, shape):
            return name
    return None


def _is_of(values: Any, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether *values* are an array of *shape* whose dtype is one of the letters of *kind*; objects must be texts."""
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind not in kind:
        return False
    return kind != "O" or all(isinstance(value, str) for value in values.flat)
