"""Counts of a corpus, for people. No torch, no features needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lantern.corpora.folder import Corpus
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
    parts: dict[str, list[Dialogue]] = {
        name: [corpus.by_id[i] for i in ids] for name, ids in corpus.splits.items() if ids
    }
    parts["other"] = [d for d in corpus.dialogues if d.id not in placed]
    found = [_part(name, chosen, len(corpus.label_set)) for name, chosen in parts.items() if chosen]
    return [*found, _part("all", corpus.dialogues, len(corpus.label_set))]


def _part(name: str, dialogues: Iterable[Dialogue], classes: int) -> PartSummary:
    chosen = list(dialogues)
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


def compare_counts(
    split: str,
    found: Sequence[Dialogue],
    dialogues: int,
    utterances: int,
    per_class: Sequence[int],
    labels: LabelSet,
) -> list[str]:
    """A line that agrees with the published numbers of *split*, or one for each that *found* does not have."""
    counts = Counter(u.label for d in found for u in d.utterances)
    pairs = [("dialogues", len(found), dialogues), ("utterances", sum(map(len, found)), utterances)]
    pairs += [(name, counts[index], per_class[index]) for index, name in enumerate(labels.classes)]
    lines = [f"differs: {split}: {mine} {what}, published {theirs}" for what, mine, theirs in pairs if mine != theirs]
    return lines or [
        f"agrees: {split}: {dialogues} dialogues, {utterances} utterances and all class counts as published"
    ]
