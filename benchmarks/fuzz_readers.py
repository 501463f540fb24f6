"""Mutated files never end in a traceback: python -m benchmarks.fuzz_readers --files 20000

Every reader gets mutated copies of good files: CSV, JSON, published pickles and arrays of features, or conversations
with --what. It reads them or raises UserError with one line; anything else is printed with the seed that repeats it.
Prints files, refusals, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import pickle
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing import summary
from lantern.corpora.folder import Corpus
from lantern.corpora.readers.conversations import read_transcript
from lantern.corpora.readers.custom import import_custom
from lantern.corpora.readers.emorynlp import CSV_FILES, JSON_FILES, import_emorynlp
from lantern.corpora.readers.join import import_pickle
from lantern.corpora.readers.meld import PUBLISHED, import_meld
from lantern.corpora.types import LabelSet
from lantern.errors import UserError
from lantern.features.extractors.feature_tables import read_feature_table
from tests.corpora.pickles import ORDERS, friends, iemocap, part, preprocessed, python2, with_sentiments

EXAMPLES = Path(__file__).resolve().parent.parent / "tests" / "examples" / "conversations"
PIECES = (
    *(
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "  ",
        ": ",
        "：",
        "-",
        "- ",
        ">> ",
        " --> ",
        "<v ",
        "<v Mira>",
        "</v>",
        "<",
        ">",
        "&amp;",
    ),
    *(
        "&#0;",
        "&#1114112;",
        "\x00",
        "\x15",
        "\x151_2\x15",
        "\ufeff",
        "\u200e",
        "\u202e",
        "\ud7ff",
        "🦊",
        '"',
        "'",
        "{",
        "}",
        "[",
    ),
    *(
        "]",
        ",",
        "null",
        "1e999",
        "NaN",
        "9" * 40,
        "9" * 5000,
        "²",
        "٣",
        "12/03/2024, 10:15 - ",
        "[10:15] ",
        "00:00:01,000",
        "10:15",
    ),
    *(
        "WEBVTT",
        "NOTE",
        "Transcript",
        "=====",
        "{Attachments}",
        "*CHI:\t",
        "@Begin",
        "%mor:\t",
        "a" * 300,
        "(" * 200,
        "[" * 2000,
    ),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """*content* after one to six random changes: pieces put in, taken out or doubled, lines mixed."""
    data = bytearray(content)
    for _ in range(rng.randint(1, rng.choice((1, 6)))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 40, 400)))
        change = rng.randrange(6)
        if change == 0:
            data[at:at] = rng.choice(PIECES).encode()
        elif change == 1:
            data[at:end] = rng.choice(PIECES).encode()
        elif change == 2:
            del data[at:end]
        elif change == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 20))
        elif change == 4 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
    return bytes(data)


WRONG: tuple[Any, ...] = (
    *(None, True, -1, 7, 10**400, 2.5, float("nan"), 1e300, "", "x", "\ud800", "\x1b[31m\n", b"\xff", [], {}, (), [[]]),
    *([None] * 3, {"x": [1]}, [0, 1, 0], [1.0, 2.0], "Ses01F_impro01", ["a", "b"], "M", {"vid": 3}),
)
"""What takes the place of a value in a pickle or in JSON."""


def spoiled(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """*value* with one of its values replaced, left out or doubled, at any depth."""
    if not isinstance(value, dict | list | tuple) or not value or rng.random() < 0.1 * depth:
        return rng.choice(WRONG)
    place = rng.randrange(len(value))
    change = rng.random()
    items = list(value.items()) if isinstance(value, dict) else list(value)
    if change < 0.1:
        del items[place]
    elif change < 0.2 and not isinstance(value, dict):
        items[place:place] = items[place : place + 1]
    elif isinstance(value, dict):
        key, item = items[place]
        items[place] = (
            (rng.choice((None, 1, "x", 2.5, b"x")), item) if change < 0.2 else (key, spoiled(item, rng, depth + 1))
        )
    else:
        items[place] = spoiled(items[place], rng, depth + 1)
    return type(value)(items)


@dataclass(frozen=True)
class Example:
    """A good file, and what reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    value: Any = None
    """What the file holds, for files whose values can be spoiled, too."""
    dump: Callable[[Any], bytes] = pickle.dumps

    def mutated(self, rng: random.Random) -> bytes:
        """Spoiled bytes or, as often, good bytes of a spoiled value."""
        if self.value is None or rng.random() < 0.5:
            return mutated(self.content, rng)
        try:
            return self.dump(spoiled(self.value, rng))
        except (TypeError, ValueError):  # JSON has no bytes, and no numbers as keys
            return mutated(self.content, rng)


def conversations() -> list[Example]:
    """The files of tests/examples/conversations."""
    return [Example(path.name, path.read_bytes(), read_transcript) for path in sorted(EXAMPLES.iterdir())]


def corpora() -> list[Example]:
    """CSV, JSON, pickles and arrays, as the importers read them; all made up."""
    made = [
        Example(
            "meld.csv", _csv(_MELD, '"Tea, ""Olek""?",Mira,joy,positive,{n},0,1,1'), _copied(_MELD_FILES, import_meld)
        ),
        Example(
            "emorynlp.csv",
            _csv(_EMORY, "Tea.,\"['Mira', 'Olek']\",Mad,{n},1,1,1,00:00:01,00:00:02"),
            _copied([CSV_FILES["test"]], lambda folder: import_emorynlp(csv=folder)),
        ),
        Example(
            "emorynlp.json",
            _json(_SCENES),
            _copied([JSON_FILES["test"]], lambda folder: import_emorynlp(json=folder)),
            _SCENES,
            _json,
        ),
        Example("custom.csv", _csv(_CUSTOM, "d{n},Mira,Hm.,up,2.5,train,1,00:00:01"), _custom),
        Example(
            "dag-erc.json",
            _json(_DIALOGUES),
            _copied(["train_data.json"], partial(import_pickle, "meld")),
            _DIALOGUES,
            _json,
        ),
    ]
    found = {"iemocap": iemocap(), "meld": friends({0: [0, 1], 1040: [3], 1153: [6, 5]})}
    found["meld"] |= {"train": [0], "dev": [1040], "test": [1153]}
    found["emorynlp"] = friends({"1_1_1": [0, 1], "2_1_1": [3]}) | {"train": ["1_1_1"], "dev": [], "test": ["2_1_1"]}
    found["iemocap"]["dev"] = []
    for corpus, members in found.items():
        for name, order in ORDERS.items():
            if corpus == "emorynlp" and "turn ids" in order:
                continue
            content = part(members, with_sentiments(order) if corpus == "meld" else order)
            read = partial(_published, corpus)
            made += [Example(f"{corpus}-{name}-{n}.pkl", pickle.dumps(content, n), read, content) for n in (0, 2, 4)]
            made.append(Example(f"{corpus}-{name}-python2.pkl", python2(content), read))
    dialogues = preprocessed(iemocap())
    made.append(Example("corect.pkl", pickle.dumps(dialogues), partial(_published, "iemocap"), dialogues))
    values, names = np.arange(6.0).reshape(3, 2), np.array(["a", "b", "c"])
    one, two, three = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(one, values)
    np.savez(two, features=values, ids=names)
    np.savez_compressed(three, features=values, ids=names)
    made += [Example(f"{n}.np{'yzz'[n]}", file.getvalue(), _features) for n, file in enumerate((one, two, three))]
    made.append(Example("features.csv", b"utterance;x;y\na;1;2\nb;3;4\nc;5;6\n", _features))
    return made


_MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
_MELD_FILES = [f"{part}_sent_emo.csv" for part in PUBLISHED]
_EMORY = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time"
_CUSTOM = "dialogue,speaker,text,label,valence,split,session,start"


def _csv(header: str, row: str) -> bytes:
    number = "" if header != _MELD else "{n},"
    return "\r\n".join([header, *((number + row).format(n=n) for n in range(1, 5)), ""]).encode()


_DIALOGUES = [[{"text": "Hm.", "speaker": "A", "label": "joy", "cls": [n, 0.5]} for n in range(3)] for _ in range(3)]
_TURNS = [
    {"utterance_id": f"s01_e01_c01_u{n}", "speakers": ["A"], "transcript": "Hm.", "emotion": "Sad"} for n in (1, 2)
]
_SCENES = {"episodes": [{"episode_id": "s01_e01", "scenes": [{"scene_id": "s01_e01_c01", "utterances": _TURNS}]}]}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _copied(names: Sequence[str], read: Callable[[Path], Corpus]) -> Callable[[Path], object]:
    """Reads a folder that holds a file under all *names*."""

    def read_folder(path: Path) -> object:
        folder = path.with_suffix(".folder")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in names:
            shutil.copy(path, folder / name)
        return read(folder).fingerprint

    return read_folder


def _published(corpus: str, path: Path) -> object:
    """Reads published features; the fingerprint shows that the corpus can be written, too."""
    return import_pickle(corpus, path).fingerprint


def _custom(path: Path) -> object:
    return import_custom(path, LabelSet("mood", ("up", "down")), score_range=(1, 5)).fingerprint


def _features(path: Path) -> object:
    return read_feature_table(path, ["a", "b", "c"])


def outcomes(
    folder: Path, files: int, seed: int, examples: Sequence[Example] = ()
) -> Iterator[tuple[int, str, BaseException | None]]:
    """Seed, example and error (None when it was read) of each of *files* mutated files, written to *folder*."""
    examples = examples or conversations()
    for number in range(seed, seed + files):
        rng = random.Random(number)
        example = rng.choice(examples)
        name = example.name if rng.random() < 0.9 else rng.choice(examples).name
        path = folder / f"fuzz{Path(name).suffix}"
        path.write_bytes(example.mutated(rng))
        try:
            example.read(path)
        except Exception as error:  # noqa: BLE001  whatever a reader raises is the result
            yield number, example.name, error
        else:
            yield number, example.name, None


KINDS = {"conversations": conversations, "corpora": corpora}


def main() -> int:
    """Read mutated files; 1 when a reader raised anything but a UserError in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; default: %(default)s")
    parser.add_argument("--what", choices=KINDS, default="corpora", help="default: %(default)s")
    given = parser.parse_args()
    logging.disable()
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed, name, error in outcomes(Path(folder), given.files, given.seed, KINDS[given.what]()):
            wrong = error is not None and (not isinstance(error, UserError) or "\n" in str(error))
            counts["wrong" if wrong else "read" if error is None else "refused"] += 1
            if wrong:
                print(f"--what {given.what} --seed {seed} --files 1 ({name})")
                traceback.print_exception(error)
    return summary(counts, start)


if __name__ == "__main__":
    raise SystemExit(main())
