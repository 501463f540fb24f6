"""A corpus from published features alone: their turns, labels, sentences, vectors and lists of dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS, SERIES, label_set
from lantern.corpora.readers.emorynlp import PUBLISHED as EMORYNLP_TOTALS
from lantern.corpora.readers.iemocap import SPEAKER_NUMBERS, iemocap_labels
from lantern.corpora.readers.layouts import CLASSES, IEMOCAP_ID, MELD_FIRST, part_of
from lantern.corpora.readers.meld import PUBLISHED as MELD_TOTALS
from lantern.corpora.readers.published import PublishedFeatures, read_published, slot_name
from lantern.corpora.summary import class_differences
from lantern.corpora.types import PARTS, Dialogue, Utterance
from lantern.errors import UserError

SIX = CLASSES["iemocap"]
FOUR = "iemocap-4-hap-legacy"
_TERMS = (", under IEMOCAP's licence: not to be passed on", "; the text is that of a TV series")
_TOTALS: dict[str, Sequence[Mapping[str, tuple[int, int, tuple[int, ...]]]]] = {
    "meld": ({part: (*totals, COUNTS["meld-7"][part]) for part, totals in MELD_TOTALS.items()},),
    "emorynlp": (EMORYNLP_TOTALS["csv"], EMORYNLP_TOTALS["json"]),
}
"""Published dialogues, utterances and utterances per class, by split; EmoryNLP has two forms."""


_ADVICE = {
    "iemocap": "no dimension scores and only the labelled turns: pickles have no others. To add them, import the "
    "release (import_corpus iemocap) and import this pickle again with --join <that folder>"
} | {
    of: "speakers are slots within a dialogue, not characters; for names, import the CSV files "
    f"(import_corpus {of}) and import this file again with --join <that folder>"
    for of in SERIES
}
"""What a file lacks, and how to add it."""


def read_pickle(
    corpus: str, path: Path, layout: str | None = None, label_set_name: str | None = None
) -> PublishedFeatures:
    """Read the features of *corpus* in *path*.

    IEMOCAP's labels up to 5 are ``iemocap-6-legacy``. Labels up to 3 are ``iemocap-4-hap-legacy`` only where the counts
    per class are the published ones; otherwise *label_set_name* must say what they are. Some files have MELD's train
    and dev dialogues in one list: dev becomes a list of its own where the dialogues with its numbers have the published
    counts.

    Raises:
        UserError: as :func:`read_published`; a label set that does not fit the labels, or labels of unknown meaning.
    """
    published = read_published(path, corpus, layout)
    if corpus != "iemocap":
        return _with_meld_dev(published) if corpus == "meld" else published
    highest = max((label for d in published.dialogues for label in d.labels if label is not None), default=0)
    if label_set_name is None:
        label_set_name = SIX if highest > 3 else FOUR
        if highest <= 3 and _differences(replace(published, labels=label_set(FOUR))):
            total = sum(len(d.labels) for d in published.dialogues)
            raise UserError(
                f"{path} has labels 0 to {highest} in {total:,} turns, as no published 4-way file: say with "
                f"--label-set what they are, {FOUR} or {SIX}"
            )
    labels = iemocap_labels(label_set_name)
    if highest >= len(labels):
        raise UserError(f"{path} has the label {highest}, --label-set {labels.name} goes from 0 to {len(labels) - 1}")
    return replace(published, labels=labels)


def pickle_corpus(published: PublishedFeatures) -> Corpus:
    """The corpus of the file's turns only, in the file's order; no dimension scores.

    IEMOCAP's speakers are ``M1``, ``F1``, ... ``F5``, since every session has its own two. Speakers of the others are
    slots within a dialogue where the file does not name them.
    """
    of, labels = published.corpus, published.labels
    placed = {i for ids in published.splits.values() for i in ids}
    left = sum(d.id not in placed for d in published.dialogues)
    notes = [*published.notes, f"{left} dialogues are in none of the lists" if left else ""]
    if of == "iemocap" and labels.name == SIX and not _differences(published):
        notes.append("53 of the happy turns are xxx (no agreement) in the release, which has 595 happy ones, not 648")
    if of == "iemocap" or published.slots:
        notes.append(_ADVICE[of])
    numbers = {slot_name(n): n for n in range(published.slots)}
    if of == "iemocap":
        numbers = SPEAKER_NUMBERS if published.named else {"M": 0, "F": 1}
    return with_published_features(
        Corpus(
            name=of,
            label_set=labels,
            dialogues=_dialogues(published),
            splits=published.splits,
            speaker_numbers=numbers,
            redistribution="allowed" if of in SERIES else "forbidden",
            contaminated=SERIES.get(of, ""),
            source=f"{published.title} ({published.source}){_TERMS[of in SERIES]}",
            notes=tuple(filter(None, notes)),
            checks=count_checks(published),
        ),
        published,
    )


def count_checks(published: PublishedFeatures) -> tuple[str, ...]:
    """One line that agrees with the published counts, or one for each that differs."""
    labels = published.labels
    if published.corpus == "iemocap":
        total = sum(map(sum, COUNTS[labels.name].values()))
        agrees = f"agrees: pickle: {labels.name}: {total:,} utterances and all class counts of both splits as published"
        return tuple(_differences(published) or [agrees])
    mine = {part: _totals(published, published.splits.get(part, ())) for part in PARTS}
    forms = _TOTALS[published.corpus]
    lines = []
    for part, counts in mine.items():
        known = next((form[part] for form in forms if form == mine), forms[0][part])
        one, other = ("{} dialogues, {} utterances, by class {}".format(*numbers) for numbers in (counts, known))
        same = counts == known
        lines.append(f"{'agrees' if same else 'differs'}: pickle: {part}: {one}, published {'too' if same else other}")
    return tuple(lines)


def session_of(dialogue: str) -> str:
    """``1`` to ``5`` for IEMOCAP's dialogue ids, such as ``Ses05M_script01_1b``."""
    if IEMOCAP_ID.fullmatch(dialogue) is None:
        raise UserError(f"{dialogue!r} is not the id of an IEMOCAP dialogue, such as Ses01F_impro01")
    return dialogue[4]


def meld_csv_id(dialogue: str) -> str | None:
    """The id of the same dialogue in a corpus imported from the CSV files; None when *dialogue* is not a number."""
    part = part_of("meld", dialogue)
    return None if part is None else f"{part}_{int(dialogue) - MELD_FIRST[part]}"


def _with_meld_dev(published: PublishedFeatures) -> PublishedFeatures:
    train = published.splits.get("train", ())
    dev = tuple(i for i in train if part_of("meld", i) == "dev")
    if "dev" in published.splits:
        return published
    if _totals(published, dev) != _TOTALS["meld"][0]["dev"]:
        return replace(published, notes=(*published.notes, "the pickle has no dev list"))
    note = f"the {len(dev)} dialogues of MELD's dev split, known by number and counts, are taken out of the train list"
    splits = {**published.splits, "train": tuple(i for i in train if i not in set(dev)), "dev": dev}
    return replace(published, splits={p: splits[p] for p in PARTS}, notes=(*published.notes, note))


def _totals(published: PublishedFeatures, ids: tuple[str, ...]) -> tuple[int, int, tuple[int, ...]]:
    """Dialogues, utterances, utterances per class."""
    counts = _counts(published, {"train": ids})["train"]
    return len(ids), counts.total(), tuple(counts[index] for index in range(len(published.labels)))


def _counts(published: PublishedFeatures, splits: dict[str, tuple[str, ...]]) -> dict[str, Counter[int | None]]:
    labels = {d.id: d.labels for d in published.dialogues}
    return {part: Counter(label for i in splits.get(part, ()) for label in labels[i]) for part in PARTS}


def _differences(published: PublishedFeatures) -> list[str]:
    """One line per count of IEMOCAP that is not the published one; dev is counted with train."""
    counts = _counts(published, published.splits)
    both = {"train": counts["train"] + counts["dev"], "test": counts["test"]}
    return class_differences("pickle: ", both, published.labels)


def _dialogues(published: PublishedFeatures) -> tuple[Dialogue, ...]:
    given = [d.turns or tuple(map(str, range(len(d.labels)))) for d in published.dialogues]
    # IEMOCAP's turn ids are unique; MELD's are numbers within a dialogue, so its id is added.
    unique = len({turn for turns in given for turn in turns}) == sum(map(len, given))
    dialogues = []
    for dialogue, turns in zip(published.dialogues, given):
        session = session_of(dialogue.id) if published.corpus == "iemocap" and published.named else None
        utterances = tuple(
            Utterance(
                id=turn if unique and dialogue.turns else f"{dialogue.id}_{turn}",
                speaker=f"{speaker}{session or ''}",
                text=text,
                label=label,
            )
            for turn, speaker, text, label in zip(turns, dialogue.speakers, dialogue.sentences, dialogue.labels)
        )
        dialogues.append(Dialogue(dialogue.id, utterances, session))
    return tuple(dialogues)


def with_published_features(corpus: Corpus, published: PublishedFeatures, rows: np.ndarray | None = None) -> Corpus:
    """*corpus* with the features of the file, whose turns are *rows* of the corpus; all rows when left out."""
    count = len(corpus.utterances)
    rows = np.arange(count) if rows is None else rows
    present = np.zeros(count, dtype=bool)
    present[rows] = True
    for modality, card in published.cards.items():
        values = np.zeros((count, card.dims), dtype=np.float32)
        values[rows] = np.concatenate([d.features[modality] for d in published.dialogues])
        corpus = corpus.with_features(modality, values, card, present)
    return corpus
