"""What a file of published features is, and which of its parts is what: decided by content, checked elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lantern.corpora.labels import LABEL_SETS
from lantern.corpora.readers.unpickle import FileSet, load_pickle
from lantern.corpora.text_files import read_json
from lantern.corpora.types import PARTS
from lantern.errors import UserError

VIEWS = ("text", "text, view 2", "text, view 3", "text, view 4")
"""Members of the four text views of RoBERTa; only the first is used."""
CLASSES = {"iemocap": "iemocap-6-legacy", "meld": "meld-7", "emorynlp": "emorynlp-7"}
"""The label set that the labels of a file belong to; four classes of IEMOCAP are the first four of six."""
CODES = dict(zip(("hap", "sad", "neu", "ang", "exc", "fru"), LABEL_SETS[CLASSES["iemocap"]].classes))
"""IEMOCAP's classes by its own abbreviations."""
MELD_FIRST = {"train": 0, "dev": 1039, "test": 1153}
"""MELD's published files number the dialogues of the three CSV files consecutively."""
_WIDTHS = {1582: "audio", 342: "visual"}
"""Lengths of vectors that are known for what they are: openSMILE IS10, DenseNet."""
IEMOCAP_ID = re.compile(r"Ses0[1-5][FM]_\w+")
_SPEAKER = re.compile(r"(Ses0[1-5][FM]_\w+)_([FM])")
_TURN = re.compile(r"Ses0[1-5][FM]_\w+|[a-z]*_?\d+(_[a-z]*\d+)*")
_LETTERS = {
    "ids": "i",
    "M or F": "s",
    "one-hot vectors": "s",
    "numbers": "n",
    "vectors": "v",
    "words": "w",
    "dialogue ids": "l",
    "nothing": "-",
    "something else": "-",
}
_ORDER = re.compile(
    "(?P<turn_ids>[in]?)(?P<speakers>s)(?P<labels>n)(?P<sentiments>n)?(?P<vectors>v*)(?P<sentences>w)"
    "(?P<train>l)(?P<test>l)(?P<dev>l?)(?(sentiments)|(?P<sentiments_>n?))-?"
)
"""The order of parts that all published tuples share; another order is refused, since like parts would be mistaken."""
_KEYS = {
    "speakers": ("speakers", "speaker"),
    "labels": ("labels", "label"),
    "sentences": ("sentence", "sentences"),
    "text": ("sbert_sentence_embeddings", "text"),
    "audio": ("audio",),
    "visual": ("visual",),
}
"""Keys of a dialogue in CORECT's preprocessed form, and the attributes of COGMEN's, by member."""
_FILES = {"train": "train", "dev": "dev|valid|val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Layout:
    """One form of publishing. All have speakers, labels, sentences and lists of dialogues; the vectors differ.

    A tuple may also have turn ids, MELD's sentiments and a list of dev dialogues.
    """

    name: str
    """The choice of ``--layout``."""
    form: str
    """Follows the number of parts of a tuple."""
    vectors: tuple[str, ...] | None = None
    """Members with vectors in the order of a tuple; None: not a tuple."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Corpora of which such tuples were published, with their number of parts."""

    @property
    def views(self) -> bool:
        """Whether the text has four views."""
        return self.vectors is not None and self.vectors[:4] == VIEWS

    def title(self, size: int = 0) -> str:
        """``the 9-tuple of MMGCN``."""
        return self.form if self.vectors is None else f"the {size}-tuple of {self.form}"


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("mmgcn", "MMGCN, COGMEN and CORECT", ("text", "audio", "visual"), {"iemocap": 9, "meld": 10}),
        Layout("sdt", "SDT", (*VIEWS, "audio", "visual"), {"iemocap": 12, "meld": 13}),
        Layout("cosmic-roberta", "COSMIC", VIEWS, {"iemocap": 10, "meld": 11, "emorynlp": 10}),
        Layout("cosmic", "COSMIC, text only", (), {"iemocap": 6, "meld": 7, "emorynlp": 6}),
        Layout("dialoguernn", "DialogueRNN and DialogueGCN", ("text", "audio"), {"meld": 9}),
        Layout("corect", "the preprocessed dict of CORECT"),
        Layout("dag-erc", "the JSON files of DAG-ERC and DialogXL"),
    )
}


class _Kind(NamedTuple):
    """What the entries of a part are, and how long where they are vectors."""

    name: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.name} of {self.size}" if self.size else self.name


_NOTHING, _OTHER = _Kind("nothing"), _Kind("something else")
Table = dict[str, dict[str, Any]]
"""Member, then dialogue id, then one entry per turn."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A file with its parts named; nothing in them is checked yet."""

    corpus: str
    layout: Layout
    title: str
    seen: str
    """What the file is, for people."""
    table: Table
    lists: dict[str, tuple[str, ...]]
    """Dialogue ids by split, as the file has them."""
    files: tuple[Path, ...]
    slots: int = 0
    """Places of one-hot speakers; 0: speakers are text."""
    named: bool = True
    """Whether dialogue ids are the corpus's own; else they are counted in their split."""
    notes: tuple[str, ...] = ()


def recognise(path: Path, corpus: str) -> Recognised:
    """What *path* is: a pickle, or a folder of JSON files; *corpus* is what a person thinks it is of.

    Raises:
        UserError: neither, or content of no known layout; says what was seen.
    """
    if path.is_dir():
        return _json_files(path, corpus)
    content = load_pickle(path)
    if isinstance(content, dict) and all(isinstance(content.get(name), list) for name in PARTS):
        return _of_dialogues(path, LAYOUTS["corect"], content, "iemocap", (path,))
    kinds = [_kind(part) for part in content] if isinstance(content, tuple | list) and len(content) < 99 else []
    seen = _seen(content, kinds)
    if _Kind("dialogue ids") in kinds and set(kinds) <= {_NOTHING, _Kind("dialogue ids")}:
        raise UserError(f"{path} holds no dialogues")
    found = _roles(kinds)
    if found is None:
        known = [layout.title(layout.sizes[corpus]) for layout in LAYOUTS.values() if corpus in layout.sizes]
        raise UserError(f"{path} is in no known layout: it is {seen}. Known: {'; '.join(known)}")
    layout, roles = found
    table: Table = {}
    lists: dict[str, tuple[str, ...]] = {}
    for name, place in roles.items():
        part = content[place]
        if name in PARTS:
            lists[name] = (FileSet if isinstance(part, FileSet) else tuple)(_key(path, i) for i in each(part))
        else:
            table[name] = {_key(path, key): value for key, value in part.items()}
            if len(table[name]) < len(part):
                raise UserError(f"{path}: the member '{name}' has one dialogue id twice, as text and as a number")
    slots = kinds[roles["speakers"]].size
    of = "iemocap" if not slots or any(map(IEMOCAP_ID.fullmatch, table["labels"])) else _of_friends(table)
    notes = list(_put_right(of, lists))
    if kinds[-1] == _OTHER:
        notes.append("the last part of the tuple is unknown and left out")
    return Recognised(of, layout, layout.title(len(content)), seen, table, lists, (path,), slots, notes=tuple(notes))


def part_of(corpus: str, dialogue: str) -> str | None:
    """The split into which the published protocol puts this *dialogue*, as far as its id says."""
    if corpus == "iemocap":
        return "test" if dialogue.startswith("Ses05") else None
    number = int(dialogue) if corpus == "meld" and dialogue.isdecimal() else -1
    return next((name for name, first in reversed(MELD_FIRST.items()) if number >= first), None)


def decoded(value: Any) -> Any:
    """Text of Python 2, which is bytes, as text, and an array of one number as that number; others unchanged."""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value.decode("latin1") if isinstance(value, bytes) else value


def each(values: Any) -> list[Any]:
    """The entries of a dialogue: numbers of an array as Python's own, vectors of an array as arrays."""
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim < 2 else list(values)
    return list(values)


def _roles(kinds: list[_Kind]) -> tuple[Layout, dict[str, int]] | None:
    """The layout of a tuple and the places of its parts by name; None when the parts do not make one."""
    match = _ORDER.fullmatch("".join(_LETTERS.get(kind.name, "?") for kind in kinds))
    if match is None:
        return None
    places = {name: match.start(name) for name, text in match.groupdict().items() if text and name != "vectors"}
    places = {name.strip("_").replace("_", " "): place for name, place in places.items()}
    widths = kinds[match.start("vectors") : match.end("vectors")]
    for layout in LAYOUTS.values():
        if layout.vectors is not None and len(layout.vectors) == len(widths):
            views = widths[: len(VIEWS)] if layout.views else []
            strange = [m for m, width in zip(layout.vectors, widths) if _WIDTHS.get(width.size, m) != m]
            if len(set(views)) > 1 or strange:
                return None
            return layout, places | {m: match.start("vectors") + n for n, m in enumerate(layout.vectors)}
    return None


def _kind(part: Any) -> _Kind:
    """What most entries of a *part* are."""
    if isinstance(part, dict):
        sequences = (values for values in part.values() if isinstance(values, list | tuple | np.ndarray))
        entries = (entry for values in islice(sequences, 50) for entry in islice(each(values), 100))
        counts = Counter(map(_kind_of_entry, entries))
        return counts.most_common(1)[0][0] if counts else _OTHER if part else _NOTHING
    if isinstance(part, list | tuple) or (isinstance(part, np.ndarray) and part.ndim == 1):
        return _Kind("dialogue ids") if all(isinstance(decoded(i), str | int) for i in each(part)) else _OTHER
    return _NOTHING if part is None else _OTHER


def _kind_of_entry(value: Any) -> _Kind:
    value = decoded(value)
    if isinstance(value, str):
        return _Kind("M or F" if value in ("M", "F") else "ids" if _TURN.fullmatch(value) else "words")
    if isinstance(value, int) and not isinstance(value, bool):
        return _Kind("numbers")
    if not isinstance(value, list | tuple | np.ndarray) or len(value) < 2:
        return _OTHER
    numbers = each(value[:65])
    if not all(isinstance(number, int | float) for number in numbers):
        return _OTHER
    one_hot = len(value) < 65 and set(numbers) == {0, 1} and sum(numbers) == 1
    return _Kind("one-hot vectors" if one_hot else "vectors", len(value))


def _of_friends(table: Table) -> str:
    """Only files of MELD have turn ids, sentiments, or numbers of its dev and test dialogues."""
    beyond = any(i.isdecimal() and int(i) >= MELD_FIRST["dev"] for i in table["labels"])
    return "meld" if beyond or {"turn ids", "sentiments"} & set(table) else "emorynlp"


def _put_right(corpus: str, lists: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Exchange lists that stand in each other's place: projects differ in the order of dev and test. Yields notes."""
    for name in ("test", "dev"):
        other = next((n for n, ids in lists.items() if ids and {part_of(corpus, i) for i in ids} == {name}), name)
        if name in lists and {part_of(corpus, i) for i in lists[name]} != {name} and other != name:
            lists[name], lists[other] = lists[other], lists[name]
            yield f"the published {name} dialogues stand in the list of {other}: the two lists are exchanged"


def _of_dialogues(
    path: Path, layout: Layout, content: dict[str, Any], corpus: str, files: tuple[Path, ...]
) -> Recognised:
    """*content* holds a list of dialogues, each a dict, by split."""
    table: Table = {name: {} for name in _KEYS}
    lists: dict[str, list[str]] = {name: [] for name in content if name in PARTS}
    for part, ids in lists.items():
        for number, dialogue in enumerate(content[part]):
            if not isinstance(dialogue, dict) or "vid" not in dialogue:
                raise UserError(f"{path}: {part}, dialogue {number} is not a dict with the key 'vid'")
            identity = _key(path, dialogue["vid"])
            if identity in table["labels"]:
                raise UserError(f"{path}: dialogue {identity!r} occurs twice, the second time in {part}")
            ids.append(identity)
            for name, keys in _KEYS.items():
                if key := next((key for key in keys if key in dialogue), None):
                    table[name][identity] = dialogue[key]
    table = {name: member for name, member in table.items() if member or name in ("speakers", "labels", "sentences")}
    splits = {name: tuple(ids) for name, ids in lists.items()}
    named = all(map(IEMOCAP_ID.fullmatch, table["labels"])) or layout.name != "dag-erc"
    return Recognised(corpus, layout, layout.title(), _seen(content, []), table, splits, files, named=named)


def _json_files(path: Path, corpus: str) -> Recognised:
    """Per split a file with a list of dialogues; a dialogue is a list of ``{text, speaker, label, cls or feature}``."""
    content: dict[str, Any] = {}
    files: list[Path] = []
    for part, names in _FILES.items():
        pattern = re.compile(rf"({names})(?![a-z]).*\.json(\.\w+)?", re.IGNORECASE)
        matching = sorted(file for file in path.iterdir() if pattern.fullmatch(file.name))
        if len(matching) > 1:
            raise UserError(f"{path}: two files of {part}: {matching[0].name} and {matching[1].name}; keep one")
        for file in matching:
            content[part] = [
                _transposed(file, part, n, d) for n, d in enumerate(_list(file, read_json(file), "dialogues"))
            ]
            files.append(file)
    if not files:
        raise UserError(
            f"{path} is a folder that holds neither train, dev nor test files in JSON, such as train_data.json"
        )
    used = {str(label).lower() for dialogues in content.values() for d in dialogues for label in d["labels"] if label}
    fitting = [of for of, name in CLASSES.items() if used <= set(words_of(of))]
    of = corpus if corpus in fitting or len(fitting) != 1 else fitting[0]
    return _of_dialogues(path, LAYOUTS["dag-erc"], content, of, tuple(files))


def words_of(corpus: str) -> dict[str, int]:
    """Labels by the words that stand for them."""
    words = {name: n for n, name in enumerate(LABEL_SETS[CLASSES[corpus]].classes)}
    return words | ({code: words[name] for code, name in CODES.items()} if corpus == "iemocap" else {})


def _list(where: object, value: Any, what: str) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    own = (
        "; EmoryNLP's own files are imported with emorynlp --json"
        if isinstance(value, dict) and "episodes" in value
        else ""
    )
    raise UserError(f"{where}: not a list of {what}{own}")


def _transposed(file: Path, part: str, number: int, turns: Any) -> dict[str, Any]:
    """A dialogue with a list per member."""
    where = f"{file}: dialogue {number}"
    dialogue: dict[str, Any] = {"vid": f"{part}-{number}", "speakers": [], "labels": [], "sentences": [], "text": []}
    for place, turn in enumerate(_list(where, turns, "utterances")):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("text", "speaker")):
            raise UserError(f"{where}, turn {place}: not an utterance with the keys text and speaker")
        vector = turn.get("cls", turn.get("feature"))
        dialogue["text"].append(_narrow(vector))
        for name, value in (("sentences", turn["text"]), ("speakers", turn["speaker"]), ("labels", turn.get("label"))):
            dialogue[name].append(value)
    told = [_SPEAKER.fullmatch(speaker) for speaker in dialogue["speakers"]]
    if len({match[1] if match else None for match in told}) == 1 and told[0]:
        dialogue |= {"vid": told[0][1], "speakers": [match[2] for match in told if match]}
    if all(vector is None for vector in dialogue["text"]):
        del dialogue["text"]
    return dialogue


def _narrow(vector: Any) -> Any:
    """Numbers as an array, which takes a tenth of the memory; anything else as it is."""
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return vector
    return (
        array if isinstance(vector, list) and vector and array.ndim == 1 and not isinstance(vector[0], str) else vector
    )


def _key(path: Path, key: Any) -> str:
    key = decoded(key)
    if not isinstance(key, str | int) or isinstance(key, bool) or not str(key).isprintable():
        raise UserError(f"{path}: {key!a} is not a dialogue id, which is text in one line or a whole number")
    return str(key)


def _seen(content: Any, kinds: list[_Kind]) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(f'{key!a}' for key in list(content)[:5])}"
    if isinstance(content, tuple | list):
        names = [type(part).__name__ if kind == _OTHER else str(kind) for part, kind in zip(content, kinds)]
        return f"a {type(content).__name__} of {len(content)} ({', '.join(names[:16])})"
    return f"a {type(content).__name__}"
