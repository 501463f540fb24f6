"""A corpus from a published pickle alone: its turns, labels, sentences, features and lists of dialogues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS, label_set
from lantern.corpora.readers.iemocap import SPEAKER_NUMBERS, iemocap_labels
from lantern.corpora.readers.meld import PUBLISHED as MELD_TOTALS
from lantern.corpora.readers.published import SLOTS, PublishedFeatures, read_published, slot_name
from lantern.corpora.summary import class_differences
from lantern.corpora.types import PARTS, Dialogue, LabelSet, Utterance
from lantern.errors import UserError

SIX = "iemocap-6-legacy"
FOUR = "iemocap-4-hap-legacy"
_SESSION = re.compile(r"Ses0([1-5])[FM]_\w+")
# MELD's published files number the dialogues of the three CSV files consecutively.
_MELD_FIRST = {"train": 0, "dev": 1039, "test": 1153}


@dataclass(frozen=True, slots=True)
class Imported:
    """A pickle and the label set that its labels are of."""

    published: PublishedFeatures
    labels: LabelSet


def read_iemocap(path: Path, layout: str | None = None, label_set_name: str | None = None) -> Imported:
    """Read IEMOCAP's pickle *path*.

    Labels up to 5 are ``iemocap-6-legacy``. Labels up to 3 are ``iemocap-4-hap-legacy`` only where the counts per class
    are the published ones; otherwise *label_set_name* must say what they are.

    Raises:
        UserError: as :func:`read_published`; a label set that does not fit the labels, or labels of unknown meaning.
    """
    published = read_published(path, "iemocap", layout)
    highest = max(max(d.labels) for d in published.dialogues)
    if label_set_name is None:
        label_set_name = SIX if highest > 3 else FOUR
        if highest <= 3 and _differences(published, label_set(FOUR)):
            total = sum(len(d.labels) for d in published.dialogues)
            raise UserError(
                f"{path} has labels 0 to {highest} in {total:,} turns, as no published 4-way file: say with "
                f"--label-set what they are, {FOUR} or {SIX}"
            )
    labels = iemocap_labels(label_set_name)
    if highest >= len(labels):
        raise UserError(f"{path} has the label {highest}, --label-set {labels.name} goes from 0 to {len(labels) - 1}")
    return Imported(published, labels)


def read_meld(path: Path, layout: str | None = None) -> Imported:
    """Read MELD's pickle *path*; errors as in :func:`read_published`.

    The files have MELD's train and dev dialogues in one list. Dev becomes a list of its own where the dialogues
    with its numbers have the published counts.
    """
    return Imported(_with_meld_dev(read_published(path, "meld", layout)), label_set("meld-7"))


def iemocap_corpus(imported: Imported) -> Corpus:
    """IEMOCAP with the turns of the pickle only: those with a label, in the pickle's order; no dimension scores.

    Speakers are ``M1``, ``F1``, ... ``F5``, since every session has its own two.
    """
    published, labels = imported.published, imported.labels
    notes = [*published.notes, _outside(published)]
    if not _differences(published, labels) and labels.name == SIX:
        notes.append("53 of the happy turns are xxx (no agreement) in the release, which has 595 happy ones, not 648")
    notes.append(
        "no dimension scores and only the labelled turns: pickles have no others. To add them, import the release "
        "(import_corpus iemocap) and import this pickle again with --join <that folder>"
    )
    return with_published_features(
        Corpus(
            name="iemocap",
            label_set=labels,
            dialogues=_dialogues(published, session_of),
            splits=published.splits,
            speaker_numbers=SPEAKER_NUMBERS,
            redistribution="forbidden",
            source=f"{published.layout.title} ({published.source}), under IEMOCAP's licence: not to be passed on",
            notes=tuple(filter(None, notes)),
            checks=count_checks(imported),
        ),
        published,
    )


def meld_corpus(imported: Imported) -> Corpus:
    """MELD with the pickle's turns; speakers are slots within a dialogue, since the files do not name them."""
    published = imported.published
    notes = (
        *published.notes,
        _outside(published),
        "speakers are slots within a dialogue, not characters; for names, import the CSV files (import_corpus meld) "
        "and import this pickle again with --join <that folder>",
    )
    return with_published_features(
        Corpus(
            name="meld",
            label_set=imported.labels,
            dialogues=_dialogues(published, lambda _: None),
            splits=published.splits,
            speaker_numbers={slot_name(n): n for n in range(SLOTS)},
            redistribution="allowed",
            contaminated="MELD is Friends, which LLMs have read: their results on it may be contaminated",
            source=f"{published.layout.title} ({published.source}); the text is that of a TV series",
            notes=tuple(filter(None, notes)),
            checks=count_checks(imported),
        ),
        published,
    )


def count_checks(imported: Imported) -> tuple[str, ...]:
    """One line that agrees with the published counts, or one for each that differs."""
    published, labels = imported.published, imported.labels
    if published.layout.corpus == "iemocap":
        total = sum(map(sum, COUNTS[labels.name].values()))
        agrees = f"agrees: pickle: {labels.name}: {total:,} utterances and all class counts of both splits as published"
        return tuple(_differences(published, labels) or [agrees])
    lines = []
    for part, totals in MELD_TOTALS.items():
        known = (*totals, COUNTS["meld-7"][part])
        counts = _meld_counts(published, part, published.splits.get(part, ()))
        one, other = ("{} dialogues, {} utterances, by class {}".format(*numbers) for numbers in (counts, known))
        same = counts == known
        lines.append(f"{'agrees' if same else 'differs'}: pickle: {part}: {one}, published {'too' if same else other}")
    return tuple(lines)


def session_of(dialogue: str) -> str:
    """``1`` to ``5`` for IEMOCAP's dialogue ids, such as ``Ses05M_script01_1b``."""
    match = _SESSION.fullmatch(dialogue)
    if match is None:
        raise UserError(f"{dialogue!r} is not the id of an IEMOCAP dialogue, such as Ses01F_impro01")
    return match[1]


def meld_csv_id(dialogue: str) -> str | None:
    """The id of the same dialogue in a corpus imported from the CSV files; None when *dialogue* is not a number."""
    if not dialogue.isdecimal():
        return None
    number = int(dialogue)
    part = [name for name, first in _MELD_FIRST.items() if number >= first][-1]
    return f"{part}_{number - _MELD_FIRST[part]}"


def _with_meld_dev(published: PublishedFeatures) -> PublishedFeatures:
    train = published.splits["train"]
    dev = tuple(i for i in train if (meld_csv_id(i) or "").startswith("dev_"))
    if _meld_counts(published, "dev", dev) != (*MELD_TOTALS["dev"], COUNTS["meld-7"]["dev"]):
        return replace(published, notes=(*published.notes, "the pickle has no dev list"))
    rest = tuple(i for i in train if i not in set(dev))
    note = f"the {len(dev)} dialogues of MELD's dev split, known by number and counts, are taken out of the train list"
    splits = {"train": rest, "dev": dev, "test": published.splits["test"]}
    return replace(published, splits=splits, notes=(*published.notes, note))


def _meld_counts(published: PublishedFeatures, part: str, ids: tuple[str, ...]) -> tuple[int, int, tuple[int, ...]]:
    """Dialogues, utterances, utterances per class."""
    counts = _counts(published, {part: ids})[part]
    return len(ids), counts.total(), tuple(counts[index] for index in range(7))


def _counts(published: PublishedFeatures, splits: dict[str, tuple[str, ...]]) -> dict[str, Counter[int | None]]:
    labels = {d.id: d.labels for d in published.dialogues}
    return {part: Counter(label for i in splits.get(part, ()) for label in labels[i]) for part in PARTS}


def _differences(published: PublishedFeatures, labels: LabelSet) -> list[str]:
    """One line per count of IEMOCAP that is not the published one; dev is counted with train."""
    counts = _counts(published, published.splits)
    both = {"train": counts["train"] + counts["dev"], "test": counts["test"]}
    return class_differences("pickle: ", both, labels)


def _outside(published: PublishedFeatures) -> str:
    listed = {i for ids in published.splits.values() for i in ids}
    count = sum(d.id not in listed for d in published.dialogues)
    return f"{count} dialogues are in none of the pickle's lists" if count else ""


def _dialogues(published: PublishedFeatures, session: Callable[[str], str | None]) -> tuple[Dialogue, ...]:
    given = [d.turns or tuple(map(str, range(len(d.labels)))) for d in published.dialogues]
    # IEMOCAP's turn ids are unique; MELD's are numbers within a dialogue, so its id is added.
    unique = len({turn for turns in given for turn in turns}) == sum(map(len, given))
    dialogues = []
    for dialogue, turns in zip(published.dialogues, given):
        number = session(dialogue.id)
        utterances = tuple(
            Utterance(
                id=turn if unique and dialogue.turns else f"{dialogue.id}_{turn}",
                speaker=speaker if number is None else f"{speaker}{number}",
                text=text,
                label=label,
            )
            for turn, speaker, text, label in zip(turns, dialogue.speakers, dialogue.sentences, dialogue.labels)
        )
        dialogues.append(Dialogue(dialogue.id, utterances, number))
    return tuple(dialogues)


def with_published_features(corpus: Corpus, published: PublishedFeatures, rows: np.ndarray | None = None) -> Corpus:
    """*corpus* with the features of the pickle, whose turns are *rows* of the corpus; all rows when left out."""
    count = len(corpus.utterances)
    rows = np.arange(count) if rows is None else rows
    present = np.zeros(count, dtype=bool)
    present[rows] = True
    for modality, card in published.cards.items():
        values = np.zeros((count, card.dims), dtype=np.float32)
        values[rows] = np.concatenate([d.features[modality] for d in published.dialogues])
        corpus = corpus.with_features(modality, values, card, present)
    return corpus
