"""Chats as text: stamped exports (WhatsApp, Signal, Telegram, Discord), Zoom's chat, and plain ``Name: text`` lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, takewhile

from lantern.corpora.readers.conversations.meetings import read_headed, read_zoom, without_heading
from lantern.corpora.readers.conversations.names import NAMED, Candidate, Names
from lantern.corpora.readers.conversations.placeholders import said
from lantern.corpora.readers.conversations.stamps import DATED, Line, Stamped, split_stamps
from lantern.corpora.readers.conversations.subtitles import read_subtitles
from lantern.corpora.readers.conversations.turns import Source, Turn, short, words
from lantern.corpora.readers.conversations.wordlists import CHANGES, PREPOSITIONS

_SENDER = re.compile(r"(?:[~*]\s*)*(?P<name>[^\n]+?)\s*(?::(?=\s|$)|：)\s*(?P<text>.*)$")
"""The rest of a stamped line that a person wrote: a contact's name holds any sign but a colon."""
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“"}
_ARROW = re.compile(r"^\s*[\d:.,]+\s*-->\s*\d")


def read_txt(source: Source) -> Iterator[Turn]:
    """Turns of a ``.txt`` file, whose own lines tell its form."""
    lines = source.lines()
    if any(_ARROW.match(line) for _, line in lines):
        return read_subtitles(source)
    lines = without_heading(source, lines)
    stamped = split_stamps(lines)
    meeting = read_zoom(source, lines)
    if meeting is None and (stamped is None or not stamped.dated):
        meeting = read_headed(source, lines)
    if meeting is not None:
        return meeting
    return _plain(source, lines) if stamped is None else _stamped(source, stamped)


def _stamped(source: Source, chat: Stamped) -> Iterator[Turn]:
    """A message begins at a stamp and goes on to the next one, whatever its lines look like."""
    lines = chat.lines
    if different := chat.unknown_words():
        first = next(line.number for line in lines if line.more)
        raise source.error(
            first, f"what stands between time and name differs ({short(different)}); write 'date time - Name: text'"
        )
    senders = [_sender(line) for line in lines]
    heads = [n for n, line in enumerate(lines) if line.stamped]
    below = {n: [line.text for line in lines[n + 1 : end]] for n, end in pairwise([*heads, len(lines)])}
    alone = not any(senders[n] for n in heads)
    if alone and not all(any(below[n]) and lines[n].text for n in heads):
        raise source.error(lines[heads[0]].number, f"no 'Name: text' after the stamp: {short(lines[heads[0]].text)}")
    if not chat.dated and not alone:
        _check_timed(source, lines, senders)
    names = {match["name"] for match in senders if match}
    counts = Counter(match["name"] for match in senders if match)
    for line in lines[: heads[0]]:
        if NAMED.match(line.text):
            raise source.error(
                line.number, f"{short(line.text)} has no stamp, and the messages below have; give it one, or delete it"
            )
        if line.text:
            source.left_out["heading"] += 1
    for n in heads:
        match = senders[n]
        if alone:  # the name alone on the stamped line, the words below it
            speaker, message = lines[n].text.removesuffix("(pinned)"), list(takewhile(_is_word, below[n]))
        elif match is None or _by_program(source, lines[n], match["name"], counts):
            name, _, text = lines[n].text.partition(":")  # "Olek:yes", after an editor or a script
            if match is not None or name.strip() not in names:
                source.left_out["by the chat program"] += 1
                continue
            speaker, message = name, [text, *below[n]]
        else:
            speaker, message = match["name"], [match["text"], *below[n]]
        text, placeholders = said(message)
        if not text or placeholders:
            source.left_out["placeholder or deleted"] += 1
        speaker = words(speaker)
        if text and not speaker:
            raise source.error(lines[n].number, f"{short(text)} has no speaker; write 'date time - Name: text'")
        if text:
            yield Turn(speaker, words(text))


def _is_word(line: str) -> bool:
    """Not the heading of what Discord lists below a message."""
    return line not in ("{Attachments}", "{Embed}", "{Reactions}", "{Stickers}")


def _check_timed(source: Source, lines: list[Line], senders: list[re.Match[str] | None]) -> None:
    """Refuse a line that may have begun with a time because somebody wrote so ("18:05 is late")."""
    found = {n: Candidate(match["name"], match["text"], lines[n].number) for n, match in enumerate(senders) if match}
    names = Names(source, found.values(), unnamed=False)
    for n, line in enumerate(lines):
        spoken = n in found and not names.speaks(found[n])
        if line.stamped and (spoken or (n not in found and not line.bracket)):
            raise source.error(line.number, f"{short(line.text)} has a time but no speaker; write 'time Name: text'")


def _sender(line: Line) -> re.Match[str] | None:
    """Name and text of a stamped line; a colon inside quotes ends no name."""
    if not line.stamped:
        return None
    match = _SENDER.match(line.text.lstrip("\u200e"))
    if match is None:
        return None
    name = match["name"]
    for left, right in _QUOTES.items():
        if name.count(left) % 2 if left == right else name.count(left) > name.count(right):
            return None
    return match


def _by_program(source: Source, line: Line, name: str, counts: Counter[str]) -> bool:
    """Whether *name*, which comes once, is a sentence about somebody who speaks ("Mira changed the group name to")."""
    about = next((other for other in counts if other != name and name.startswith(f"{other} ")), None)
    rest = name[len(about) :].split() if about is not None and counts[name] == 1 else []
    if len(rest) < 2 or not rest[0].islower() or rest[0] in PREPOSITIONS:
        return False
    if rest[0] not in CHANGES:
        raise source.error(
            line.number,
            f"{short(name)} may be a contact or a note about {about}; delete the line or rename the contact",
        )
    return True


def _plain(source: Source, lines: list[tuple[int, str]]) -> Iterator[Turn]:
    """A line that names a speaker begins a turn; other lines go on with it."""
    named: dict[int, Candidate] = {}
    filled = [(number, words(line)) for number, line in lines if line.strip()]
    for number, line in filled:
        if match := NAMED.match(line):
            named[number] = Candidate(
                match["name"].removeprefix("[").removesuffix("]").strip() or match["name"], match["text"], number
            )
    names = Names(source, named.values(), unnamed=len(named) < len(filled))
    speaker, first = "", 0
    text: list[str] = []

    def turn() -> Turn:
        if not any(text):
            raise source.error(first, f"text is '', expected what {speaker} says")
        return Turn(speaker, " ".join(part for part in text if part))

    for number, line in filled:
        candidate = named.get(number)
        speaks = candidate is not None and names.speaks(candidate)
        names.check_inside(candidate.text if candidate and speaks else line, number)
        if candidate and speaks:
            if speaker:
                yield turn()
            speaker, first, text = candidate.name, number, [candidate.text]
        elif (stamp := DATED.match(line)) and _SENDER.match(line, stamp.end()):
            raise source.error(number, f"{short(line)} has a stamp, and the lines above have none; stamp all or none")
        elif not speaker:
            raise source.error(number, f"{short(line)} is not of the form 'Name: text'")
        else:
            text.append(line)
    if speaker:
        yield turn()
