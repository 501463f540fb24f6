"""Features of IEMOCAP, MELD and EmoryNLP as other projects publish them, checked and in one typed form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.labels import label_set
from lantern.corpora.readers.layouts import (
    CLASSES,
    LAYOUTS,
    Layout,
    Recognised,
    Table,
    decoded,
    each,
    recognise,
    words_of,
)
from lantern.corpora.readers.unpickle import FileSet
from lantern.corpora.text_files import mended
from lantern.corpora.types import PARTS, LabelSet
from lantern.errors import UserError

_FEATURES = ("text", "audio", "visual")
"""Members that hold features; these files have no others, whatever modalities Lantern knows."""
_COSMIC = "RoBERTa large, fine-tuned on the corpus (COSMIC)", "train-labels"
_EXTRACTORS = {
    ("text", 1024, "sdt"): _COSMIC,
    ("text", 1024, "cosmic-roberta"): _COSMIC,
    ("text", 1024, "dag-erc"): ("RoBERTa large, fine-tuned on the corpus (DAG-ERC)", "train-labels"),
    ("text", 768, "corect"): ("sentence-transformers/paraphrase-distilroberta-base-v1", "none"),
    ("text", 100, "iemocap"): ("utterance CNN of DialogueRNN and MMGCN", "train-labels"),
    ("audio", 1582, "iemocap"): ("openSMILE IS10", "unknown"),
    ("visual", 342, ""): ("DenseNet on faces", "unknown"),
}
"""What made vectors of a length, in a layout, in a corpus or anywhere, and what it was fitted on."""
_MOST_VALUES = 200_000_000
"""Per modality; published files have 25 million at most."""
_MOST_TURNS = 1_000_000


@dataclass(frozen=True, slots=True)
class PublishedDialogue:
    """One dialogue of ``L`` utterances as a file has it."""

    id: str
    turns: tuple[str, ...] | None
    """Turn ids; None where the layout has none."""
    speakers: tuple[str, ...]
    """IEMOCAP: ``M`` or ``F``. Others: names, or ``Speaker 1`` and so on, slots within the dialogue."""
    labels: tuple[int | None, ...]
    sentences: tuple[str, ...]
    features: dict[str, np.ndarray]
    """Per modality float32 ``[L, D]``, finite."""

    def select(self, turns: Sequence[int]) -> PublishedDialogue:
        """The dialogue with some of its *turns*, by number."""
        kept = list(turns)
        lists: dict[str, Any] = {
            name: tuple(getattr(self, name)[n] for n in kept) for name in ("speakers", "labels", "sentences")
        }
        features = {modality: values[kept] for modality, values in self.features.items()}
        return replace(self, **lists, turns=self.turns and tuple(self.turns[n] for n in kept), features=features)


@dataclass(frozen=True, slots=True)
class PublishedFeatures:
    """A whole file, checked: every dialogue has every member, and members of a dialogue have one entry per turn."""

    corpus: str
    labels: LabelSet
    layout: Layout
    title: str
    """``the 9-tuple of MMGCN`` and the like."""
    source: str
    """File name and SHA-256, for people."""
    slots: int
    """Places of one-hot speakers; 0 where speakers are names, or ``M`` and ``F``."""
    named: bool
    """Whether dialogue ids are the corpus's own; else they are counted in their split."""
    dialogues: tuple[PublishedDialogue, ...]
    """In the order of the file's labels."""
    splits: dict[str, tuple[str, ...]]
    """Ids of ``train``, ``dev`` (where there is one) and ``test`` in the order of the file's lists."""
    cards: dict[str, FeatureCard]
    notes: tuple[str, ...] = ()


def read_published(path: Path, corpus: str, layout: str | None = None) -> PublishedFeatures:
    """Read *path*, a pickle or a folder of JSON files, of *corpus* (``iemocap``, ``meld`` or ``emorynlp``).

    Args:
        layout: the name of the only layout to accept.

    Raises:
        UserError: no pickle or a dangerous one, content of no known layout or of another corpus, a dialogue missing in
            one member, unequal lengths, values that are not finite; names member, dialogue and turn.
    """
    found = recognise(path, corpus)
    if layout is not None and found.layout.name != layout:
        title = LAYOUTS[layout].title(LAYOUTS[layout].sizes.get(corpus, 0))
        raise UserError(f"{path} is not in the layout --layout {layout}, {title}: it is {found.seen}")
    if found.corpus != corpus:
        of = found.corpus
        raise UserError(f"{path} looks like {found.title} for {of.upper()}; import it with {of}-pickle")
    table = found.table
    _check_members(path, table)
    for modality in _FEATURES:
        _check_vectors(path, table.get(modality, {}), modality)
    dialogues = tuple(_dialogue(f"{path}: dialogue {i!r}", i, found) for i in table["labels"])
    count = sum(len(d.labels) for d in dialogues)
    cards = {
        m: feature_card(found.layout, corpus, m, rows.shape[1], count) for m, rows in dialogues[0].features.items()
    }
    splits = {name: found.lists[name] for name in PARTS if name in found.lists}
    for name, i in ((name, i) for name, ids in splits.items() for i in ids):
        if i not in table["labels"]:
            raise UserError(f"{path}: the {name} list names dialogue {i!r}, which the other members do not have")
    notes = [
        f"the {name} list is a set, whose order means nothing: the order in which the file writes it is kept"
        for name, ids in splits.items()
        if isinstance(ids, FileSet)
    ]
    if "sentiments" in table:
        notes.append("the file's sentiment labels are checked and left out; import the CSV files for them")
    source, labels = _source(path, found.files), label_set(CLASSES[corpus])
    return PublishedFeatures(
        *(corpus, labels, found.layout, found.title, source, found.slots, found.named),
        *(dialogues, {name: tuple(ids) for name, ids in splits.items()}, cards, (*notes, *found.notes)),
    )


def feature_card(layout: Layout, corpus: str, modality: str, dims: int, count: int) -> FeatureCard:
    """What is known about published features; ``unknown`` otherwise."""
    found = (_EXTRACTORS.get((modality, dims, where)) for where in (layout.name, corpus, ""))
    extractor, fitted = next(filter(None, found), ("unknown", "unknown"))
    used = ""
    if layout.views and modality == "text":
        only = ", the only one that SDT's code uses" if layout.name == "sdt" else ""
        used = f"view 1 of 4{only}; views 2 to 4 are left out, nothing is averaged"
    return FeatureCard(extractor, f"as published, layout {layout.name}", dims, count, fitted_on=fitted, layer=used)


def _check_members(path: Path, table: Table) -> None:
    """Every member has the dialogues of the labels, each with as many entries."""
    labels = table["labels"]
    if not labels:
        raise UserError(f"{path} holds no dialogues")
    for name, member in table.items():
        for i in labels:
            if i not in member:
                raise UserError(f"{path}: dialogue {i!r} has labels, but is missing in the member '{name}'")
        for i, entries in member.items():
            if i not in labels:
                raise UserError(f"{path}: dialogue {i!r} of the member '{name}' has no labels")
            for value in (entries, labels[i]):
                if not isinstance(value, list | tuple | np.ndarray) or (
                    isinstance(value, np.ndarray) and not value.ndim
                ):
                    raise UserError(f"{path}: dialogue {i!r}, member '{name}' is not a list of one entry per turn")
            if len(entries) != len(labels[i]):
                raise UserError(
                    f"{path}: dialogue {i!r} has {len(entries)} entries in the member '{name}' and {len(labels[i])} "
                    "labels"
                )
            if not len(entries):
                raise UserError(f"{path}: dialogue {i!r} has no turns")
    # A small pickle may name one long list as the turns of many dialogues.
    if (turns := sum(map(len, labels.values()))) > _MOST_TURNS:
        raise UserError(f"{path}: {turns:,} turns; more than {_MOST_TURNS:,} are not read")


def _dialogue(where: str, identity: str, found: Recognised) -> PublishedDialogue:
    words = words_of(found.corpus)
    classes = len(label_set(CLASSES[found.corpus]))

    def read(member: str, parse: Callable[[str, Any], Any]) -> tuple[Any, ...]:
        return tuple(parse(f"{where}, turn {n}", value) for n, value in enumerate(each(found.table[member][identity])))

    def speaker(place: str, value: Any) -> str:
        if found.slots:
            return _slot(place, value, found.slots)
        value = decoded(value)
        if found.corpus == "iemocap" and value not in ("M", "F"):
            raise UserError(f"{place}: speaker {str(value)[:40]!a} is not M or F")
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: speaker {str(value)[:40]!a} is not a name")
        return value.strip()

    def label(place: str, value: Any) -> int | None:
        value = decoded(value)
        if found.layout.name != "dag-erc":
            return _number(place, value, "label", classes)
        if value is None:
            return None
        if not isinstance(value, str) or value.strip().lower() not in words:
            raise UserError(f"{place}: label {str(value)[:40]!a} is not one of {', '.join(words)}")
        return words[value.strip().lower()]

    if "sentiments" in found.table:
        read("sentiments", lambda place, value: _number(place, decoded(value), "sentiment", 3))
    return PublishedDialogue(
        id=identity,
        turns=read("turn ids", _text) if "turn ids" in found.table else None,
        speakers=read("speakers", speaker),
        labels=read("labels", label),
        sentences=tuple(map(mended, read("sentences", _text))),
        features={m: _features(f"{where}, {m}", found.table[m][identity]) for m in _FEATURES if m in found.table},
    )


def _number(where: str, value: Any, what: str, count: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise UserError(f"{where}: {what} {str(value)[:40]!a} is not a whole number from 0 to {count - 1}")
    return value


def _text(where: str, value: Any) -> str:
    value = decoded(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{where}: {str(value)[:40]!a} is not text")
    if any("\ud800" <= letter <= "\udfff" for letter in str(value)):
        raise UserError(f"{where}: {str(value)[:40]!a} holds half a character")
    return str(value)


def _slot(where: str, value: Any, slots: int) -> str:
    marks = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(marks, list | tuple) or len(marks) != slots or [mark for mark in marks if mark != 0] != [1]:
        raise UserError(f"{where}: speaker {str(marks)[:40]!a} is not a one-hot vector of {slots}")
    return slot_name(list(marks).index(1))


def slot_name(number: int) -> str:
    """The speaker at this place of one-hot vectors."""
    return f"Speaker {number + 1}"


def _features(where: str, values: Any) -> np.ndarray:
    """Float32 ``[L, D]`` of vectors of one length."""
    try:
        with np.errstate(over="ignore"):  # infinities are refused below
            array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: not vectors of numbers ({error})") from None
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        column = int(np.flatnonzero(~np.isfinite(array[bad[0]]))[0])
        value = array[bad[0], column]
        raise UserError(
            f"{where}, turn {bad[0]}: value {column} is {value}, not a finite number; {bad.size} such turns"
        )
    return array


def _check_vectors(path: Path, member: dict[str, Any], modality: str) -> None:
    """One vector per turn, all of one length. Checked before any array is made: shared lists could fill the memory."""
    first: tuple[int, str] | None = None
    total = 0
    for identity, entries in member.items():
        for number, entry in enumerate(entries):
            where = f"{path}: dialogue {identity!r}, {modality}, turn {number}"
            if isinstance(entry, np.ndarray):
                flat = entry.ndim == 1
            else:
                flat = isinstance(entry, list | tuple) and len(entry) > 0 and isinstance(entry[0], int | float)
            if not flat or not len(entry):
                raise UserError(f"{where} is not a vector of numbers")
            first = first or (len(entry), where.removeprefix(f"{path}: "))
            if len(entry) != first[0]:
                raise UserError(f"{where}: {len(entry)} values; {first[1]}: {first[0]}")
            total += len(entry)
    if total > _MOST_VALUES:
        raise UserError(f"{path}: {total:,} {modality} values; more than {_MOST_VALUES:,} are not read")


def _source(path: Path, files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return f"{path.name}, SHA-256 {digest.hexdigest()[:16]}"
