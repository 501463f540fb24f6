"""MELD from its CSV files (Poria et al., ACL 2019)."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS, label_set
from lantern.corpora.summary import compare_counts
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
PUBLISHED = {"train": (1038, 9989), "dev": (114, 1109), "test": (280, 2610)}
"""Dialogues and utterances by split."""
_LABELLED_BY = {"meld-7": "Emotion", "meld-3": "Sentiment"}
"""The column of each label set; the other one is kept among the extras."""
_TIMES = {"start": "StartTime", "end": "EndTime"}
# cp1252 read as Latin-1 turns quotes and dashes into control characters; UTF-8 read as cp1252 makes three of one.
_CONTROL = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
_DOUBLE = re.compile("\u00e2\u20ac[\u0080-\uffff]|\u00c3[\u0080-\u00bf]")


@dataclass
class _Found:
    """What reading one split brought to light."""

    notes: list[str] = field(default_factory=list)
    repaired: int = 0


def import_meld(folder: Path, label_set_name: str = "meld-7") -> Corpus:
    """MELD's transcripts, labels and splits, without features.

    Dialogue ids are ``<split>_<Dialogue_ID>``, utterance ids ``<split>_<Dialogue_ID>_<Utterance_ID>``, sessions
    ``S<season>E<episode>``. Turns are sorted by Utterance_ID, whose gaps stay. ``checks`` of the corpus compares the
    counts with the published ones; a difference is told there and is no error.

    Args:
        folder: holds ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv``.
        label_set_name: ``meld-7`` (emotions) or ``meld-3`` (sentiment).

    Raises:
        UserError: a file, column, class or id that cannot be used (names file and line), another label set.
    """
    labels = label_set(label_set_name)
    if labels.name not in _LABELLED_BY:
        raise UserError(f"label set {labels.name!r} is not one of MELD's: {', '.join(_LABELLED_BY)}")
    dialogues: list[Dialogue] = []
    splits: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    checks: list[str] = []
    for split in PUBLISHED:
        report = _Found()
        found = _read_split(folder / f"{split}_sent_emo.csv", split, labels, report)
        splits[split] = tuple(d.id for d in found)
        dialogues += found
        notes += [f"{split}: {note}" for note in report.notes]
        checks += compare_counts(split, found, *PUBLISHED[split], COUNTS[labels.name][split], labels)
    return Corpus(
        name="meld",
        label_set=labels,
        dialogues=tuple(dialogues),
        splits=splits,
        redistribution="allowed",
        contaminated="MELD is Friends, which LLMs have read: their results on it may be contaminated",
        source="MELD CSV files (Poria et al. 2019), repository under GPL-3.0; the text is that of a TV series",
        notes=tuple(notes),
        checks=tuple(checks),
    )


def _repair(text: str) -> str:
    """Undo the two ways in which old copies spoiled quotes, dashes and accents."""
    if _DOUBLE.search(text):
        with contextlib.suppress(UnicodeError):
            text = text.encode("cp1252").decode("utf-8")
    return text.translate(_CONTROL)


def _read_split(path: Path, split: str, labels: LabelSet, report: _Found) -> list[Dialogue]:
    column = _LABELLED_BY[labels.name]
    other = next(name for name in _LABELLED_BY.values() if name != column)
    turns: dict[int, dict[int, Utterance]] = {}
    lines: dict[tuple[int, int], int] = {}
    sessions: dict[int, str] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        dialogue, number = _number(row, "Dialogue_ID", where), _number(row, "Utterance_ID", where)
        label = row[column].strip().lower()
        if label not in labels.classes:
            raise UserError(f"{where}: {column} {row[column]!r} is not one of {', '.join(labels.classes)}")
        session = f"S{_number(row, 'Season', where)}E{_number(row, 'Episode', where)}"
        if sessions.setdefault(dialogue, session) != session:
            raise UserError(f"{where}: Dialogue_ID {dialogue} is in {session}, before it was in {sessions[dialogue]}")
        if (dialogue, number) in lines:
            raise UserError(
                f"{where}: Dialogue_ID {dialogue} with Utterance_ID {number} stands on line {lines[dialogue, number]} "
                "already; each pair must occur once"
            )
        lines[dialogue, number] = line
        times = {key: row[name].strip() for key, name in _TIMES.items() if row.get(name)}
        turns.setdefault(dialogue, {})[number] = Utterance(
            id=f"{split}_{dialogue}_{number}",
            speaker=_mended(row["Speaker"].strip(), report),
            text=_mended(row["Utterance"].strip(), report),
            label=labels.classes.index(label),
            extra={other.lower(): row[other].strip(), **times},
        )
    gapped = sum(max(held) - min(held) + 1 != len(held) for held in turns.values())
    late = sum(min(held) > 0 for held in turns.values())
    missing = sorted(set(range(max(turns) + 1)) - set(turns))
    if gapped:
        report.notes.append(f"{gapped} dialogues with gaps in Utterance_ID, kept in order")
    if late:
        report.notes.append(f"{late} dialogues do not start at Utterance_ID 0")
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        report.notes.append(f"no Dialogue_ID {', '.join(map(str, missing[:5]))}{more}")
    if report.repaired:
        report.notes.append(f"{report.repaired} texts or names had spoiled characters (cp1252) and were repaired")
    return [
        Dialogue(f"{split}_{i}", tuple(held[n] for n in sorted(held)), sessions[i]) for i, held in sorted(turns.items())
    ]


def _mended(text: str, report: _Found) -> str:
    mended = _repair(text)
    report.repaired += mended != text
    return mended


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Records with the number of the line on which each ends."""
    if not path.is_file():
        raise UserError(f"{path} is missing; --csv names the folder that holds train_, dev_ and test_sent_emo.csv")
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    reader = csv.DictReader(io.StringIO("".join(map(_decoded, raw.splitlines(keepends=True))), newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path}, line 1: missing columns {', '.join(missing)}; found {reader.fieldnames or 'none'}"
            )
        for row in reader:
            # DictReader files what is too much under None, and fills what is too little with None.
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: not {len(reader.fieldnames or ())} fields as in line 1"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no utterances")
    return rows


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        # Latin-1 and not cp1252: its control characters show _repair what was spoiled, and no byte is undefined.
        return line.decode("latin-1")


def _number(row: dict[str, str], column: str, where: str) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise UserError(f"{where}: {column} {row[column]!r} is not a whole number") from None
