"""Predictions tables written row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lantern.errors import FailureKind
from lantern.tables import ANSWERED, DIMENSIONS, KINDS, Fields, PredictionTable, Row


def table_from_rows(classes: Sequence[str], rows: Sequence[Row], split: str = "", width: int = 0) -> PredictionTable:
    """The table of *rows*, which must all have fields, scores, weights or merges, or none of them.

    *width* is that of a field that is not cut; 0 for the longest field in *rows*.
    """
    n, c = len(rows), len(classes)
    coverage = max((len(row.fields) for row in rows), default=0)
    made: Fields | None = None
    if coverage:
        longest = max(reply.length for row in rows for reply in row.fields)
        made = Fields.empty(n, coverage, c, width or longest)
        for i, row in enumerate(rows):
            for reply in row.fields:
                at = i, reply.band
                made.lengths[at], made.positions[at], made.repaired[at] = (
                    reply.length,
                    reply.position,
                    reply.repaired,
                )
                made.raw_sums[at] = np.nan if reply.raw_sum is None else reply.raw_sum
                made.spreads[at] = np.nan if reply.spread is None else reply.spread
                if reply.probabilities is not None:
                    made.probabilities[at], made.failures[at] = reply.probabilities, ANSWERED
                else:
                    made.failures[at] = KINDS.index(FailureKind(reply.failure or FailureKind.INCOMPLETE))

    def optional(name: str) -> np.ndarray | None:
        values = [getattr(row, name) for row in rows]
        return None if not values or any(v is None for v in values) else np.array(values, dtype=np.float64)

    unrated = [None] * DIMENSIONS
    return PredictionTable(
        tuple(classes),
        np.array([row.dialogue for row in rows], dtype=object),
        np.array([row.utterance for row in rows], dtype=object),
        np.array([row.index for row in rows], dtype=np.int32),
        np.array([row.speaker for row in rows], dtype=object),
        np.array([-1 if row.label is None else row.label for row in rows], dtype=np.int64),
        np.array([row.scores or unrated for row in rows], dtype=np.float64).reshape(n, DIMENSIONS),
        np.array([row.vanilla for row in rows], dtype=np.float64).reshape(n, c),
        optional("predicted_scores"),
        made,
        optional("weights"),
        optional("merged"),
        split,
    )
