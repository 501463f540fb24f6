"""Counts of a corpus, for people, and comparisons with published counts. No torch, no features needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS
from lantern.corpora.types import Dialogue, LabelSet


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Counts of one split, or of the whole corpus."""

    name: str
    dialogues: int
    utterances: int
    labelled: int
    scored: int
    """Utterances with at least one dimension score."""
    classes: tuple[int, ...]
    """Utterances per class, in the order of the label set."""
    speakers: int
    longest: int
    """Utterances of the longest dialogue."""


def summarise(corpus: Corpus) -> list[PartSummary]:
    """One entry per split that has dialogues, then ``other`` for dialogues in no split (if any), then ``all``."""
    placed = {i for ids in corpus.splits.values() for i in ids}
    parts: dict[str, list[Dialogue]] = {name: [corpus.by_id[i] for i in ids] for name, ids in corpus.splits.items()}
    parts["other"] = [d for d in corpus.dialogues if d.id not in placed]
    parts = {name: chosen for name, chosen in parts.items() if chosen} | {"all": list(corpus.dialogues)}
    return [_part(name, chosen, len(corpus.label_set)) for name, chosen in parts.items()]


def _part(name: str, chosen: Sequence[Dialogue], classes: int) -> PartSummary:
    turns = [u for d in chosen for u in d.utterances]
    counts = Counter(u.label for u in turns)
    return PartSummary(
        name=name,
        dialogues=len(chosen),
        utterances=len(turns),
        labelled=len(turns) - counts[None],
        scored=sum(u.scores is not None and any(s is not None for s in u.scores) for u in turns),
        classes=tuple(counts[index] for index in range(classes)),
        speakers=len({u.speaker for u in turns}),
        longest=max((len(d) for d in chosen), default=0),
    )


def differences(where: str, counts: Iterable[tuple[str, int, int]], reference: str = "published") -> list[str]:
    """A line for each ``(what, counted, expected)`` whose numbers differ; *reference* is the source of *expected*."""
    return [f"differs: {where}{mine} {what}, {reference} {theirs}" for what, mine, theirs in counts if mine != theirs]


def class_differences(
    where: str, counts: Mapping[str, Counter[int | None]], labels: LabelSet, reference: str = "published"
) -> list[str]:
    """:func:`differences` of the *counts* by split and label index from the known ones of *labels*."""
    lines = []
    for part, known in COUNTS[labels.name].items():
        rows = [(name, counts[part][index], known[index]) for index, name in enumerate(labels.classes)]
        lines += differences(f"{where}{labels.name}, {part}: ", rows, reference)
    return lines


def compare_counts(
    split: str, dialogues: Sequence[Dialogue], published: tuple[int, int, Sequence[int]], labels: LabelSet
) -> list[str]:
    """The lines of :func:`differences`, or one that says that *split* agrees.

    *published* holds the numbers of dialogues, of utterances, and of utterances per class.
    """
    counts = Counter(u.label for d in dialogues for u in d.utterances)
    pairs = [("dialogues", len(dialogues), published[0]), ("utterances", counts.total(), published[1])]
    pairs += [(name, counts[index], published[2][index]) for index, name in enumerate(labels.classes)]
    return differences(f"{split}: ", pairs) or [
        f"agrees: {split}: {published[0]} dialogues, {published[1]} utterances and all class counts as published"
    ]


def numbering_notes(numbers: Iterable[Sequence[int]], first: int, column: str, start: str) -> list[str]:
    """Notes on dialogues whose sorted utterance *numbers* have gaps or do not start at *first*."""
    held = list(numbers)
    gapped = sum(n[-1] - n[0] + 1 != len(n) for n in held)
    late = sum(n[0] > first for n in held)
    notes = [f"{gapped} dialogues with gaps in {column}, kept in order"] if gapped else []
    return notes + ([f"{late} dialogues do not start at {start}"] if late else [])
