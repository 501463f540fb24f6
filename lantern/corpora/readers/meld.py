"""MELD from its CSV files (Poria et al., ACL 2019)."""

from __future__ import annotations

from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS, SERIES, label_set
from lantern.corpora.summary import compare_counts, numbering_notes
from lantern.corpora.text_files import filled, read_csv, repaired, whole_number
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
PUBLISHED = {"train": (1038, 9989), "dev": (114, 1109), "test": (280, 2610)}
"""Dialogues and utterances by split."""
_HINT = "--csv names the folder that holds train_, dev_ and test_sent_emo.csv"
_LABELLED_BY = {"meld-7": "Emotion", "meld-3": "Sentiment"}
"""The column of each label set; the other one is kept among the extras."""
_TIMES = {"start": "StartTime", "end": "EndTime"}


def import_meld(folder: Path, label_set_name: str = "meld-7") -> Corpus:
    """MELD's transcripts, labels and splits, without features.

    Dialogue ids are ``<split>_<Dialogue_ID>``, utterance ids ``<split>_<Dialogue_ID>_<Utterance_ID>``, sessions
    ``S<season>E<episode>``. Turns are sorted by Utterance_ID, whose gaps stay. ``checks`` of the corpus compares the
    counts with the published ones; a difference is not an error.

    Args:
        folder: holds ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv``.
        label_set_name: ``meld-7`` (emotions) or ``meld-3`` (sentiment).

    Raises:
        UserError: a file, column, class or id that cannot be used (names file and line), another label set.
    """
    labels = label_set(label_set_name)
    if labels.name not in _LABELLED_BY:
        raise UserError(f"label set {labels.name!r} is not one of MELD's: {', '.join(_LABELLED_BY)}")
    parts: dict[str, list[Dialogue]] = {}
    notes: list[str] = []
    checks: list[str] = []
    for split, totals in PUBLISHED.items():
        parts[split], remarks = _read_split(folder / f"{split}_sent_emo.csv", split, labels)
        notes += [f"{split}: {remark}" for remark in remarks]
        checks += compare_counts(split, parts[split], (*totals, COUNTS[labels.name][split]), labels)
    return Corpus(
        name="meld",
        label_set=labels,
        dialogues=tuple(d for dialogues in parts.values() for d in dialogues),
        splits={split: tuple(d.id for d in dialogues) for split, dialogues in parts.items()},
        redistribution="allowed",
        contaminated=SERIES["meld"],
        source="MELD CSV files (Poria et al. 2019), repository under GPL-3.0; the text is that of a TV series",
        notes=tuple(notes),
        checks=tuple(checks),
    )


def _read_split(path: Path, split: str, labels: LabelSet) -> tuple[list[Dialogue], list[str]]:
    """The dialogues of one file by their number, and remarks on what is irregular in it."""
    column = _LABELLED_BY[labels.name]
    other = next(name for name in _LABELLED_BY.values() if name != column)
    turns: dict[int, dict[int, Utterance]] = {}
    lines: dict[str, int] = {}
    sessions: dict[int, str] = {}
    changed = 0
    for line, row in read_csv(path, COLUMNS, _HINT, english=True):
        where = f"{path}, line {line}"
        dialogue, number, season, episode = (
            whole_number(row, name, where) for name in ("Dialogue_ID", "Utterance_ID", "Season", "Episode")
        )
        label = row[column].strip().lower()
        if label not in labels.classes:
            raise UserError(f"{where}: {column} {row[column]!r} is not one of {', '.join(labels.classes)}")
        session = f"S{season}E{episode}"
        if sessions.setdefault(dialogue, session) != session:
            raise UserError(f"{where}: Dialogue_ID {dialogue} is in {session}, before it was in {sessions[dialogue]}")
        utterance = f"{split}_{dialogue}_{number}"
        if lines.setdefault(utterance, line) != line:
            raise UserError(
                f"{where}: Dialogue_ID {dialogue} with Utterance_ID {number} is on line {lines[utterance]} already; "
                "each pair must occur once"
            )
        clean = {name: repaired(row[name]) for name in ("Speaker", "Utterance")}
        speaker, text = (filled(clean, name, where) for name in clean)
        changed += any(clean[name] != row[name] for name in clean)
        times = {key: row[name].strip() for key, name in _TIMES.items() if row.get(name)}
        turns.setdefault(dialogue, {})[number] = Utterance(
            utterance, speaker, text, labels.classes.index(label), extra={other.lower(): row[other].strip(), **times}
        )
    remarks = numbering_notes(map(sorted, turns.values()), 0, "Utterance_ID", "Utterance_ID 0")
    if missing := sorted(set(range(max(turns) + 1)) - set(turns)):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        remarks.append(f"no Dialogue_ID {', '.join(map(str, missing[:5]))}{more}")
    if changed:
        remarks.append(f"{changed} turns had spoiled characters (cp1252) and were repaired")
    dialogues = [
        Dialogue(f"{split}_{i}", tuple(held[n] for n in sorted(held)), sessions[i]) for i, held in sorted(turns.items())
    ]
    return dialogues, remarks
