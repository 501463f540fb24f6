"""The layouts in which multi-modal features of IEMOCAP and MELD were published as pickles, read into one typed form.

Tuples of dicts by dialogue id, then lists of dialogue ids; CORECT's preprocessed form is a dict of lists of dialogues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.readers.unpickle import FileSet, load_pickle
from lantern.corpora.types import PARTS
from lantern.errors import UserError

_FEATURES = ("text", "audio", "visual")
"""Members that hold features; the pickles have no others, whatever modalities Lantern knows."""
_FRONT = ("turn ids", "speakers", "labels", "text")
_BACK = ("audio", "visual", "sentences", "train", "test")
_VIEWS = ("text, view 2", "text, view 3", "text, view 4")
_CORECT = {"speakers": "speakers", "labels": "labels", "sentences": "sentence"} | {m: m for m in _FEATURES}
"""Members by the keys of a dialogue in CORECT's preprocessed form."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Members of a published tuple, in order; ``train``, ``dev``, ``test`` are lists, ``unused`` anything."""

    corpus: str
    name: str
    """The choice of ``--layout``."""
    title: str
    members: tuple[str, ...] = ()
    """Empty: a dict of ``train``, ``dev`` and ``test``."""


LAYOUTS = (
    Layout("iemocap", "mmgcn", "the 9-tuple of MMGCN, COGMEN and CORECT", (*_FRONT, *_BACK)),
    Layout("iemocap", "sdt", "the 12-tuple of SDT", (*_FRONT, *_VIEWS, *_BACK)),
    Layout("iemocap", "corect", "the preprocessed dict of CORECT"),
    Layout(
        "iemocap",
        "cosmic",
        "the 6-tuple of COSMIC, text only",
        ("speakers", "labels", "sentences", "train", "test", "dev"),
    ),
    Layout("meld", "mmgcn", "the 10-tuple of MMGCN", (*_FRONT, *_BACK, "unused")),
    Layout("meld", "sdt", "the 13-tuple of SDT", (*_FRONT, *_VIEWS, *_BACK, "unused")),
)
SLOTS = 9
"""Places of MELD's one-hot speakers."""
_MOST_VALUES = 200_000_000
"""Per modality; published files have 25 million at most."""
_CLASSES = {"iemocap": 6, "meld": 7}


@dataclass(frozen=True, slots=True)
class PublishedDialogue:
    """One dialogue of ``L`` utterances as a pickle has it."""

    id: str
    turns: tuple[str, ...] | None
    """Turn ids; None where the layout has none."""
    speakers: tuple[str, ...]
    """IEMOCAP: ``M`` or ``F``. MELD: ``Speaker 1`` and so on, slots within the dialogue."""
    labels: tuple[int, ...]
    sentences: tuple[str, ...]
    features: dict[str, np.ndarray]
    """Per modality float32 ``[L, D]``, finite."""


@dataclass(frozen=True, slots=True)
class PublishedFeatures:
    """A whole pickle, checked: every dialogue has every member, and members of a dialogue have one entry per turn."""

    layout: Layout
    source: str
    """File name and SHA-256, for people."""
    dialogues: tuple[PublishedDialogue, ...]
    """In the order of the file's labels."""
    splits: dict[str, tuple[str, ...]]
    """Ids of ``train``, ``dev`` (where there is one) and ``test`` in the order of the file's lists."""
    cards: dict[str, FeatureCard]
    notes: tuple[str, ...] = ()


def read_published(path: Path, corpus: str, layout: str | None = None) -> PublishedFeatures:
    """Read the pickle *path* of *corpus* (``iemocap`` or ``meld``); the structure decides the layout.

    Args:
        layout: the name of the only layout to accept.

    Raises:
        UserError: no pickle or a dangerous one, a structure of no known layout, a dialogue missing in one member,
            unequal lengths, values that are not finite; names member, dialogue and turn.
    """
    content = load_pickle(path)
    fitting = _layout(path, content, corpus, layout)
    table, lists = _tuple(path, fitting, content) if fitting.members else _preprocessed(path, content)
    _check_members(path, table)
    for modality in _FEATURES:
        _check_vectors(path, table.get(modality, {}), modality)
    dialogues = tuple(_dialogue(f"{path}: dialogue {i!r}", i, table, corpus) for i in table["labels"])
    count = sum(len(d.labels) for d in dialogues)
    cards = {m: feature_card(fitting, m, rows.shape[1], count) for m, rows in dialogues[0].features.items()}
    splits = {name: _ids(path, name, lists[name], table["labels"]) for name in PARTS if name in lists}
    notes = [
        f"the {name} list is a set, whose order means nothing: the order in which the file writes it is kept"
        for name in splits
        if isinstance(lists[name], FileSet)
    ]
    return PublishedFeatures(fitting, _source(path), dialogues, splits, cards, tuple(notes))


def feature_card(layout: Layout, modality: str, dims: int, count: int) -> FeatureCard:
    """What is known about published features; ``unknown`` otherwise."""
    version = f"as published, layout {layout.name}"
    extractor, fitted, used = "unknown", "unknown", ""
    if layout.name == "sdt" and modality == "text" and dims == 1024:
        extractor, fitted = "RoBERTa large, fine-tuned on the corpus (COSMIC)", "train-labels"
    elif layout.name == "corect" and modality == "text" and dims == 768:
        extractor, fitted = "sentence-transformers/paraphrase-distilroberta-base-v1", "none"
    elif layout.corpus == "iemocap" and modality == "text" and dims == 100:
        extractor, fitted = "utterance CNN of DialogueRNN and MMGCN", "train-labels"
    elif layout.corpus == "iemocap" and modality == "audio" and dims == 1582:
        extractor = "openSMILE IS10"
    elif modality == "visual" and dims == 342:
        extractor = "DenseNet on faces"
    if layout.name == "sdt" and modality == "text":
        used = "view 1 of 4, the only one that SDT's code uses; views 2 to 4 are left out, nothing is averaged"
    return FeatureCard(extractor, version, dims, count, fitted_on=fitted, layer=used)


def _layout(path: Path, content: Any, corpus: str, wanted: str | None) -> Layout:
    """The layout whose structure *content* has. The layouts of a corpus differ in length, so at most one fits."""
    fitting = [layout for layout in LAYOUTS if _fits(layout, content)]
    own = [layout for layout in fitting if layout.corpus == corpus]
    if wanted is not None and [layout.name for layout in own] != [wanted]:
        title = next(layout.title for layout in LAYOUTS if (layout.corpus, layout.name) == (corpus, wanted))
        raise UserError(f"{path} is not in the layout --layout {wanted}, {title}: it is {_structure(content)}")
    if own:
        return own[0]
    if fitting:
        other = fitting[0]
        raise UserError(
            f"{path} looks like {other.title} for {other.corpus.upper()}; import it with {other.corpus}-pickle"
        )
    known = "; ".join(layout.title for layout in LAYOUTS if layout.corpus == corpus)
    raise UserError(f"{path} is in no known layout: it is {_structure(content)}. Known: {known}")


def _fits(layout: Layout, content: Any) -> bool:
    if not layout.members:
        return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in PARTS)
    if not isinstance(content, tuple | list) or len(content) != len(layout.members):
        return False
    return all(
        name == "unused" or isinstance(item, list | tuple if name in PARTS else dict)
        for name, item in zip(layout.members, content)
    )


def _structure(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(f'{key!a}' for key in list(content)[:5])}"
    if isinstance(content, tuple | list):
        kinds = ", ".join(type(item).__name__ for item in content[:14])
        return f"a {type(content).__name__} of {len(content)} ({kinds})"
    return f"a {type(content).__name__}"


Table = dict[str, dict[str, Any]]
"""Member, then dialogue id, then one entry per turn."""


def _tuple(path: Path, layout: Layout, content: Any) -> tuple[Table, dict[str, Any]]:
    table: Table = {}
    lists: dict[str, Any] = {}
    for name, item in zip(layout.members, content):
        if name in PARTS:
            lists[name] = item
        elif name != "unused":
            table[name] = {_key(path, key): value for key, value in item.items()}
    return table, lists


def _preprocessed(path: Path, content: dict[Any, Any]) -> tuple[Table, dict[str, Any]]:
    table: Table = {name: {} for name in _CORECT}
    lists: dict[str, Any] = {name: [] for name in PARTS}
    for part in PARTS:
        for number, dialogue in enumerate(content[part]):
            if not isinstance(dialogue, dict) or "vid" not in dialogue:
                raise UserError(f"{path}: {part}, dialogue {number} is not a dict with the key 'vid'")
            identity = _key(path, dialogue["vid"])
            if identity in table["labels"]:
                raise UserError(f"{path}: dialogue {identity!r} occurs twice, the second time in {part}")
            lists[part].append(identity)
            for name, key in _CORECT.items():
                if key in dialogue:
                    table[name][identity] = dialogue[key]
    return table, lists


def _key(path: Path, key: Any) -> str:
    key = _decoded(key)
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise UserError(f"{path}: {key!a} is not a dialogue id, which is text or a whole number")
    return str(key)


def _decoded(value: Any) -> Any:
    """Text of Python 2, which is bytes, as text; other values unchanged."""
    return value.decode("latin1") if isinstance(value, bytes) else value


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


def _dialogue(where: str, identity: str, table: Table, corpus: str) -> PublishedDialogue:
    turns = table.get("turn ids")
    speaker: Callable[[str, Any], str] = _sex if corpus == "iemocap" else _slot
    return PublishedDialogue(
        id=identity,
        turns=None if turns is None else tuple(_text(w, value) for w, value in _each(where, turns[identity])),
        speakers=tuple(speaker(w, value) for w, value in _each(where, table["speakers"][identity])),
        labels=tuple(_label(w, value, _CLASSES[corpus]) for w, value in _each(where, table["labels"][identity])),
        sentences=tuple(_mended(_text(w, value)) for w, value in _each(where, table["sentences"][identity])),
        features={m: _features(f"{where}, {m}", table[m][identity]) for m in _FEATURES if m in table},
    )


def _each(where: str, values: Any) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
        yield f"{where}, turn {number}", value


def _text(where: str, value: Any) -> str:
    value = _decoded(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{where}: {str(value)[:40]!a} is not text")
    return str(value)


def _mended(text: str) -> str:
    """*text* as UTF-8 where Python 2 wrote UTF-8 bytes, which were read as Latin-1; other text is unchanged."""
    try:
        return text.encode("latin1").decode("utf-8")
    except UnicodeError:
        return text


def _sex(where: str, value: Any) -> str:
    if _decoded(value) not in ("M", "F"):
        raise UserError(f"{where}: speaker {str(value)[:40]!a} is not M or F")
    return str(_decoded(value))


def _slot(where: str, value: Any) -> str:
    marks = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(marks, list | tuple) or len(marks) != SLOTS or [mark for mark in marks if mark != 0] != [1]:
        raise UserError(f"{where}: speaker {str(marks)[:40]!a} is not a one-hot vector of {SLOTS}")
    return slot_name(list(marks).index(1))


def slot_name(number: int) -> str:
    """The speaker at this place of the one-hot vectors in MELD's pickles."""
    return f"Speaker {number + 1}"


def _label(where: str, value: Any, classes: int) -> int:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < classes:
        raise UserError(f"{where}: label {str(value)[:40]!a} is not a whole number from 0 to {classes - 1}")
    return value


def _features(where: str, values: Any) -> np.ndarray:
    """Float32 ``[L, D]`` of vectors of one length."""
    try:
        with np.errstate(over="ignore"):  # infinities are refused below
            array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
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


def _ids(path: Path, name: str, values: Any, known: dict[str, Any]) -> tuple[str, ...]:
    ids = tuple(_key(path, value) for value in values)
    for identity in ids:
        if identity not in known:
            raise UserError(f"{path}: the {name} list names dialogue {identity!r}, which the other members do not have")
    return ids


def _source(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
