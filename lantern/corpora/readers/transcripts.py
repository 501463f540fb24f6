"""Conversations of one's own: CSV, JSON Lines, SRT and WebVTT subtitles, chats as ``Name: text`` lines. No torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.csv_files import read_csv, read_jsonl, read_text
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError

_NAME = r"(?P<name>[^\W\d_][^:<>\n]{0,39}?)"
_CHAT = re.compile(rf"^\s*(?:\[?[\d./,:\-\s]+(?:[AaPp]\.?[Mm]\.?)?\]?\s*(?:-\s*)?)?{_NAME}\s*:(?:\s+(?P<text>.*))?$")
"""``Name: text``, which may follow a date or time as chat programs export it."""
_STAMP = re.compile(
    r"\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\.?[,\sT]+\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s*[AaPp]\.?\s?[Mm]\.?)?\]?\s*(?:[-–]\s*)?"
)
"""Date and time, with which an export begins whatever the chat program wrote."""
_STAMPED = re.compile(r"(?:~\s*)?(?P<name>[^:<>\"“”\n]{1,40}?)\s*:(?:\s+(?P<text>.*))?$")
"""What follows a stamp when somebody spoke; the name may be a telephone number."""
_NOT_SAID = re.compile("\u200e.*|<[^<>]+>")
"""In place of words: ``<Media omitted>``, or what WhatsApp marks with an unseen sign."""
_CUE_NAME = re.compile(rf"^(?:-\s*)?{_NAME}\s*:\s+(?P<text>.*)$", re.DOTALL)
_VOICE = re.compile(r"^<v(?:\.[\w.-]+)?\s+(?P<name>[^>]+)>(?P<text>.*)$", re.DOTALL)
_TIME = re.compile(r"^(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{3})$")
log = logging.getLogger(__name__)

_TAG = re.compile(r"</?[a-z][^>]*>|\{\\[^}]*\}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Turn:
    speaker: str
    text: str
    dialogue: str | None = None
    id: str | None = None
    times: tuple[float, float] | None = None


def read_transcript(path: str | Path) -> list[Dialogue]:
    """The conversations in *path*, told apart by its suffix: ``.csv``, ``.jsonl``, ``.srt``, ``.vtt`` or ``.txt``.

    CSV and JSON Lines have ``speaker`` and ``text``, and may have ``dialogue`` and ``utterance`` (an id); the other
    formats hold one conversation, named after the file. In subtitles a cue that names nobody is spoken by whoever
    spoke before it; in a chat a line without a name goes on with the turn above it, and what the chat program itself
    wrote (a stamped line without a name, ``<Media omitted>``) is left out with a warning.

    Raises:
        UserError: no such file, another format, not UTF-8, no turns, or a turn without speaker or text, with its line.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: a transcript ends in {', '.join(_READERS)}, not in {path.suffix or 'nothing'!r}")
    dialogues: dict[str, list[Utterance]] = {}
    seen: set[str] = set()
    for turn in reader(path):
        name = turn.dialogue or path.stem
        turns = dialogues.setdefault(name, [])
        identity = turn.id or f"{name}_{len(turns)}"
        if identity in seen:
            raise UserError(f"{path}: utterance {identity!r} occurs twice")
        seen.add(identity)
        extra: dict[str, object] = {} if turn.times is None else {"start": turn.times[0], "end": turn.times[1]}
        turns.append(Utterance(identity, turn.speaker, turn.text, extra=extra))
    if not dialogues:
        raise UserError(f"{path} holds no turns")
    return [Dialogue(name, tuple(turns)) for name, turns in dialogues.items()]


def _checked(path: Path, line: int, values: dict[str, object]) -> _Turn:
    for name in ("speaker", "text"):
        value = values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{path}, line {line}: {name} is {value!r}, expected words")
    optional = {name: values.get(name) for name in ("dialogue", "utterance")}
    for name, value in optional.items():
        if not isinstance(value, str | int | None):
            raise UserError(f"{path}, line {line}: {name} is {value!r}, expected text or a number")
    given = {name: None if value is None or value == "" else str(value) for name, value in optional.items()}
    return _Turn(str(values["speaker"]).strip(), str(values["text"]).strip(), given["dialogue"], given["utterance"])


def _csv(path: Path) -> Iterator[_Turn]:
    for line, row in read_csv(path, ("speaker", "text")):
        yield _checked(path, line, {**row})


def _jsonl(path: Path) -> Iterator[_Turn]:
    for line, values in read_jsonl(path, ("speaker", "text")):
        yield _checked(path, line, values)


def _chat(path: Path) -> Iterator[_Turn]:
    speaker, first, left_out = "", 0, 0
    words: list[str] = []
    for number, raw in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        line = raw.strip().lstrip("\u200e\u200f")
        stamp = _STAMP.match(line)
        found = _CHAT.match(line) if stamp is None else _STAMPED.match(line, stamp.end())
        if stamp is None and found is None:
            if not line or (left_out and not speaker):  # it goes on with what was left out
                continue
            if not speaker:
                raise UserError(f"{path}, line {number}: {line[:40]!r} is not of the form 'Name: text'")
            words.append(line)
            continue
        if speaker:
            yield _checked(path, first, {"speaker": speaker, "text": " ".join(words)})
        text = (found["text"] or "").strip() if found is not None else ""
        if found is None or _NOT_SAID.fullmatch(text):
            speaker, left_out = "", left_out + 1
            continue
        speaker, words, first = found["name"].strip(), [text], number
    if speaker:
        yield _checked(path, first, {"speaker": speaker, "text": " ".join(words)})
    if left_out:
        log.warning("%s: left out %d lines that nobody said, of the chat program", path, left_out)


def _subtitles(path: Path) -> Iterator[_Turn]:
    speaker, number = "", 1
    for block in re.split(r"\n[ \t]*\n", read_text(path).replace("\r\n", "\n")):
        lines, start = block.split("\n"), number
        number += len(lines) + 1
        timed = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if timed is None:  # WebVTT's header, notes and styles
            continue
        times = _cue_times(path, start + timed, lines[timed])
        for name, words in _cue(lines[timed + 1 :]):
            speaker = name or speaker
            if not speaker:
                raise UserError(
                    f"{path}, line {start + timed + 1}: the first cue names no speaker; write 'Name: text' or <v Name>"
                )
            if words:
                yield _Turn(speaker, words, times=times)


def _cue(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Speaker ("" when not named) and words of each turn in a cue: a line that names somebody begins a new one."""
    name = ""
    words: list[str] = []
    for line in (line.strip() for line in lines):
        found = _VOICE.match(line) or _CUE_NAME.match(_TAG.sub("", line))
        if found is not None:
            if words:
                yield name, " ".join(words)
            name, words, line = found["name"].strip(), [], found["text"]
        words += _TAG.sub("", line).split()
    yield name, " ".join(words)


def _cue_times(path: Path, line: int, text: str) -> tuple[float, float]:
    start, _, rest = text.partition("-->")
    found = [_TIME.match(part.strip().split(" ")[0]) for part in (start, rest)]
    if found[0] is None or found[1] is None:
        raise UserError(f"{path}, line {line}: {text.strip()!r} is not 'hh:mm:ss,mmm --> hh:mm:ss,mmm'")
    first, last = (
        3600 * int(m[1] or 0) + 60 * int(m[2]) + int(m[3]) + int(m[4]) / 1000 for m in found if m is not None
    )
    if last < first:
        raise UserError(f"{path}, line {line}: {text.strip()!r} ends before it starts")
    return first, last


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".srt": _subtitles, ".vtt": _subtitles, ".txt": _chat}
