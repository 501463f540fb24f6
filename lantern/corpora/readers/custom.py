"""A user's corpus: a CSV or JSON Lines transcript with optional labels, scores, splits and times. No torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import label_set, read_label_set
from lantern.corpora.text_files import pairs, read_rows
from lantern.corpora.types import DIMENSIONS, PARTS, Dialogue, LabelSet, Utterance, seconds
from lantern.errors import UserError, did_you_mean

REQUIRED = ("dialogue", "speaker", "text")
OPTIONAL = ("utterance", "label", *DIMENSIONS, "split", "session", "start", "end")


@dataclass
class _Open:
    """A dialogue whose rows are being read."""

    line: int
    session: str
    split: str
    turns: list[Utterance] = field(default_factory=list)


def read_custom(
    path: Path,
    label_set_name: str,
    name: str = "",
    score_range: str | None = None,
    redistribution: str = "forbidden",
    split: Sequence[str] = (),
) -> Corpus:
    """:func:`import_custom` with its arguments as a person types them.

    Args:
        label_set_name: one of Lantern's label sets, or a YAML file (see :func:`read_label_set`).
        score_range: ``LOW,HIGH``.
        split: ``PART=ID,ID,...``, once per part.

    Raises:
        UserError: an argument of another form, and as :func:`import_custom`.
    """
    from_file = label_set_name.endswith((".yaml", ".yml"))
    return import_custom(
        path,
        read_label_set(Path(label_set_name)) if from_file else label_set(label_set_name),
        name,
        None if score_range is None else _range(score_range),
        redistribution,
        {part: ids.split(",") for part, ids in pairs(split, "--split", "PART=ID,...").items()},
    )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise UserError(f"--score-range {text}: expected LOWEST,HIGHEST, for example 1,5")
    return low, high


def import_custom(
    path: Path,
    labels: LabelSet,
    name: str = "",
    score_range: tuple[float, float] | None = None,
    redistribution: str = "forbidden",
    splits: Mapping[str, Sequence[str]] | None = None,
) -> Corpus:
    """The transcript in *path*, without features.

    Columns (CSV) or keys (JSON Lines): ``dialogue``, ``speaker`` and ``text``. Optional are ``utterance`` (an id;
    otherwise ``<dialogue>_<position>`` from 0), ``label`` (a class of *labels*), ``valence``, ``arousal``,
    ``dominance``, ``split``, ``session``, ``start`` and ``end`` (seconds or ``hh:mm:ss.mmm``). The rows of a dialogue
    are together, in the order of the conversation. An empty label or score is missing. Other columns are kept with the
    utterance and noted.

    Args:
        path: ends in ``.csv`` or ``.jsonl``.
        labels: the label set.
        name: of the corpus; that of the file when empty.
        score_range: lowest and highest score; needed where there are scores.
        redistribution: ``allowed`` or ``forbidden``: whether the text may be passed on.
        splits: per part dialogue ids or shell patterns of them, in place of a ``split`` column.

    Raises:
        UserError: a row or value that cannot be used; names file and line.
    """
    rows = read_rows(path, REQUIRED)
    names = {str(key): None for _, row in rows for key in row}
    others = _other_columns(path, list(names))
    if splits and "split" in names:
        raise UserError(f"{path} has a column 'split'; leave out --split or the column")
    dialogues: dict[str, _Open] = {}
    seen: dict[str, int] = {}
    current = ""
    for line, row in rows:
        where = f"{path}, line {line}"
        dialogue = _text(row, "dialogue", where)
        if dialogue != current and dialogue in dialogues:
            raise UserError(f"{where}: dialogue {dialogue!r} goes on after another one; its rows must be together")
        current = dialogue
        session, split = (_text(row, key, where, required=False) for key in ("session", "split"))
        if split and split not in PARTS:
            raise UserError(f"{where}: split {split!r} is not one of {', '.join(PARTS)}")
        read = dialogues.setdefault(dialogue, _Open(line, session, split))
        for key, value, first in (("session", session, read.session), ("split", split, read.split)):
            if value != first:
                raise UserError(
                    f"{where}: {key} {value!r}, but dialogue {dialogue!r} began on line {read.line} with {first!r}"
                )
        utterance = _utterance(row, labels, score_range, f"{dialogue}_{len(read.turns)}", others, where)
        if seen.setdefault(utterance.id, line) != line:
            raise UserError(f"{where}: utterance {utterance.id!r} is on line {seen[utterance.id]} already")
        read.turns.append(utterance)
    if splits:
        parts = _given_splits(splits, list(dialogues))
    else:
        columns = {part: tuple(key for key, read in dialogues.items() if read.split == part) for part in PARTS}
        parts = {part: ids for part, ids in columns.items() if ids}
    notes = [f"columns kept with the utterances: {', '.join(others)}"] if others else []
    placed = sum(map(len, parts.values()))
    if not parts:
        notes.append("no splits: a run needs a column split, or --split when importing")
    elif placed < len(dialogues):
        notes.append(f"{len(dialogues) - placed} dialogues are in no split")
    return Corpus(
        name=name or path.stem,
        label_set=labels,
        dialogues=tuple(Dialogue(key, tuple(read.turns), read.session or None) for key, read in dialogues.items()),
        splits=parts,
        score_range=score_range,
        redistribution=redistribution,
        source=f"transcript {path.name}",
        notes=tuple(notes),
    )


def _other_columns(path: Path, names: list[str]) -> list[str]:
    """Columns that Lantern does not know; one that looks like a misspelt known column is refused."""
    known = (*REQUIRED, *OPTIONAL)
    others = [name for name in names if name not in known]
    for name in others:
        close = difflib.get_close_matches(name.lower(), [k for k in known if k not in names], n=1, cutoff=0.75)
        if close:
            raise UserError(f"{path}: column {name!r} is not known.{did_you_mean(name.lower(), close)} Rename it")
    return others


def _text(row: Mapping[str, object], key: str, where: str, required: bool = True) -> str:
    """Text without surrounding blanks; a whole number counts as text. Empty when missing and not *required*."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise UserError(f"{where}: {key} is {value!r}, expected text")
    return value.strip()


def _utterance(
    row: Mapping[str, object],
    labels: LabelSet,
    score_range: tuple[float, float] | None,
    default: str,
    others: Sequence[str],
    where: str,
) -> Utterance:
    label = _text(row, "label", where, required=False)
    if label and label not in labels.classes:
        raise UserError(f"{where}: label {label!r} is not in label set {labels.name!r} ({', '.join(labels.classes)})")
    scores = tuple(_score(row.get(key), key, score_range, where) for key in DIMENSIONS)
    times: dict[str, float] = {}
    for key in ("start", "end"):
        if row.get(key) not in (None, ""):
            time = seconds(row[key])
            if time is None:
                raise UserError(f"{where}: {key} {row[key]!r} is neither seconds nor hh:mm:ss.mmm")
            times[key] = time
    if len(times) == 2 and times["end"] < times["start"]:
        raise UserError(f"{where}: end {times['end']:g} s is before start {times['start']:g} s")
    kept = {key: row[key] for key in others if row.get(key) not in (None, "")}
    return Utterance(
        id=_text(row, "utterance", where) if "utterance" in row else default,
        speaker=_text(row, "speaker", where),
        text=_text(row, "text", where),
        label=labels.classes.index(label) if label else None,
        scores=None if scores == (None, None, None) else (scores[0], scores[1], scores[2]),
        extra={**kept, **times},
    )


def _score(value: object, key: str, score_range: tuple[float, float] | None, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: {key} {value!r} is not a number")
    if score_range is None:
        raise UserError(f"{where}: {key} {value} needs its scale: --score-range LOWEST,HIGHEST, for example 1,5")
    if not score_range[0] <= score <= score_range[1]:
        raise UserError(f"{where}: {key} {value} is outside --score-range {score_range[0]:g},{score_range[1]:g}")
    return score


def _given_splits(splits: Mapping[str, Sequence[str]], ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    placed: dict[str, str] = {}
    for part, patterns in splits.items():
        if part not in PARTS:
            raise UserError(f"--split {part}=…: {part!r} is not one of {', '.join(PARTS)}")
        for pattern in patterns:
            chosen = [i for i in ids if i == pattern] or [i for i in ids if fnmatchcase(i, pattern)]
            if not chosen:
                raise UserError(f"--split {part}={pattern}: no dialogue has this id; the first is {ids[0]!r}")
            for i in chosen:
                if placed.setdefault(i, part) != part:
                    raise UserError(f"--split {part}={pattern}: dialogue {i!r} is in {placed[i]} already")
    return {part: tuple(i for i in ids if placed.get(i) == part) for part in PARTS if part in placed.values()}
