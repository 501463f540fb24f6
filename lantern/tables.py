"""The predictions table: the one thing that passes from stage to stage and to the report. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lantern.errors import UserError
from lantern.files import atomic

SCHEMA = 1


@dataclass(slots=True)
class FieldReply:
    """What one receptive field said of one utterance."""

    band: int
    """0: the utterance is in the newest stretch of the window ... t-1: in the oldest."""
    length: int
    """Utterances in the field after it was cut to the dialogue."""
    position: int
    """Where the utterance sits in the field, 0-based."""
    probabilities: list[float] | None = None
    """Refined class probabilities, or None when the reply failed (then *failure* says how)."""
    repaired: bool = False
    failure: str | None = None
    """Kind of failure, e.g. ``refusal``; None when there are probabilities."""
    raw_sum: float | None = None
    """Sum of the vector as the LLM wrote it, before renormalising; by token probabilities, what lay on the classes."""
    spread: float | None = None
    """Mean total variation distance of repeated samples to their mean; None for a single one."""


@dataclass(slots=True)
class Row:
    """One utterance of the predictions table."""

    dialogue: str
    utterance: str
    index: int
    """Position in the full transcript, 0-based."""
    speaker: str
    label: int | None
    """Gold class index; None when not labelled (such rows are never scored)."""
    scores: list[float | None] | None
    """Gold valence, arousal, dominance on the corpus scale."""
    vanilla: list[float]
    """Vanilla class probabilities."""
    predicted_scores: list[float] | None = None
    """Vanilla valence, arousal, dominance on the corpus scale; None without a dimension head."""
    fields: list[FieldReply] = field(default_factory=list)
    """One entry per receptive field that holds the utterance, ordered by band 0 ... t-1."""
    weights: list[float] | None = None
    """Weight of [vanilla, band 0, ..., band t-1] in the merge; sums to 1."""
    merged: list[float] | None = None
    """Merged class probabilities."""
    explanation: str | None = None
    """One sentence: what the vanilla model said, what came of it, and which source weighed most for that."""


@dataclass(slots=True, repr=False)
class PredictionTable:
    """Rows of one split in corpus order, with the class names that index every vector."""

    classes: tuple[str, ...]
    rows: list[Row]
    split: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"PredictionTable({self.split!r}, {len(self)} rows, {', '.join(self.classes)}; coverage {self.coverage})"

    @property
    def labelled(self) -> np.ndarray:
        """Bool ``[N]``: rows that are scored."""
        return np.array([r.label is not None for r in self.rows], dtype=bool)

    @property
    def labels(self) -> np.ndarray:
        """Int ``[N]``; -1 where not labelled."""
        return np.array([-1 if r.label is None else r.label for r in self.rows], dtype=np.int64)

    @property
    def vanilla(self) -> np.ndarray:
        """Float ``[N, C]``."""
        return np.array([r.vanilla for r in self.rows], dtype=np.float64).reshape(len(self.rows), len(self.classes))

    @property
    def coverage(self) -> int:
        """``t``: fields per utterance (0 before refinement)."""
        return max((len(r.fields) for r in self.rows), default=0)

    def refined(self) -> tuple[np.ndarray, np.ndarray]:
        """Refined probabilities ``[N, t, C]`` (zeros where missing) and their bool mask ``[N, t]``, by band."""
        n, t, c = len(self.rows), self.coverage, len(self.classes)
        probabilities, mask = np.zeros((n, t, c)), np.zeros((n, t), dtype=bool)
        for i, row in enumerate(self.rows):
            for reply in row.fields:
                if reply.probabilities is not None:
                    probabilities[i, reply.band] = reply.probabilities
                    mask[i, reply.band] = True
        return probabilities, mask

    def save(self, path: Path) -> None:
        """Write JSON Lines atomically; ``pandas.read_json(path, lines=True)`` loads it."""
        with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
            for row in self.rows:
                out.write(json.dumps(self._encode(row), ensure_ascii=False) + "\n")

    def _encode(self, row: Row) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "split": self.split,
            "classes": list(self.classes),
            **{k: getattr(row, k) for k in _PLAIN},
            "fields": [{k: getattr(f, k) for k in FieldReply.__slots__} for f in row.fields],
        }

    @classmethod
    def load(cls, path: Path, fields: bool = True, count: int | None = None) -> PredictionTable:
        """Read a table written by :meth:`save`; a missing or damaged file is a :class:`UserError`.

        With ``fields=False`` the replies of the fields are left out, unread: two thirds of the file. *count* rows are
        expected (None: as many as there are).
        """
        if not path.is_file():
            raise UserError(f"no predictions table at {path}")
        try:
            lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a predictions table: not UTF-8") from None
        if count is not None and len(lines) != count:
            raise UserError(f"{path}: {len(lines)} rows, expected {count}; type the command of that run again")
        rows: list[Row] = []
        classes: Sequence[str] = ()
        split = ""
        for number, line in enumerate(lines, 1):
            try:
                if not fields:  # the last key of a row; inside a string its quotes would be escaped
                    line = line.partition(', "fields": [')[0] + ', "fields": []}'
                record = json.loads(line)
                if record["schema"] != SCHEMA:
                    raise UserError(
                        f"{path}, line {number}: table schema {record['schema']}, this Lantern reads {SCHEMA}"
                    )
                classes, split = classes or record["classes"], record["split"]
                replies = [FieldReply(**reply) for reply in record["fields"]]
                rows.append(Row(**{k: record[k] for k in _PLAIN if k in record}, fields=replies))
                _check(rows[-1], len(classes) if record["classes"] == classes else 0)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not a predictions row ({error})") from None
        return cls(tuple(classes), rows, split)


_PLAIN = tuple(name for name in Row.__slots__ if name != "fields")


def _check(row: Row, classes: int) -> None:
    """Refuse a *row* whose vectors and label are not those of so many *classes*."""
    vectors = [row.vanilla, row.merged, *(reply.probabilities for reply in row.fields)]
    if any(v is not None and (len(v) != classes or not math.isfinite(sum(v))) for v in vectors):
        raise ValueError("a vector is not of one finite number per class")
    if row.label is not None and row.label not in range(classes):
        raise ValueError(f"label {row.label!r} is no class")
    if any(reply.band not in range(len(row.fields)) for reply in row.fields):
        raise ValueError("a band is not that of a field")


def concatenate(tables: Iterable[PredictionTable], split: str) -> PredictionTable:
    """One table from several with the same classes (for example the folds of a cross-fit)."""
    tables = list(tables)
    if len({table.classes for table in tables}) != 1:
        raise ValueError("tables with different classes cannot be joined")
    return PredictionTable(tables[0].classes, [row for table in tables for row in table.rows], split)
