"""EmoryNLP emotion detection (Zahiri and Choi 2018) from its own JSON files or from MELD's CSV files of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import SERIES, label_set
from lantern.corpora.summary import compare_counts, numbering_notes
from lantern.corpora.text_files import filled, read_csv, read_json, repaired, whole_number
from lantern.corpora.types import PARTS, Dialogue, Utterance
from lantern.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time")
CSV_FILES = {part: f"emorynlp_{part}_final.csv" for part in PARTS}
JSON_FILES = {part: f"emotion-detection-{short}.json" for part, short in zip(PARTS, ("trn", "dev", "tst"))}
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


def import_emorynlp(json: Path | None = None, csv: Path | None = None) -> Corpus:
    """The corpus in the folder *json* or *csv*, without features.

    *json* holds ``emotion-detection-trn.json``, ``…-dev.json`` and ``…-tst.json``: the whole corpus. *csv* holds
    ``emorynlp_train_final.csv``, ``…_dev_…`` and ``…_test_…``: the part with times. Both have the same ids:
    dialogues ``s01_e15_c01``, utterances ``s01_e15_c01_u001``, sessions ``S<season>E<episode>``. A split whose file is
    absent is left out and noted; counts that differ from the published ones are in ``checks`` and are not an error.
    Several people who speak at once are one speaker, ``A & B``.

    Raises:
        UserError: not exactly one folder, no file at all, or an utterance that cannot be used; names file and line or
            utterance.
    """
    if (json is None) == (csv is None):
        raise UserError("emorynlp needs --json DIR or --csv DIR, and only one of them")
    folder = json or csv
    assert folder is not None
    form, files, read = ("json", JSON_FILES, _json_turns) if json else ("csv", CSV_FILES, _csv_turns)
    labels = label_set("emorynlp-7")
    if not any((folder / name).is_file() for name in files.values()):
        raise UserError(f"{folder} holds none of {', '.join(files.values())}")
    parts: dict[str, list[Dialogue]] = {}
    notes: list[str] = []
    checks: list[str] = []
    for split, name in files.items():
        if not (folder / name).is_file():
            notes.append(f"no {name}: the corpus has no {split} split")
            continue
        scenes = read(folder / name, labels.classes)
        for i in scenes:
            if any(i == d.id for dialogues in parts.values() for d in dialogues):
                raise UserError(f"{folder / name}: scene {i} is in the file of another split, too")
        parts[split] = [Dialogue(i, tuple(t[n] for n in sorted(t)), episode) for i, (episode, t) in scenes.items()]
        remarks = numbering_notes([sorted(t) for _, t in scenes.values()], 1, "the utterance numbers", "utterance 1")
        if chorus := sum("speakers" in u.extra for d in parts[split] for u in d.utterances):
            remarks.append(f"{chorus} utterances spoken by several people at once")
        notes += [f"{split}: {remark}" for remark in remarks]
        checks += compare_counts(split, parts[split], PUBLISHED[form][split], labels)
    return Corpus(
        name="emorynlp",
        label_set=labels,
        dialogues=tuple(d for dialogues in parts.values() for d in dialogues),
        splits={split: tuple(d.id for d in dialogues) for split, dialogues in parts.items()},
        redistribution="allowed",
        contaminated=SERIES["emorynlp"],
        source=f"{_SOURCE[form]}; annotation under Apache-2.0; the text is that of a TV series",
        notes=tuple(notes),
        checks=tuple(checks),
    )


def _csv_turns(path: Path, classes: tuple[str, ...]) -> _Turns:
    scenes: _Turns = {}
    lines: dict[str, int] = {}
    for line, row in read_csv(path, COLUMNS, english=True):
        where = f"{path}, line {line}"
        season, episode, scene, number = (
            whole_number(row, name, where) for name in ("Season", "Episode", "Scene_ID", "Utterance_ID")
        )
        dialogue = f"s{season:02d}_e{episode:02d}_c{scene:02d}"
        identity = f"{dialogue}_u{number:03d}"
        if lines.setdefault(identity, line) != line:
            raise UserError(f"{where}: utterance {identity} is on line {lines[identity]} already")
        try:
            speakers = ast.literal_eval(row["Speaker"])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            speakers = None
        text = filled({"Utterance": repaired(row["Utterance"])}, "Utterance", where)
        utterance = _utterance(identity, speakers, text, row["Emotion"], classes, where)
        for key, column in (("start", "Start_Time"), ("end", "End_Time")):
            if row[column].strip():
                utterance.extra[key] = row[column].strip()
        scenes.setdefault(dialogue, (f"S{season}E{episode}", {}))[1][number] = utterance
    return scenes


def _json_turns(path: Path, classes: tuple[str, ...]) -> _Turns:
    content = read_json(path)
    scenes: _Turns = {}
    for episode in _list(content, "episodes", f"{path}"):
        session = _session(_key(episode, "episode_id", f"{path}"), f"{path}")
        for scene in _list(episode, "scenes", f"{path}, episode {session}"):
            dialogue = _key(scene, "scene_id", f"{path}, episode {session}")
            if dialogue in scenes:
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
                turns[int(digits)] = _utterance(identity, item.get("speakers"), text, emotion, classes, where)
            if not turns:
                raise UserError(f"{path}: scene {dialogue} has no utterances")
            scenes[dialogue] = (session, turns)
    if not scenes:
        raise UserError(f"{path} holds no scenes")
    return scenes


def _utterance(
    identity: str, speakers: object, text: str, emotion: str, classes: tuple[str, ...], where: str
) -> Utterance:
    if not isinstance(speakers, list) or not speakers or not all(isinstance(s, str) and s.strip() for s in speakers):
        raise UserError(f"{where}: speakers {speakers!r} is not a list of names such as ['Ann', 'Bob']")
    label = emotion.strip().lower()
    if label not in classes:
        raise UserError(f"{where}: emotion {emotion!r} is not one of {', '.join(classes)}")
    several: dict[str, object] = {"speakers": speakers} if len(speakers) > 1 else {}
    speaker = " & ".join(s.strip() for s in speakers)
    return Utterance(identity, speaker, text.strip(), classes.index(label), extra=several)


def _session(episode: str, where: str) -> str:
    season, _, number = episode.partition("_e")
    if not (season.startswith("s") and season[1:].isdecimal() and number.isdecimal()):
        raise UserError(f"{where}: episode_id {episode!r} is not of the form s01_e15")
    return f"S{int(season[1:])}E{int(number)}"


def _list(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{where}: {key!r} is not a list of objects")
    return items


def _key(value: dict[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise UserError(f"{where}: {key} is {text!r}, expected text")
    if key.endswith("_id") and not text.isprintable():
        raise UserError(f"{where}: {key} is {text[:60]!a}, expected letters and digits")
    return text
