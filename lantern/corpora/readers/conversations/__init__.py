"""Unlabelled conversations: tables, subtitles, chats, meeting transcripts, JSON exports and CHAT files. No torch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lantern.corpora.readers.conversations.cha import read_cha
from lantern.corpora.readers.conversations.chats import read_txt
from lantern.corpora.readers.conversations.exports import read_export
from lantern.corpora.readers.conversations.subtitles import read_subtitles
from lantern.corpora.readers.conversations.turns import Source, Turn
from lantern.corpora.text_files import read_rows
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError


def read_table(source: Source) -> Iterator[Turn]:
    """Rows with ``speaker`` and ``text``, perhaps with ``dialogue`` and ``utterance`` (an id)."""
    for line, row in read_rows(source.path, ("speaker", "text")):
        for name in ("speaker", "text"):
            value = row.get(name)
            if not isinstance(value, str) or not value.strip():
                raise source.error(line, f"{name} is {value!r}, expected words")
        ids: list[str] = []
        for name in ("dialogue", "utterance"):
            value = row.get(name)
            if not isinstance(value, str | int | None) or isinstance(value, bool):
                raise source.error(line, f"{name} is {value!r}, expected text or a number")
            ids.append("" if value is None else str(value))
        yield Turn(str(row["speaker"]).strip(), str(row["text"]).strip(), dialogue=ids[0], id=ids[1])


_READERS: dict[str, Callable[[Source], Iterator[Turn]]] = {
    ".csv": read_table,
    ".jsonl": read_table,
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".txt": read_txt,
    ".json": read_export,
    ".cha": read_cha,
}
log = logging.getLogger(__name__)


def read_transcript(path: str | Path, speakers: Sequence[str] = ()) -> list[Dialogue]:
    """The conversations in *path*, whose suffix gives the format; ``docs/corpora.md`` lists the accepted forms.

    A subtitle cue or chat line without a name goes on with the speaker above it. What a chat program wrote itself
    (system messages, placeholders of pictures, deleted messages) is left out, counted and logged.

    Args:
        path: a ``.csv``, ``.jsonl``, ``.json``, ``.srt``, ``.vtt``, ``.txt`` or ``.cha`` file.
        speakers: everybody who speaks in subtitles or in a plain chat. Then no other text before a colon is a name.

    Raises:
        UserError: no such file, another format, not UTF-8, no turns, a turn without speaker or text, or words whose
            speaker is not certain, with the line.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: a transcript ends in {', '.join(_READERS)}, not in {path.suffix or 'nothing'!r}")
    source = Source(path, Counter(), tuple(speakers))
    dialogues: dict[str, list[Utterance]] = {}
    seen: set[str] = set()
    for turn in reader(source):
        name = turn.dialogue or path.stem
        turns = dialogues.setdefault(name, [])
        identity = turn.id or f"{name}_{len(turns)}"
        if identity in seen:
            raise UserError(f"{path}: utterance {identity!r} occurs twice")
        seen.add(identity)
        extra: dict[str, object] = {} if turn.times is None else {"start": turn.times[0], "end": turn.times[1]}
        turns.append(Utterance(identity, turn.speaker, turn.text, extra=extra))
    if left := source.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left.items())
        log.warning("%s: skipped %s lines that are no speech: %s", path, left.total(), kinds)
    if not dialogues:
        raise UserError(f"{path} holds no turns")
    return [Dialogue(name, tuple(turns)) for name, turns in dialogues.items()]
