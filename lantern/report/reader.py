"""Data of the dialogue reader: any predictions tables, packed for a page. No torch.

Numbers are packed as two characters each, twelve bits in the order of :data:`ALPHABET`: probabilities and weights in
thousandths, scores in hundredths above -20, and 4095 where there is nothing. All rows of a run have the same number of
characters, so the page reads the one it needs in place. Per row: vanilla ``C``; predicted scores 3 (with ``scores``);
for each of ``t`` fields its state (0 answered, 1 repaired, 2 + k failed with kind *k*), length, position and ``C``
probabilities; ``t + 1`` weights; merged ``C``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lantern.files import digest
from lantern.report.plots import colour
from lantern.results.texts import Asked, Attempt
from lantern.tables import KINDS, PredictionTable

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOTHING = 4095


@dataclass(frozen=True, slots=True)
class Shown:
    """One predictions table under the name by which the reader offers it."""

    name: str
    table: PredictionTable
    id: str = ""
    """In addresses of its turns; empty: the name."""
    asked: Asked | None = None
    """None where prompts and replies are not to be shown."""


class ReaderData:
    """Tables put one after the other into the data of a reader; turns that several tables share are kept once."""

    def __init__(self) -> None:
        self._sets: dict[str, int] = {}
        self._turns: list[dict[str, Any]] = []
        self._runs: list[dict[str, Any]] = []
        self._lines: dict[str, int] = {}
        self.words = 0
        """Characters of all prompts and replies, lines that come again counted once."""

    def add(self, shown: Shown, texts: Mapping[str, str]) -> None:
        """Add one table; *texts* by utterance id, of as many turns as may be shown. Labels may be missing."""
        table = shown.table
        key = digest([list(table.classes), table.utterances.tolist(), table.labels.tolist(), bool(texts)])
        if key not in self._sets:
            self._sets[key] = len(self._turns)
            self._turns.append(_turns(table, texts))
        run = {"name": shown.name, "id": shown.id or shown.name, "set": self._sets[key], **_packed(table)}
        if shown.asked is not None:
            fields = [[self._attempt(one) for one in attempts] for attempts in shown.asked.fields]
            run |= {"asked": fields, "field_of": shown.asked.of.ravel().tolist()}
        self._runs.append(run)

    def _attempt(self, one: Attempt) -> dict[str, Any]:
        self.words += len(one.reply)
        return {
            **asdict(one),
            "messages": [[role, [*map(self._line, text.split("\n"))]] for role, text in one.messages],
        }

    def _line(self, line: str) -> int:
        """The number of a line: most lines of a prompt are those of other prompts, too."""
        if line not in self._lines:
            self._lines[line] = len(self._lines)
            self.words += len(line)
        return self._lines[line]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        colours = [colour(k) for k in range(max((len(one["classes"]) for one in self._turns), default=0))]
        return {"sets": self._turns, "runs": self._runs, "colours": colours, "lines": list(self._lines)}


def reader_data(tables: Sequence[Shown], texts: Mapping[str, str]) -> dict[str, Any]:
    """Data of a reader over *tables*; see :class:`ReaderData`."""
    data = ReaderData()
    for shown in tables:
        data.add(shown, texts)
    return data.as_dict()


def keep_first(table: PredictionTable, turns: int) -> PredictionTable:
    """Whole dialogues of *table*, of at most *turns* rows together; the first dialogue always stays."""
    stops = [rows.stop for rows in table.by_dialogue.values()]
    stop = max((stop for stop in stops if stop <= turns), default=stops[0] if stops else 0)
    return table.select(slice(0, stop))


def _turns(table: PredictionTable, texts: Mapping[str, str]) -> dict[str, Any]:
    speakers: dict[str, int] = {}
    dialogues = []
    for name, rows in table.by_dialogue.items():
        turns = []
        for place in range(rows.start, rows.stop):
            utterance = str(table.utterances[place])
            speaker = speakers.setdefault(str(table.speakers[place]), len(speakers))
            rated = np.round(table.scores[place], 2)
            scores = None if np.isnan(rated).all() else [None if np.isnan(s) else float(s) for s in rated]
            turn: list[Any] = [place, int(table.indices[place]), utterance, speaker, int(table.labels[place])]
            turn += [scores, texts.get(utterance)]
            while turn[-1] is None:
                turn.pop()
            turns.append(turn)
        dialogues.append({"id": str(name), "turns": turns})
    return {"classes": list(table.classes), "speakers": list(speakers), "dialogues": dialogues}


@np.errstate(over="ignore")  # numbers of a damaged table; they are clipped below
def _packed(table: PredictionTable) -> dict[str, Any]:
    n, classes, coverage = len(table), len(table.classes), table.coverage
    kinds: list[str] = []
    blocks = [1000 * table.vanilla]
    if table.predicted_scores is not None:
        blocks.append(100 * (table.predicted_scores + 20))
    if (fields := table.fields) is not None:
        codes = np.unique(fields.failures[~fields.mask & (fields.lengths > 0)])
        kinds = [str(KINDS[code]) for code in codes]
        state = np.where(fields.mask, fields.repaired, 2 + np.searchsorted(codes, fields.failures))
        said = np.where(fields.mask[..., None], 1000 * fields.probabilities, np.nan)
        about = np.stack([state, fields.lengths, fields.positions], axis=-1).astype(np.float64)
        about[fields.lengths == 0] = np.nan  # no such field
        blocks.append(np.concatenate([about, said], axis=-1).reshape(n, -1))
        blocks.append(np.full((n, coverage + 1), np.nan) if table.weights is None else 1000 * table.weights)
    blocks.append(np.full((n, classes), np.nan) if table.merged is None else 1000 * table.merged)
    numbers = np.concatenate(blocks, axis=1)
    codes = np.where(np.isnan(numbers), NOTHING, np.clip(np.rint(numbers), 0, NOTHING)).astype(np.int64)
    alphabet = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    return {
        "t": coverage,
        "scores": table.predicted_scores is not None,
        "kinds": kinds,
        "width": 2 * numbers.shape[1],
        "rows": np.stack([alphabet[codes >> 6], alphabet[codes & 63]], axis=-1).tobytes().decode(),
    }
