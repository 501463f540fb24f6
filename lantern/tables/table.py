"""The predictions table: the one value that passes from stage to stage and to the report. Arrays, no torch.

Shapes: ``N`` utterances, ``C`` classes, ``T`` receptive fields per utterance (the coverage).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lantern.errors import FailureKind, UserError
from lantern.files import atomic
from lantern.tables import columns
from lantern.tables.row import FieldReply, Row
from lantern.tables.shapes import FIELDS, NAMES, OPTIONAL, ROWS, wrong_column

SCHEMA = 2
KINDS = tuple(FailureKind)
"""Failure kinds in the order of their codes in :attr:`Fields.failures`."""
ANSWERED = -1
"""The code of a field that has probabilities."""


@dataclass(frozen=True, eq=False, slots=True)
class Fields:
    """What the receptive fields said: one entry per utterance and band, band 0 ... ``T - 1`` along the second axis.

    Band 0: the utterance is in the newest stretch of the window; band ``T - 1``: in the oldest.
    """

    width: int
    """Utterances in a field that is not cut."""
    probabilities: np.ndarray
    """Refined class probabilities, float ``[N, T, C]``; zeros where the field failed."""
    failures: np.ndarray
    """Index into :data:`KINDS`, or :data:`ANSWERED`; int8 ``[N, T]``."""
    lengths: np.ndarray
    """Utterances in the field after it was cut to the dialogue, int32 ``[N, T]``."""
    positions: np.ndarray
    """Where the utterance sits in the field, 0-based, int32 ``[N, T]``."""
    repaired: np.ndarray
    """Whether the reply needed a repair turn, bool ``[N, T]``."""
    raw_sums: np.ndarray
    """Sum of the vector before renormalising; by token probabilities, what lay on the classes. Float ``[N, T]``, NaN
    where the field failed."""
    spreads: np.ndarray
    """Mean total variation distance of repeated samples to their mean, float ``[N, T]``; NaN for a single sample."""

    @property
    def mask(self) -> np.ndarray:
        """Whether the field has probabilities, bool ``[N, T]``."""
        return self.failures == ANSWERED

    @classmethod
    def empty(cls, rows: int, coverage: int, classes: int, width: int) -> Fields:
        """Writable arrays to fill: every field failed as *incomplete* until it is set."""
        shape = (rows, coverage)
        return cls(
            width,
            np.zeros((*shape, classes)),
            np.full(shape, KINDS.index(FailureKind.INCOMPLETE), dtype=np.int8),
            np.zeros(shape, dtype=np.int32),
            np.zeros(shape, dtype=np.int32),
            np.zeros(shape, dtype=bool),
            np.full(shape, np.nan),
            np.full(shape, np.nan),
        )

    def select(self, rows: Any) -> Fields:
        """The fields of some *rows* (bool mask, indices or slice)."""
        return Fields(self.width, *(getattr(self, name)[rows] for name in _PER_FIELD))


_PER_ROW, _OPTIONAL, _PER_FIELD = (tuple(one.attribute for one in columns) for columns in (ROWS, OPTIONAL, FIELDS))


@dataclass(frozen=True, eq=False, repr=False)
class PredictionTable:
    """Predictions of one split, in corpus order. Stages return a new table; none changes one in place."""

    classes: tuple[str, ...]
    """Names that index every probability vector."""
    dialogues: np.ndarray
    """Dialogue ids, str ``[N]``; the rows of a dialogue are consecutive."""
    utterances: np.ndarray
    """Turn ids, str ``[N]``."""
    indices: np.ndarray
    """Positions in the full transcript, int32 ``[N]``."""
    speakers: np.ndarray
    """Names, str ``[N]``."""
    labels: np.ndarray
    """Gold class indices, int64 ``[N]``; -1 where not labelled."""
    scores: np.ndarray
    """Gold valence, arousal, dominance on the corpus scale, float ``[N, 3]``; NaN where nobody rated."""
    vanilla: np.ndarray
    """Vanilla class probabilities, float ``[N, C]``."""
    predicted_scores: np.ndarray | None = None
    """Vanilla valence, arousal, dominance on the corpus scale, float ``[N, 3]``; None without a dimension head."""
    fields: Fields | None = None
    """None before refinement."""
    weights: np.ndarray | None = None
    """Weight of [vanilla, band 0, ..., band T-1] in the merge, float ``[N, 1 + T]``; None without one."""
    merged: np.ndarray | None = None
    """Merged class probabilities, float ``[N, C]``; None before the merge."""
    split: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"PredictionTable({self.split!r}, {len(self)} rows, {', '.join(self.classes)}; coverage {self.coverage})"

    @property
    def coverage(self) -> int:
        """``T``: fields per utterance (0 before refinement)."""
        return 0 if self.fields is None else self.fields.failures.shape[1]

    @property
    def labelled(self) -> np.ndarray:
        """Bool ``[N]``: rows that are scored."""
        return self.labels >= 0

    @cached_property
    def by_dialogue(self) -> dict[str, slice]:
        """The rows of each dialogue, in table order."""
        if not len(self):
            return {}
        starts = np.flatnonzero(np.r_[True, self.dialogues[1:] != self.dialogues[:-1]])
        stops = np.r_[starts[1:], len(self)]
        return {self.dialogues[a]: slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True)}

    def select(self, rows: Any) -> PredictionTable:
        """The table of some *rows*: a bool mask, indices or a slice."""
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in _PER_ROW}
        changes |= {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in _OPTIONAL}
        return replace(self, **changes, fields=None if self.fields is None else self.fields.select(rows))

    def keep(self, dialogues: Collection[str] | None) -> PredictionTable:
        """The rows of *dialogues*; all of them for None."""
        if dialogues is None:
            return self
        return self.select(np.isin(self.dialogues, list(dialogues)))

    def uniform_mean(self) -> np.ndarray:
        """Mean of the refined vectors that are there, ``[N, C]``; the vanilla one where there are none."""
        if self.fields is None:
            return self.vanilla
        count = self.fields.mask.sum(axis=1, keepdims=True)
        return np.where(count > 0, self.fields.probabilities.sum(axis=1) / np.maximum(count, 1), self.vanilla)

    def row(self, number: int) -> Row:
        """A view of row *number*."""
        replies: list[FieldReply] = []
        if (f := self.fields) is not None:
            for band in range(self.coverage):
                code = f.failures[number, band]
                replies.append(
                    FieldReply(
                        band,
                        int(f.lengths[number, band]),
                        int(f.positions[number, band]),
                        f.probabilities[number, band].tolist() if code == ANSWERED else None,
                        bool(f.repaired[number, band]),
                        None if code == ANSWERED else KINDS[code],
                        _number(f.raw_sums[number, band]),
                        _number(f.spreads[number, band]),
                    )
                )
        scores = [_number(value) for value in self.scores[number]]
        return Row(
            dialogue=str(self.dialogues[number]),
            utterance=str(self.utterances[number]),
            index=int(self.indices[number]),
            speaker=str(self.speakers[number]),
            label=int(self.labels[number]) if self.labels[number] >= 0 else None,
            scores=None if all(value is None for value in scores) else scores,
            vanilla=self.vanilla[number].tolist(),
            predicted_scores=None if self.predicted_scores is None else self.predicted_scores[number].tolist(),
            fields=replies,
            weights=None if self.weights is None else self.weights[number].tolist(),
            merged=None if self.merged is None else self.merged[number].tolist(),
        )

    def __iter__(self) -> Iterator[Row]:
        return (self.row(number) for number in range(len(self)))

    def save(self, path: Path) -> None:
        """Write Parquet atomically; ``pandas.read_parquet(path)`` and ``polars.read_parquet(path)`` read it."""
        shown: dict[str, np.ndarray] = {name: getattr(self, name) for name in _PER_ROW}
        shown["labels"] = np.array([*self.classes, None], dtype=object)[self.labels]
        shown |= {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}
        if (f := self.fields) is not None:
            shown |= {name: getattr(f, name) for name in _PER_FIELD}
            shown["probabilities"] = np.where(f.mask[..., None], f.probabilities, np.nan)
            shown["failures"] = np.array([*KINDS, None], dtype=object)[f.failures]
        about = {
            "schema": SCHEMA,
            "split": self.split,
            "classes": list(self.classes),
            "width": None if self.fields is None else self.fields.width,
        }
        columns.write(path, {NAMES[name]: values for name, values in shown.items()}, about)

    def export(self, path: Path) -> None:
        """Write JSON Lines atomically, a row per utterance; ``pandas.read_json(path, lines=True)`` reads it."""
        head = {"split": self.split, "classes": list(self.classes)}
        with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
            for row in self:
                line = {**head, **asdict(row), "explanation": row.explain(self.classes)}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")

    def to_frame(self) -> Any:
        """A pandas data frame, a row per utterance: the classes by name, then a column for every number.

        Raises:
            UserError: pandas is not installed.
        """
        names = np.array([*self.classes, None], dtype=object)
        found = {name.removesuffix("s"): getattr(self, name) for name in ("dialogues", "utterances", "speakers")}
        found |= {"index": self.indices, "gold": names[self.labels]}
        vectors = {"vanilla": self.vanilla}
        if (f := self.fields) is not None:
            said = np.where(f.mask[..., None], f.probabilities, np.nan)
            vectors |= {f"band {k}": said[:, k] for k in range(self.coverage)}
        if self.merged is not None:
            vectors["merged"] = self.merged
        for name in ("vanilla", "merged"):
            found |= {name: names[vectors[name].argmax(axis=1)]} if name in vectors else {}
        found |= {f"{name} {c}": v[:, k] for name, v in vectors.items() for k, c in enumerate(self.classes)}
        weights = np.empty((len(self), 0)) if self.weights is None else self.weights
        return columns.frame(found | {f"weight {n}": w for n, w in zip(vectors, weights.T, strict=False)})

    @classmethod
    def load(cls, path: Path, fields: bool = True, count: int | None = None) -> PredictionTable:
        """Read a table written by :meth:`save`.

        Args:
            path: the Parquet file.
            fields: False leaves the fields unread: most of the file.
            count: rows that are expected; None for any number.

        Raises:
            UserError: the file is missing, damaged, not a predictions table, or has another number of rows.
        """
        attributes = {column: name for name, column in NAMES.items() if fields or name not in _PER_FIELD}
        read, about = columns.read(path, attributes.__contains__)
        values = {attributes[column]: array for column, array in read.items()}
        if about.get("schema") != SCHEMA:
            raise UserError(f"{path}: table schema {about.get('schema')}, this Lantern reads {SCHEMA}")
        try:
            table = cls._from_columns(values, about)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}: not a predictions table ({error})") from None
        if count is not None and len(table) != count:
            raise UserError(f"{path}: {len(table)} rows, expected {count}")
        return table

    @classmethod
    def _from_columns(cls, values: dict[str, np.ndarray], about: dict[str, Any]) -> PredictionTable:
        classes = tuple(about["classes"])
        labels = {name: number for number, name in enumerate(classes)} | {None: -1}
        values["labels"] = np.array([labels[name] for name in values["labels"]], dtype=np.int64)
        fields = None
        if "probabilities" in values:
            codes: dict[str | None, int] = {str(kind): number for number, kind in enumerate(KINDS)} | {None: ANSWERED}
            kinds = values["failures"]
            values["failures"] = np.array([codes[kind] for kind in kinds.reshape(-1)], np.int8).reshape(kinds.shape)
            answered = values["failures"] == ANSWERED
            values["probabilities"] = np.where(answered[..., None], values["probabilities"], 0.0)
            fields = Fields(int(about["width"]), *(values.pop(name) for name in _PER_FIELD))
        table = cls(classes, fields=fields, split=str(about["split"]), **values)
        vectors = [table.vanilla, table.merged, table.weights, None if fields is None else fields.probabilities]
        if not all(vector is None or np.isfinite(vector).all() for vector in vectors):
            raise ValueError("a probability is not a finite number")
        if any(v is not None and v.shape[-1] != len(classes) for v in (table.vanilla, table.merged)):
            raise ValueError(f"a vector is not of {len(classes)} classes")
        if fields is not None and table.weights is not None and table.weights.shape[-1] != table.coverage + 1:
            raise ValueError(f"weights are not of {table.coverage + 1} sources")
        wrong = wrong_column(table)
        if wrong is not None:
            raise ValueError(f"column {wrong} is not what such a table holds")
        return table


def concatenate(tables: Sequence[PredictionTable], split: str) -> PredictionTable:
    """One table from several with the same classes (for example the folds of a cross-fit)."""
    first = tables[0]
    if len({table.classes for table in tables}) != 1:
        raise ValueError("tables with different classes cannot be joined")
    if len(tables) == 1:
        return replace(first, split=split)

    def joined(owners: Sequence[Any], name: str) -> Any:
        parts = [getattr(owner, name) for owner in owners]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    changes = {name: joined(tables, name) for name in (*_PER_ROW, *_OPTIONAL)}
    parts = [table.fields for table in tables if table.fields is not None]
    both = None
    if len(parts) == len(tables):
        both = Fields(max(part.width for part in parts), *(joined(parts, name) for name in _PER_FIELD))
    return replace(first, **changes, fields=both, split=split)


def mean_vanilla(tables: Sequence[PredictionTable]) -> PredictionTable:
    """One table whose vanilla probabilities and scores are the means of those of *tables*, which have equal rows."""
    first = tables[0]
    if any(not np.array_equal(table.utterances, first.utterances) for table in tables):
        raise ValueError("tables of different utterances cannot be averaged")
    scores = [table.predicted_scores for table in tables if table.predicted_scores is not None]
    return replace(
        first,
        vanilla=np.mean([table.vanilla for table in tables], axis=0),
        predicted_scores=np.mean(scores, axis=0) if scores else None,
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
