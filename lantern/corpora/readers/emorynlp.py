"""EmoryNLP emotion detection (Zahiri and Choi 2018) from its own JSON files or from MELD's CSV files of it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lantern.corpora.csv_files import parse_json, read_csv, read_text
from lantern.corpora.folder import Corpus
from lantern.corpora.labels import label_set
from lantern.corpora.summary import compare_counts
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time")
CSV_FILES = {part: f"emorynlp_{part}_final.csv" for part in ("train", "dev", "test")}
JSON_FILES = {
    part: f"emotion-detection-{short}.json" for part, short in (("train", "trn"), ("dev", "dev"), ("test", "tst"))
}
PUBLISHED = {
    "csv": {
        "train": (659, 7551, (1677, 785, 638, 2485, 474, 551, 941)),
        "dev": (89, 954, (205, 97, 82, 322, 51, 70, 127)),
        "test": (79, 984, (217, 86, 111, 288, 70, 96, 116)),
    },
    "json": {
        "train": (713, 9934, (2184, 1076, 900, 3034, 671, 784, 1285)),
        "dev": (99, 1344, (289, 143, 132, 393, 75, 134, 178)),
        "test": (85, 1328, (282, 113, 159, 349, 98, 145, 182)),
    },
}
"""Scenes, utterances and utterances per class by form and split.

The classes are joyful, mad, peaceful, neutral, sad, powerful, scared. The JSON form is the whole corpus (12,606
utterances); the CSV form is the part of it (9,489) for which times in the video were found.
"""
_SOURCE = {
    "csv": "EmoryNLP (Zahiri and Choi 2018), CSV files of the MELD repository under GPL-3.0",
    "json": "EmoryNLP (Zahiri and Choi 2018), JSON files",
}
_Turns = dict[str, tuple[str, dict[int, Utterance]]]
"""By dialogue id the episode and the utterances by their number."""


def import_csv(folder: Path) -> Corpus:
    """The form with times, from ``emorynlp_train_final.csv``, ``…_dev_…`` and ``…_test_…``, without features.

    Dialogue and utterance ids are those of the JSON form (``s01_e15_c01``, ``s01_e15_c01_u001``), sessions
    ``S<season>E<episode>``. A split whose file is absent is left out and told in the notes; counts that differ from
    the published ones are told in ``checks`` and are no error. Who speaks in chorus is one speaker, ``A & B``.

    Raises:
        UserError: no file at all, or a row that cannot be used; names file and line.
    """
    return _import(folder, "csv", CSV_FILES, _csv_turns)


def import_json(folder: Path) -> Corpus:
    """The whole corpus, from ``emotion-detection-trn.json``, ``…-dev.json`` and ``…-tst.json``; else as the CSV form.

    Raises:
        UserError: no file at all, or an utterance that cannot be used; names file and utterance.
    """
    return _import(folder, "json", JSON_FILES, _json_turns)


def _import(folder: Path, form: str, files: dict[str, str], read: Callable[[Path, tuple[str, ...]], _Turns]) -> Corpus:
    labels = label_set("emorynlp-7")
    if not any((folder / name).is_file() for name in files.values()):
        raise UserError(f"{folder} holds none of {', '.join(files.values())}")
    dialogues: list[Dialogue] = []
    splits: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    checks: list[str] = []
    for split, name in files.items():
        if not (folder / name).is_file():
            notes.append(f"no {name}: the corpus has no {split} split")
            continue
        found = [
            Dialogue(identity, tuple(turns[n] for n in sorted(turns)), episode)
            for identity, (episode, turns) in read(folder / name, labels.classes).items()
        ]
        double = [d.id for d in found if d.id in {other.id for other in dialogues}]
        if double:
            raise UserError(f"{folder / name}: scene {double[0]} is in the file of another split, too")
        notes += [f"{split}: {note}" for note in _irregular(found)]
        checks += compare_counts(split, found, *PUBLISHED[form][split], labels)
        splits[split] = tuple(d.id for d in found)
        dialogues += found
    return Corpus(
        name="emorynlp",
        label_set=labels,
        dialogues=tuple(dialogues),
        splits=splits,
        redistribution="allowed",
        contaminated="EmoryNLP is Friends, which LLMs have read: their results on it may be contaminated",
        source=f"{_SOURCE[form]}; annotation under Apache-2.0; the text is that of a TV series",
        notes=tuple(notes),
        checks=tuple(checks),
    )


def _irregular(found: list[Dialogue]) -> list[str]:
    numbers = [[int(u.id.rsplit("_u", 1)[1]) for u in d.utterances] for d in found]
    gapped = sum(held[-1] - held[0] + 1 != len(held) for held in numbers)
    late = sum(held[0] > 1 for held in numbers)
    chorus = sum("speakers" in u.extra for d in found for u in d.utterances)
    notes = [f"{gapped} dialogues with gaps in the utterance numbers, kept in order"] if gapped else []
    notes += [f"{late} dialogues do not start at utterance 1"] if late else []
    notes += [f"{chorus} utterances spoken by several people at once"] if chorus else []
    return notes


def _csv_turns(path: Path, classes: tuple[str, ...]) -> _Turns:
    found: _Turns = {}
    lines: dict[str, int] = {}
    for line, row in read_csv(path, COLUMNS):
        where = f"{path}, line {line}"
        season, episode, scene, number = (
            _number(row, name, where) for name in ("Season", "Episode", "Scene_ID", "Utterance_ID")
        )
        dialogue = f"s{season:02d}_e{episode:02d}_c{scene:02d}"
        identity = f"{dialogue}_u{number:03d}"
        if identity in lines:
            raise UserError(f"{where}: utterance {identity} stands on line {lines[identity]} already")
        lines[identity] = line
        try:
            speakers = ast.literal_eval(row["Speaker"])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            speakers = None
        times = {"start": row["Start_Time"].strip(), "end": row["End_Time"].strip()}
        _, turns = found.setdefault(dialogue, (f"S{season}E{episode}", {}))
        turns[number] = _utterance(
            identity, speakers, row["Utterance"], row["Emotion"], classes, where, {k: v for k, v in times.items() if v}
        )
    return found


def _json_turns(path: Path, classes: tuple[str, ...]) -> _Turns:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    found: _Turns = {}
    for episode in _list(content, "episodes", f"{path}"):
        session = _session(_key(episode, "episode_id", f"{path}"), f"{path}")
        for scene in _list(episode, "scenes", f"{path}, episode {session}"):
            dialogue = _key(scene, "scene_id", f"{path}, episode {session}")
            if dialogue in found:
                raise UserError(f"{path}: scene {dialogue} occurs twice")
            turns: dict[int, Utterance] = {}
            for item in _list(scene, "utterances", f"{path}, scene {dialogue}"):
                identity = _key(item, "utterance_id", f"{path}, scene {dialogue}")
                where = f"{path}, utterance {identity}"
                start, _, digits = identity.rpartition("_u")
                if start != dialogue or not digits.isdecimal():
                    raise UserError(f"{where}: expected an id {dialogue}_u and a number")
                if int(digits) in turns:
                    raise UserError(f"{where} occurs twice")
                text, emotion = _key(item, "transcript", where), _key(item, "emotion", where)
                turns[int(digits)] = _utterance(identity, item.get("speakers"), text, emotion, classes, where, {})
            if not turns:
                raise UserError(f"{path}: scene {dialogue} has no utterances")
            found[dialogue] = (session, turns)
    if not found:
        raise UserError(f"{path} holds no scenes")
    return found


def _utterance(
    identity: str,
    speakers: object,
    text: str,
    emotion: str,
    classes: tuple[str, ...],
    where: str,
    extra: dict[str, object],
) -> Utterance:
    if not isinstance(speakers, list) or not speakers or not all(isinstance(s, str) and s.strip() for s in speakers):
        raise UserError(f"{where}: speakers {speakers!r} is not a list of names such as ['Ann', 'Bob']")
    label = emotion.strip().lower()
    if label not in classes:
        raise UserError(f"{where}: emotion {emotion!r} is not one of {', '.join(classes)}")
    several: dict[str, object] = {"speakers": speakers} if len(speakers) > 1 else {}
    return Utterance(
        id=identity,
        speaker=" & ".join(s.strip() for s in speakers),
        text=text.strip(),
        label=classes.index(label),
        extra={**several, **extra},
    )


def _session(episode: str, where: str) -> str:
    season, _, number = episode.partition("_e")
    if not (season.startswith("s") and season[1:].isdecimal() and number.isdecimal()):
        raise UserError(f"{where}: episode_id {episode!r} is not of the form s01_e15")
    return f"S{int(season[1:])}E{int(number)}"


def _number(row: dict[str, str], column: str, where: str) -> int:
    if not row[column].strip().isdecimal():
        raise UserError(f"{where}: {column} {row[column]!r} is not a whole number")
    return int(row[column])


def _list(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{where}: {key!r} is not a list of objects")
    return found


def _key(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise UserError(f"{where}: {key} is {found!r}, expected text")
    return found
