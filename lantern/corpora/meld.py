"""MELD from its CSV files (Poria et al., ACL 2019)."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lantern.corpora.folder import Corpus, with_fingerprint
from lantern.corpora.labels import label_set
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
PUBLISHED = {
    "train": (1038, 9989, (4710, 1205, 268, 683, 1743, 271, 1109)),
    "dev": (114, 1109, (470, 150, 40, 111, 163, 22, 153)),
    "test": (280, 2610, (1256, 281, 50, 208, 402, 68, 345)),
}
"""Dialogues, utterances and utterances per class (neutral, surprise, fear, sadness, joy, disgust, anger) by split."""
# Old copies were read as Latin-1 where they were cp1252: quotes and dashes became control characters.
_CP1252 = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}


@dataclass
class ImportReport:
    """What an importer found, for the summary."""

    notes: list[str] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    """Counts that differ from the published ones."""


def import_meld(folder: Path) -> tuple[Corpus, ImportReport]:
    """MELD's transcripts, labels and splits, without features.

    Dialogue ids are ``<split>_<Dialogue_ID>``, utterance ids ``<split>_<Dialogue_ID>_<Utterance_ID>``. Turns are
    sorted by Utterance_ID, whose gaps are kept as they are.

    Raises:
        UserError: a file, column, emotion or id that cannot be used; names file and line.
    """
    labels = label_set("meld-7")
    report = ImportReport()
    dialogues: list[Dialogue] = []
    splits: dict[str, tuple[str, ...]] = {}
    for split, published in PUBLISHED.items():
        found = _read_split(folder / f"{split}_sent_emo.csv", split, labels.classes, report)
        splits[split] = tuple(d.id for d in found)
        dialogues += found
        counts = Counter(u.label for d in found for u in d.utterances)
        got = (len(found), sum(len(d) for d in found), tuple(counts[k] for k in range(len(labels))))
        for what, mine, theirs in zip(("dialogues", "utterances", "utterances per class"), got, published):
            if mine != theirs:
                report.deviations.append(f"{split}: {mine} {what}, published {theirs}")
    corpus = Corpus(
        name="meld",
        label_set=labels,
        dialogues=tuple(dialogues),
        splits=splits,
        features={},
        present={},
        cards={},
        redistribution="allowed",
        contaminated="MELD is Friends, which LLMs have read: results may be contaminated",
        source="MELD CSV files (Poria et al. 2019)",
    )
    return with_fingerprint(corpus), report


def _read_split(path: Path, split: str, classes: tuple[str, ...], report: ImportReport) -> list[Dialogue]:
    turns: dict[int, dict[int, Utterance]] = {}
    sessions: dict[int, str] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        dialogue, number = _number(row, "Dialogue_ID", where), _number(row, "Utterance_ID", where)
        emotion = row["Emotion"].strip().lower()
        if emotion not in classes:
            raise UserError(f"{where}: Emotion {row['Emotion']!r} is not one of {', '.join(classes)}")
        held = turns.setdefault(dialogue, {})
        if number in held:
            raise UserError(f"{where}: Dialogue_ID {dialogue} has Utterance_ID {number} twice")
        held[number] = Utterance(
            id=f"{split}_{dialogue}_{number}",
            speaker=row["Speaker"].strip().translate(_CP1252),
            text=row["Utterance"].translate(_CP1252),
            label=classes.index(emotion),
            extra={"sentiment": row["Sentiment"].strip(), "start": row.get("StartTime"), "end": row.get("EndTime")},
        )
        sessions[dialogue] = f"S{row['Season'].strip()}E{row['Episode'].strip()}"
    gapped = sum(sorted(held) != list(range(len(held))) for held in turns.values())
    if gapped:
        report.notes.append(f"{split}: {gapped} dialogues with gaps in Utterance_ID, kept in order")
    missing = sorted(set(range(max(turns, default=0) + 1)) - set(turns))
    if missing:
        report.notes.append(f"{split}: no Dialogue_ID {', '.join(map(str, missing[:5]))}")
    return [
        Dialogue(f"{split}_{i}", tuple(held[n] for n in sorted(held)), sessions[i]) for i, held in sorted(turns.items())
    ]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; --csv names the folder that holds train_, dev_ and test_sent_emo.csv")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}, line 1: columns missing: {', '.join(missing)}")
    rows = []
    try:
        for row in reader:
            if any(row.get(c) is None for c in COLUMNS):
                raise UserError(f"{path}, line {reader.line_num}: fewer fields than columns")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no utterances")
    return rows


def _number(row: dict[str, str], column: str, where: str) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise UserError(f"{where}: {column} {row[column]!r} is not a whole number") from None
