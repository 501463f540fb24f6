"""The files of ``IEMOCAP_full_release``: evaluations (consensus, votes, ratings) and transcripts.

::

    Session1..5/dialog/EmoEvaluation/<dialogue>.txt    a block per turn: times, turn, consensus, [V, A, D], then votes
    Session1..5/dialog/transcriptions/<dialogue>.txt   a line per turn: turn [start-end]: text
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lantern.errors import UserError

SESSIONS = (1, 2, 3, 4, 5)
CODES = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx")
"""Consensus codes; ``xxx``: no category got a majority."""
CATEGORIES = (
    *("Anger", "Happiness", "Excited", "Sadness", "Neutral"),
    *("Frustration", "Fear", "Surprise", "Disgust", "Other"),
)
"""Categories of the evaluation form; ``Neutral state`` is read as ``Neutral``."""

_EVALUATIONS, _TRANSCRIPTS = Path("dialog", "EmoEvaluation"), Path("dialog", "transcriptions")
# Two parts of a scene have a letter more: Ses03M_impro05a, Ses03M_impro08b, Ses05M_script01_1b.
_DIALOGUE = re.compile(r"Ses(\d\d)[FM]_(?:impro|script)\d\w*")
_TURN = re.compile(
    r"\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t([a-z]{3})\t\[(\d+\.\d+),\s*(\d+\.\d+),\s*(\d+\.\d+)\]\s*", re.ASCII
)
_VOTE = re.compile(r"([CA]-\w+)\s*:(.*)")
_RATING = re.compile(r"\s*(val|act|dom)\s*(\d+(?:\.\d+)?)?\s*;?")
_LINE = re.compile(r"(\S+)\s+\[\s*\d+\.\d+\s*-\s*\d+\.\d+\s*\]:(.*)")


@dataclass(frozen=True, slots=True)
class Turn:
    """One evaluated turn."""

    id: str
    start: float
    """Seconds from the start of the dialogue's recording."""
    end: float
    code: str
    """Consensus, one of :data:`CODES`."""
    scores: tuple[float, float, float]
    """Valence, activation (arousal), dominance: means of the external annotators' ratings, 1 to 5."""
    votes: dict[str, list[str]] = field(default_factory=dict)
    """Categories by annotator: external ``C-E2``, the speaker's own ``C-F1`` or ``C-M1``. May be empty."""
    ratings: dict[str, list[float | None]] = field(default_factory=dict)
    """Valence, arousal, dominance by annotator (``A-E2``, ``A-F1``); None where one left it out."""

    @property
    def letter(self) -> str:
        """``F`` or ``M``: the speaker. The letter after the session number is another: the actor with the markers."""
        return self.id.rpartition("_")[2][0]


@dataclass(frozen=True, slots=True)
class RawDialogue:
    """One dialogue: its evaluated turns in the order of its transcript, with what was said."""

    id: str
    session: int
    turns: tuple[tuple[Turn, str], ...]


@dataclass
class Skipped:
    """Counts of what the reader skipped."""

    files: Counter[str] = field(default_factory=Counter)
    """By kind."""
    overlaps: int = 0
    """Transcript lines of speech that was not cut into turns (MXX, FXX)."""
    unevaluated: int = 0
    """Transcript lines of other turns without an evaluation."""
    anonymous: int = 0
    """Transcript lines without a turn id."""
    empty_votes: int = 0
    odd: list[str] = field(default_factory=list)
    """File and line of evaluation lines that are neither turn nor vote."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Votes for categories that the form does not have."""


def read_release(root: Path) -> tuple[list[RawDialogue], Skipped]:
    """Every dialogue under *root*, by session and name, and what the reader skipped.

    Raises:
        UserError: a missing or unreadable folder or file, a turn that cannot be read (names file and line), a turn with
            two evaluations, with two texts or without text.
    """
    skipped = Skipped()
    try:
        _check_root(root)
        return list(_dialogues(root, skipped)), skipped
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from None


def _dialogues(root: Path, skipped: Skipped) -> Iterator[RawDialogue]:
    for session in SESSIONS:
        folder = root / f"Session{session}"
        evaluations = _dialogue_files(folder / _EVALUATIONS, session, skipped)
        transcripts = _dialogue_files(folder / _TRANSCRIPTS, session, skipped)
        if not evaluations:
            raise UserError(f"{folder / _EVALUATIONS} holds no evaluations (Ses{session:02d}F_impro01.txt and so on)")
        for name, path in evaluations.items():
            if name not in transcripts:
                raise UserError(f"{folder / _TRANSCRIPTS / path.name} is missing; {path} evaluates its turns")
            turns = _evaluated(path, name, skipped)
            yield RawDialogue(name, session, tuple(_spoken(transcripts[name], path, turns, skipped)))
        skipped.files["transcripts without an evaluation"] += len(transcripts.keys() - evaluations.keys())


def _check_root(root: Path) -> None:
    if (root / _EVALUATIONS).is_dir():
        raise UserError(f"{root} is the folder of one session; give the one above it, {root.resolve().parent}")
    inner = root / "IEMOCAP_full_release"
    if inner.is_dir():
        raise UserError(f"{root} is not the release itself; give {inner}")
    for session in SESSIONS:
        for part in (_EVALUATIONS, _TRANSCRIPTS):
            folder = root / f"Session{session}" / part
            if not folder.is_dir():
                raise UserError(
                    f"{folder} is missing; {root} should be IEMOCAP_full_release, with Session1 to Session5"
                )


def _dialogue_files(folder: Path, session: int, skipped: Skipped) -> dict[str, Path]:
    """The dialogues' files by name, sorted; not those of sub-folders, which EmoEvaluation has with the same names."""
    files = {}
    for path in sorted(folder.iterdir()):
        match = _DIALOGUE.fullmatch(path.stem)
        if path.is_dir():
            continue
        if path.suffix != ".txt" or match is None:
            skipped.files["AppleDouble files (._*)" if path.name.startswith("._") else path.name] += 1
        elif int(match[1]) != session:
            raise UserError(f"{path} belongs to session {int(match[1])}, not to session {session}")
        else:
            files[path.stem] = path
    return files


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """``file, line n`` and the line, for every line that is not blank."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The release is in Latin-1; cp1252 has the same letters and also the quotes of old editors.
        text = raw.decode("cp1252", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line.rstrip("\r")


def _evaluated(path: Path, dialogue: str, skipped: Skipped) -> dict[str, Turn]:
    turns: dict[str, Turn] = {}
    current: Turn | None = None
    for where, line in _lines(path):
        vote = _VOTE.match(line)
        if line.startswith("["):
            current = _turn(line, dialogue, where)
            if current.id in turns:
                raise UserError(f"{where}: turn {current.id} is evaluated twice")
            turns[current.id] = current
        elif vote is not None:
            if current is None:
                raise UserError(f"{where}: {vote[1]} comes before the first turn")
            if vote[1].startswith("C-"):
                current.votes[_free(vote[1], current.votes)] = _categories(vote[2], skipped)
            else:
                current.ratings[_free(vote[1], current.ratings)] = _rated(vote[2], where)
        elif not line.startswith("%"):
            skipped.odd.append(Path(where).name)
    if not turns:
        raise UserError(f"{path} evaluates no turn")
    return turns


def _turn(line: str, dialogue: str, where: str) -> Turn:
    match = _TURN.fullmatch(line)
    if match is None:
        raise UserError(f"{where}: {line[:60]!r} is not [start - end]<TAB>turn<TAB>code<TAB>[V, A, D]")
    start, end, identity, code, *scores = match.groups()
    if code not in CODES:
        raise UserError(f"{where}: code {code!r} is not one of {', '.join(CODES)}")
    if re.fullmatch(re.escape(dialogue) + r"_[FM]\d+", identity) is None:
        raise UserError(f"{where}: {identity!r} is not a turn of {dialogue} ({dialogue}_F000, {dialogue}_M000, ...)")
    valence, arousal, dominance = map(float, scores)
    return Turn(identity, float(start), float(end), code, (valence, arousal, dominance))


def _free(annotator: str, taken: Container[str]) -> str:
    """*annotator*, numbered when the name is taken, so that a second line of the same annotator is kept."""
    names = itertools.chain([annotator], (f"{annotator} ({count})" for count in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _categories(text: str, skipped: Skipped) -> list[str]:
    """The categories before the free comment in parentheses."""
    named = [word.strip() for word in text.partition("(")[0].split(";")]
    categories = ["Neutral" if word.lower() == "neutral state" else word for word in named if word]
    skipped.empty_votes += not categories
    skipped.unknown.update(word for word in categories if word not in CATEGORIES)
    return categories


def _rated(text: str, where: str) -> list[float | None]:
    ratings = text.partition("(")[0].strip()
    if _RATING.sub("", ratings).strip():
        raise UserError(f"{where}: {ratings!r} is not like 'val 3; act 2; dom 2;'")
    given = {name: float(value) if value else None for name, value in _RATING.findall(ratings)}
    return [given.get(name) for name in ("val", "act", "dom")]


def _spoken(path: Path, evaluation: Path, turns: dict[str, Turn], skipped: Skipped) -> Iterator[tuple[Turn, str]]:
    """The evaluated *turns* with their texts, in transcript order, which the published feature files follow.

    In 67 of the 151 transcripts it is not the order of the start times.
    """
    texts: dict[str, str] = {}
    for where, line in _lines(path):
        name = line.split()[0].rstrip(":")
        match = _LINE.fullmatch(line)
        if name in turns:
            if match is None:
                raise UserError(f"{where}: {line[:60]!r} is not 'turn [start-end]: text'")
            text = match[2].strip()
            if texts.setdefault(name, text) != text:
                raise UserError(f"{where}: turn {name} occurs a second time, with another text")
        elif match is None:
            skipped.anonymous += 1
        elif re.fullmatch(re.escape(path.stem) + r"_[FM]XX\d*", name):
            skipped.overlaps += 1
        else:
            skipped.unevaluated += 1
    yield from ((turns[name], text) for name, text in texts.items())
    missing = sorted(turns.keys() - texts.keys())
    if missing:
        raise UserError(f"{path}: no line for turn {missing[0]}, which {evaluation} evaluates")
