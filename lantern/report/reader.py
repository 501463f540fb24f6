"""Data of the dialogue reader: any predictions tables, packed for a page. No torch.

Numbers are packed as two characters each, twelve bits in the order of :data:`ALPHABET`: probabilities and weights in
thousandths, scores in hundredths above -20, and 4095 where there is nothing. All rows of a run have the same number of
characters, so the page reads the one it needs in place. Per row: vanilla ``C``; predicted scores 3 (with ``scores``);
for each of ``t`` fields its state (0 answered, 1 repaired, 2 + k failed with kind *k*), length, position and ``C``
probabilities; ``t + 1`` weights; merged ``C``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lantern.files import digest
from lantern.tables import PredictionTable, Row

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOTHING = 4095


@dataclass(frozen=True, slots=True)
class Shown:
    """One predictions table under the name by which the reader offers it."""

    name: str
    table: PredictionTable


class ReaderData:
    """Tables put one after the other into the data of a reader; turns that several tables share are kept once."""

    def __init__(self) -> None:
        self._sets: dict[str, int] = {}
        self._turns: list[dict[str, Any]] = []
        self._runs: list[dict[str, Any]] = []

    def add(self, shown: Shown, texts: Mapping[str, str]) -> None:
        """Add one table; *texts* by utterance id, of as many turns as may be shown. Labels may be missing."""
        table = shown.table
        key = digest([list(table.classes), [[row.utterance, row.label] for row in table.rows], bool(texts)])
        if key not in self._sets:
            self._sets[key] = len(self._turns)
            self._turns.append(_turns(table, texts))
        self._runs.append({"name": shown.name, "set": self._sets[key], **_packed(table)})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"sets": self._turns, "runs": self._runs}


def reader_data(tables: Sequence[Shown], texts: Mapping[str, str]) -> dict[str, Any]:
    """Data of a reader over *tables*; see :class:`ReaderData`."""
    data = ReaderData()
    for shown in tables:
        data.add(shown, texts)
    return data.as_dict()


def keep_first(table: PredictionTable, turns: int) -> None:
    """Cut *table* to whole dialogues of at most *turns* rows together, in place; the first dialogue always stays."""
    if len(table) <= turns:
        return
    stop = turns
    while stop and table.rows[stop - 1].dialogue == table.rows[stop].dialogue:
        stop -= 1
    first = next((n for n, row in enumerate(table.rows) if row.dialogue != table.rows[0].dialogue), len(table))
    del table.rows[max(stop, first) :]


def embedded_json(value: Any) -> str:
    """*value* as JSON that may stand inside a script element: no sign of it can end the element or a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    for sign, escape in escapes.items():
        text = text.replace(sign, escape)
    # A half of a surrogate pair has no UTF-8 form.
    return text.encode("utf-8", "replace").decode("utf-8")


def _turns(table: PredictionTable, texts: Mapping[str, str]) -> dict[str, Any]:
    speakers: dict[str, int] = {}
    dialogues: dict[str, list[list[Any]]] = {}
    for place, row in enumerate(table.rows):
        speaker = speakers.setdefault(row.speaker, len(speakers))
        turn: list[Any] = [place, row.index, row.utterance, speaker, -1 if row.label is None else row.label]
        scores = None if row.scores is None else [None if s is None else round(s, 2) for s in row.scores]
        turn += [scores, texts.get(row.utterance)]
        while turn[-1] is None:
            turn.pop()
        dialogues.setdefault(row.dialogue, []).append(turn)
    return {
        "classes": list(table.classes),
        "speakers": list(speakers),
        "dialogues": [{"id": name, "turns": turns} for name, turns in dialogues.items()],
    }


def _packed(table: PredictionTable) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    scores = any(row.predicted_scores is not None for row in table.rows)
    coverage, classes = table.coverage, len(table.classes)
    rows = [_numbers(row, classes, coverage, scores, kinds) for row in table.rows]
    scale = [1000.0] * classes + [100.0] * (3 * scores) + ([1.0] * 3 + [1000.0] * classes) * coverage
    scale += [1000.0] * ((coverage + 1 if coverage else 0) + classes)
    numbers = np.array(rows, dtype=np.float64).reshape(len(rows), len(scale)) * scale
    codes = np.where(np.isnan(numbers), NOTHING, np.clip(np.rint(numbers), 0, NOTHING)).astype(np.int64)
    alphabet = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    return {
        "t": coverage,
        "scores": scores,
        "kinds": list(kinds),
        "width": 2 * len(scale),
        "rows": np.stack([alphabet[codes >> 6], alphabet[codes & 63]], axis=-1).tobytes().decode(),
    }


def _numbers(row: Row, classes: int, coverage: int, scores: bool, kinds: dict[str, int]) -> list[float]:
    found = _vector(row.vanilla, classes)
    if scores:
        found += [value + 20 for value in _vector(row.predicted_scores, 3)]
    replies = {reply.band: reply for reply in row.fields}
    for band in range(coverage):
        reply = replies.get(band)
        if reply is None:
            found += _vector(None, 3 + classes)
            continue
        state = int(reply.repaired)
        if reply.probabilities is None:
            state = 2 + kinds.setdefault(reply.failure or "unknown", len(kinds))
        found += [state, reply.length, reply.position, *_vector(reply.probabilities, classes)]
    if coverage:
        found += _vector(row.weights, coverage + 1)
    return found + _vector(row.merged, classes)


def _vector(values: Sequence[float] | None, count: int) -> list[float]:
    """*count* numbers; a vector that is not there, or of another length, is nothing."""
    return [math.nan] * count if values is None or len(values) != count else list(values)
