"""The manifest: one JSON object per utterance, in corpus order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lantern.corpora.text_files import parse_json
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError

_KEYS = ("dialogue", "utterance", "session", "speaker", "text", "label", "scores", "extra")


def encode_manifest(dialogues: tuple[Dialogue, ...], labels: LabelSet) -> bytes:
    """JSON Lines in UTF-8; labels are written as class names."""
    lines = []
    for dialogue in dialogues:
        for u in dialogue.utterances:
            record = {
                "dialogue": dialogue.id,
                "utterance": u.id,
                "session": dialogue.session,
                "speaker": u.speaker,
                "text": u.text,
                "label": None if u.label is None else labels.classes[u.label],
                "scores": None if u.scores is None else list(u.scores),
                "extra": u.extra,
            }
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines).encode()


def decode_manifest(content: bytes, labels: LabelSet, path: Path) -> tuple[Dialogue, ...]:
    """The dialogues of a manifest; *path* is named in errors.

    Raises:
        UserError: a line that is no utterance, an unknown class, a dialogue in two places.
    """
    sessions: dict[str, str | None] = {}
    turns: dict[str, list[Utterance]] = {}
    current = None
    # Not splitlines: it would also cut at separators inside a text.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        dialogue, session, utterance = _utterance(line, labels, where)
        if dialogue != current and dialogue in turns:
            raise UserError(f"{where}: dialogue {dialogue!r} goes on after another one; its lines must be together")
        current = dialogue
        sessions[dialogue] = session
        turns.setdefault(dialogue, []).append(utterance)
    if not turns:
        raise UserError(f"{path}: no utterances")
    return tuple(Dialogue(name, tuple(held), sessions[name]) for name, held in turns.items())


def _utterance(line: bytes, labels: LabelSet, where: str) -> tuple[str, str | None, Utterance]:
    try:
        record: dict[str, Any] = parse_json(line)
        dialogue, identity, session, speaker, text, label, scores, extra = (record[key] for key in _KEYS)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not an utterance with the keys {', '.join(_KEYS)} ({error})") from None
    for key, value in (("dialogue", dialogue), ("utterance", identity), ("speaker", speaker), ("text", text)):
        if not isinstance(value, str):
            raise UserError(f"{where}: {key}={value!r} is not a string")
    if not isinstance(session, str | None) or not isinstance(extra, dict):
        raise UserError(f"{where}: session={session!r} and extra={extra!r} are not a string or null and an object")
    index = None
    if label is not None:
        if label not in labels.classes:
            raise UserError(
                f"{where}: class {label!r} is not in label set {labels.name!r} ({', '.join(labels.classes)})"
            )
        index = labels.classes.index(label)
    return dialogue, session, Utterance(identity, speaker, text, index, _scores(scores, where), extra)


def _scores(value: Any, where: str) -> tuple[float | None, float | None, float | None] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f"{where}: scores={value!r} is not [valence, arousal, dominance] or null")
    for item in value:
        if item is not None and (isinstance(item, bool) or not isinstance(item, int | float) or not abs(item) < 1e300):
            raise UserError(f"{where}: score {item!r} is not a finite number or null")
    valence, arousal, dominance = (None if item is None else float(item) for item in value)
    return valence, arousal, dominance
