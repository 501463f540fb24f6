"""Where a difference comes from: the same numbers over parts of a split. NumPy only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lantern.corpora.protocols.overlaps import normalised
from lantern.corpora.types import Dialogue
from lantern.metrics.paired import METRICS, paired_bootstrap
from lantern.tables import PredictionTable

MIN_ROWS, MIN_DIALOGUES = 50, 5
"""Smaller parts get no interval: a bootstrap over a handful of dialogues tells nothing."""
RESAMPLES = 2_000

Category = Callable[[Dialogue, int], str | None]
"""Of an utterance, given by its dialogue and index: the part of the slice it belongs to; None: to none."""


def _kind(dialogue: Dialogue, index: int) -> str | None:
    found = re.search(r"_(impro|script)", dialogue.id)
    return None if found is None else {"impro": "improvised", "script": "scripted"}[found[1]]


def _sex(dialogue: Dialogue, index: int) -> str | None:
    found = dialogue.utterances[index].extra.get("sex")
    return None if found is None else str(found)


def _agreement(dialogue: Dialogue, index: int) -> str | None:
    """Share of the external annotators (``C-E1``, ...) who named the category that most of them named."""
    votes = dialogue.utterances[index].extra.get("votes")
    if not isinstance(votes, Mapping):
        return None
    external = [set(named) for who, named in votes.items() if who.startswith("C-E") and named]
    if not external:
        return None
    share = max(Counter(name for named in external for name in named).values()) / len(external)
    return AGREEMENT[0 if share == 1 else 1 if share > 0.5 else 2]


LENGTHS = ("1-10 turns", "11-30 turns", "31-60 turns", "over 60 turns")
POSITIONS = ("first third", "middle third", "last third")
AGREEMENT = ("all annotators", "a majority", "half or fewer")


def in_order(parts: Iterable[str]) -> list[str]:
    """Names of the parts of a slice in their natural order; where they have none, in that of the alphabet."""
    order = {part: place for names in (LENGTHS, POSITIONS, AGREEMENT) for place, part in enumerate(names)}
    return sorted(parts, key=lambda part: (order.get(part, 0), part))


SLICES: dict[str, Category] = {
    "scripted or improvised": _kind,
    "speaker": lambda dialogue, index: dialogue.utterances[index].speaker,
    "sex": _sex,
    "annotators who agree": _agreement,
    "dialogue length": lambda dialogue, index: LENGTHS[sum(len(dialogue) > most for most in (10, 30, 60))],
    "position in the dialogue": lambda dialogue, index: POSITIONS[3 * index // len(dialogue)],
}
MOST_PARTS = 12
"""A slice with more parts (260 speakers of a series) is left out: it would be noise."""


def slice_parts(
    table: PredictionTable, dialogues: Mapping[str, Dialogue], training_texts: Collection[str]
) -> dict[str, np.ndarray]:
    """The part of every slice that each utterance of *table* belongs to, str ``[N]``; empty where to none.

    Slices with fewer than two parts on labelled utterances, or too many, are left out.

    Args:
        table: one split.
        dialogues: those of the table, by id.
        training_texts: :func:`normalised` texts of the training dialogues, for the slice of text twins.
    """

    def twin(dialogue: Dialogue, index: int) -> str | None:
        text = normalised(dialogue.utterances[index].text)
        if not text:
            return None
        return "also said in training" if text in training_texts else "new"

    found = {}
    for name, category in {**SLICES, "text": twin}.items():
        places = zip(table.dialogues, table.indices.tolist(), strict=True)
        named = np.array([category(dialogues[dialogue], index) or "" for dialogue, index in places], dtype=object)
        if 2 <= len(set(named[table.labelled]) - {""}) <= MOST_PARTS:
            found[name] = named
    return found


def slice_report(
    table: PredictionTable, probabilities: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy and weighted F1 by slice, plain JSON values.

    Args:
        table: one split.
        probabilities: ``vanilla`` and, where there is one, ``weighted``, each ``[N, C]``.
        parts: what :func:`slice_parts` gives.
        seed: of the resampling.
    """
    report = []
    for name, named in parts.items():
        present = in_order(set(named[table.labelled]) - {""})
        cells = [_part(table, probabilities, table.labelled & (named == part), part, seed) for part in present]
        report.append({"slice": name, "parts": cells})
    return report


def _part(
    table: PredictionTable, probabilities: Mapping[str, np.ndarray], mask: np.ndarray, name: str, seed: int
) -> dict[str, Any]:
    labels, names = table.labels[mask], table.dialogues[mask]
    before = probabilities["vanilla"][mask].argmax(axis=1)
    after = probabilities.get("weighted", probabilities["vanilla"])[mask].argmax(axis=1)
    enough = len(labels) >= MIN_ROWS and len(set(names.tolist())) >= MIN_DIALOGUES
    resamples = RESAMPLES if enough else 1
    found = paired_bootstrap([(before, after)], labels, names, len(table.classes), resamples=resamples, seed=seed)
    part: dict[str, Any] = {"part": name, "labelled": len(labels), "dialogues": len(set(names.tolist()))}
    for metric in METRICS:
        one = found[metric]
        part[metric] = {"vanilla": one.a, "weighted": one.b, "difference": one.difference}
        part[metric] |= {"low": one.low, "high": one.high} if enough else {"low": None, "high": None}
    return part


@dataclass(frozen=True, slots=True)
class ContextLength:
    """Single replies of fields with as many turns."""

    length: int
    replies: int
    """On labelled utterances."""
    gain: float | None
    """Of their accuracy over vanilla on the same utterances, a fraction of 1; None without a labelled one."""
    low: float | None
    """Ends of its 95 % interval over dialogues; None for fewer than :data:`MIN_DIALOGUES` of them."""
    high: float | None
    weights: tuple[float | None, ...]
    """Mean weight of each band where its field is that long; None where none is, empty without weights."""


def by_context(tables: Iterable[PredictionTable], seed: int = 0) -> list[ContextLength]:
    """Replies by the number of turns in their field, over *tables* of one coverage (seeds) together.

    The bootstrap draws dialogues; those of one name in several tables come along together.
    """
    names, lengths, gains, bands, weights, scored = [], [], [], [], [], []
    coverage = 0
    for table in tables:
        assert table.fields is not None
        coverage = table.coverage
        at, band = np.nonzero(table.fields.mask)
        said, labels = table.fields.probabilities[at, band].argmax(axis=1), table.labels[at]
        names.append(table.dialogues[at].astype(str))
        lengths.append(table.fields.lengths[at, band])
        gains.append((said == labels).astype(float) - (table.vanilla[at].argmax(axis=1) == labels))
        bands.append(band)
        weights.append(np.full(len(at), np.nan) if table.weights is None else table.weights[at, band + 1])
        scored.append(labels >= 0)
    name, length, gain, band, weight, known = map(np.concatenate, (names, lengths, gains, bands, weights, scored))
    if not len(name):
        return []
    _, group = np.unique(name, return_inverse=True)
    groups = int(group.max()) + 1
    times = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    found = []
    for turns in np.unique(length):
        here = (length == turns) & known
        sums, counts = np.bincount(group[here], gain[here], groups), np.bincount(group[here], minlength=groups)
        low = high = None
        if np.count_nonzero(counts) >= MIN_DIALOGUES:
            drawn = times @ np.stack([sums, counts], axis=1)
            drawn = drawn[drawn[:, 1] > 0]
            low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975)).tolist()
        each = [weight[(length == turns) & (band == k)] for k in range(coverage)]
        mean = tuple(float(one.mean()) if len(one) else None for one in each)
        shown = () if np.isnan(weight).any() else mean
        total = int(counts.sum())
        found.append(ContextLength(int(turns), total, float(sums.sum() / total) if total else None, low, high, shown))
    return found
