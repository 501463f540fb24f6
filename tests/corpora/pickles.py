"""Feature pickles in the published layouts, with made-up words; and pickles as Python 2 wrote them."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

DIMS = {"text": 6, "audio": 5, "visual": 4}
LABELS = {
    "Ses02F_impro01": [0, 1, 2, 3, 4, 5],
    "Ses01F_impro01": [2, 2, 5],
    "Ses03M_impro05a": [1, 3, 0, 4],
    "Ses04F_script01_1": [5, 5, 1, 2],
    "Ses05M_script01_1b": [0, 4, 3],
    "Ses05F_impro02": [2, 1],
}
TRAIN = ["Ses02F_impro01", "Ses04F_script01_1", "Ses01F_impro01", "Ses03M_impro05a"]
TEST = ["Ses05F_impro02", "Ses05M_script01_1b"]


def vectors(count: int, dims: int, seed: int, kind: str = "f4", alike: bool = False) -> list[np.ndarray]:
    """*alike*: the very same vector for every turn, which a pickle holds once; for files of full size."""
    drawn = np.random.default_rng(seed).normal(size=(1 if alike else count, dims)).astype(kind)
    return [drawn[0]] * count if alike else list(drawn)


def iemocap(labels: dict[str, list[int]] | None = None, alike: bool = False) -> dict[str, Any]:
    """Members by name; turn ids have gaps, as in the corpus."""
    labels = LABELS if labels is None else labels
    found: dict[str, Any] = {"labels": {i: list(of) for i, of in labels.items()}}
    found["turn ids"] = {i: [f"{i}_{'FM'[n % 2]}{2 * n:03d}" for n in range(len(of))] for i, of in labels.items()}
    found["speakers"] = {i: ["FM"[n % 2] for n in range(len(of))] for i, of in labels.items()}
    found["sentences"] = {i: [f"Zorp {n} blick, {str(i)[3:6]}." for n in range(len(of))] for i, of in labels.items()}
    for seed, name in enumerate(("text", "view 2", "view 3", "view 4", "audio", "visual")):
        kind = "f8" if name == "audio" else "f4"
        found[name] = {
            i: vectors(len(of), DIMS.get(name, 6), 9 * n + seed, kind, alike)
            for n, (i, of) in enumerate(labels.items())
        }
    found["train"] = [i for i in TRAIN if i in labels]
    found["test"] = [i for i in TEST if i in labels]
    return found


def nine(m: dict[str, Any]) -> tuple[Any, ...]:
    names = ("turn ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test")
    return tuple(m[name] for name in names)


def twelve(m: dict[str, Any]) -> tuple[Any, ...]:
    nine_ = nine(m)
    return (*nine_[:4], m["view 2"], m["view 3"], m["view 4"], *nine_[4:])


def six(m: dict[str, Any]) -> tuple[Any, ...]:
    return m["speakers"], m["labels"], m["sentences"], m["train"][1:], m["test"], m["train"][:1]


def preprocessed(m: dict[str, Any]) -> dict[str, Any]:
    def one(i: str) -> dict[str, Any]:
        arrays = {"text": np.stack(m["text"][i]), "audio": m["audio"][i], "visual": m["visual"][i]}
        return {
            "vid": i,
            "speakers": m["speakers"][i],
            "labels": m["labels"][i],
            "sentence": m["sentences"][i],
        } | arrays

    parts = {"train": m["train"][1:], "dev": m["train"][:1], "test": m["test"]}
    return {part: [one(i) for i in ids] for part, ids in parts.items()}


def meld(dialogues: dict[int, list[int]], train: list[int], test: list[int], alike: bool = False) -> tuple[Any, ...]:
    """The 13-tuple; speakers one-hot with 9 places, turn ids mere numbers."""
    ids = {i: list(range(len(of))) for i, of in dialogues.items()}
    slots = list(np.eye(9))
    speakers = {i: [slots[n % 3] for n in range(len(of))] for i, of in dialogues.items()}
    text = {i: vectors(len(of), 6, i, alike=alike) for i, of in dialogues.items()}
    audio = {i: vectors(len(of), 5, i + 1, alike=alike) for i, of in dialogues.items()}
    visual = {i: vectors(len(of), 4, i + 2, alike=alike) for i, of in dialogues.items()}
    sentences = {i: [f"Quib {n} of {i}" for n in range(len(of))] for i, of in dialogues.items()}
    return ids, speakers, dialogues, text, text, text, text, audio, visual, sentences, train, test, {}


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def python2(value: Any) -> bytes:
    """Protocol 2 as Python 2 and its NumPy wrote it: every text as bytes, sets and arrays by their old names."""
    return b"\x80\x02" + _two(value) + b"."


def _two(value: Any) -> bytes:
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, str):
        return _two(value.encode("utf-8"))
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_two, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_two, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(_two(key) + _two(item) for key, item in value.items()) + b"u"
    if isinstance(value, set):
        return b"c__builtin__\nset\n" + _two(sorted(value)) + b"\x85R"
    assert isinstance(value, np.ndarray)
    kind = value.dtype.str
    dtype = b"cnumpy\ndtype\n" + _two((kind[1:], 0, 1)) + b"R" + _two((3, kind[0], None, None, None, -1, -1, 0)) + b"b"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _two((0,)) + _two("b") + b"tR"
    state = b"(" + _two(1) + _two(value.shape) + dtype + b"\x89" + _two(value.tobytes()) + b"t"
    return empty + state + b"b"


def friends(ids: dict[Any, list[int]], slots: int = 9, numbered: bool = False) -> dict[str, Any]:
    """Members by name of dialogues *ids* with their labels, as files of MELD and EmoryNLP have them."""
    members = iemocap({i: list(of) for i, of in ids.items()})
    rows = np.eye(slots, dtype=int).tolist()
    turns = {i: [n if numbered else f"{i}_{n}" for n in range(len(of))] for i, of in ids.items()}
    return members | {
        "turn ids": turns,
        "speakers": {i: [rows[n % 3] for n in range(len(of))] for i, of in ids.items()},
        "sentences": {i: [f"Quib {n} of {i}." for n in range(len(of))] for i, of in ids.items()},
        "sentiments": {i: [label % 3 for label in of] for i, of in ids.items()},
        "nothing": {},
    }


VIEWS = ("text", "view 2", "view 3", "view 4")
ORDERS: dict[str, tuple[str, ...]] = {
    "mmgcn": ("turn ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test"),
    "sdt": ("turn ids", "speakers", "labels", *VIEWS, "audio", "visual", "sentences", "train", "test"),
    "cosmic-roberta": ("speakers", "labels", *VIEWS, "sentences", "train", "test", "dev"),
    "cosmic": ("speakers", "labels", "sentences", "train", "test", "dev"),
    "dialoguernn": ("turn ids", "speakers", "labels", "text", "audio", "sentences", "train", "test"),
}
"""Parts of the published tuples that all corpora share."""


def with_sentiments(order: tuple[str, ...], last: bool = False) -> tuple[str, ...]:
    """*order* as MELD's files have it: with sentiments after the labels, or *last*."""
    place = len(order) if last else order.index("labels") + 1
    return (*order[:place], "sentiments", *order[place:])


def part(members: dict[str, Any], order: tuple[str, ...]) -> tuple[Any, ...]:
    """The tuple of *members* in this *order*."""
    return tuple(members[name] for name in order)
