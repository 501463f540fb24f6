"""Subtitles: SRT and WebVTT, with names before a colon, in voice tags, after ``>>`` or a dash, or on their own line."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from lantern.corpora.readers.conversations.names import NAMED, Candidate, Names
from lantern.corpora.readers.conversations.turns import Source, Turn, short, words
from lantern.corpora.types import seconds
from lantern.errors import UserError

_TIME = re.compile(r"(?:\d{1,4}:)?\d{1,2}:\d{1,2}[,.]\d{1,3}|\d{1,4}:\d{2}:\d{2}")
_TIME_LINE = re.compile(r"^\s*[\d:.,]*\d\s*-->")
_NOTE = re.compile(r"^(?:NOTE|STYLE|REGION)(?:\s|$)")
_TAG = re.compile(
    r"</?(?:[cibusv]|rt|ruby|lang|font|span|em|strong)(?:[.\s][^<>]*)?>|<[\d:.]+>|\{\\[^}]*\}", re.IGNORECASE
)
_BREAK = re.compile(r"<br\s*/?>|\\[Nn]", re.IGNORECASE)
_VOICE = re.compile(r"<v(?:\.[\w.-]+)*\s+(?P<name>[^<>]+)>|(?P<end></v\s*>)|(?P<broken><v[.\s][^<>]*$)", re.IGNORECASE)
_CHEVRONS = re.compile(r"(?:^|\s)>>+\s*")
_DASH = re.compile(r"^[-–—‐‑−]\s*(?![-–—‐‑−\d])(?=\S)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{2,10});")
_BRACKETS = re.compile(r"^[\[(](?P<name>[^\[\]()]{1,60})[\])]:?\s*(?P<text>.*)$")
_SOUND = re.compile(r"^(?:[\[(][^\[\]()]*[\])]|[♪♫].*[♪♫]|[♪♫]+)$")
_BEFORE_DASH = re.compile(r"^(?P<name>\S.{0,40}?)\s+[-–—]\s+\S")
_ASIDE = re.compile(r"(?<=\S)\s*[\[(][^\[\]()]*[\])]$")
"""How somebody speaks: ``MIRA (laughing)``."""


@dataclass(frozen=True, slots=True)
class _Cue:
    line: int
    """Number of the line with the times."""
    times: tuple[float, float]
    lines: list[tuple[int, str]]


@dataclass(slots=True)
class _Part:
    """A stretch of a cue that one person says."""

    text: str
    line: int
    voice: str = ""
    change: str = ""
    """The dash or ``>>`` before it."""
    below: str = ""
    """What comes next in the cue."""


def read_subtitles(source: Source) -> Iterator[Turn]:
    """A turn for each speaker of each cue."""
    cues = _cues(source)
    if source.path.suffix.lower() == ".txt" and all(len(c.lines) > 1 and ":" not in c.lines[0][1] for c in cues):
        for cue in cues:  # Teams: the name is the line below the times
            yield Turn(words(cue.lines[0][1]), words(" ".join(line for _, line in cue.lines[1:])), times=cue.times)
        return
    parts = [_parts(source, cue) for cue in cues]
    every = [part for some in parts for part in some]
    candidates = [c for part in every if (c := _candidate(part) or _own_line(part)) is not None]
    colons = {candidate.name.casefold() for candidate in candidates}
    candidates += [c for part in every if (c := _bracketed(part)) is not None and c.name.casefold() in colons]
    voices = {part.voice for part in every if part.voice}
    for form in (_own_line, _bracketed):  # a form that every cue has
        found = [form(some[0]) for some in parts if some]
        if all(found):
            voices |= {candidate.name for candidate in found if candidate}
    names = Names(source, candidates, voices)
    speaker = ""
    for cue, some in zip(cues, parts, strict=True):
        turns: list[tuple[str, list[str]]] = []
        for part in some:
            named = _named(names, part)
            if not part.voice:
                names.check_inside(named[1] if named else part.text, part.line)
            if named is not None:
                speaker, text = named
                turns.append((speaker, [text]))
            elif _SOUND.match(part.text):
                source.left_out["sounds and songs"] += 1
            elif part.change:
                shown = short(part.change + part.text)
                raise source.error(part.line, f"{shown} does not say who speaks; write '{part.change}Name: text'")
            elif not speaker:
                raise source.error(part.line, "the first cue names no speaker; write 'Name: text' or <v Name>")
            else:
                turns = turns or [(speaker, [])]
                turns[-1][1].append(part.text)
        for name, said in turns:
            if text := words(" ".join(said)):
                yield Turn(name, text, times=cue.times)


def _cues(source: Source) -> list[_Cue]:
    """Cues by their time lines: blank lines neither end a cue nor are needed between two."""
    lines = source.lines()
    vtt = source.path.suffix.lower() == ".vtt" or next((t for _, t in lines if t.strip()), "").startswith("WEBVTT")
    starts = [n for n, (_, line) in enumerate(lines) if _TIME_LINE.match(line)]
    if not starts:
        raise UserError(f"{source.path}: no line 'hh:mm:ss,mmm --> hh:mm:ss,mmm'")
    heads = _heads(source, lines, starts, vtt)
    for number, line in lines[: heads[0]]:
        if line.strip() and not vtt:
            raise source.error(number, f"{short(line)} is above the first time; delete it or give it a time")
    cues = []
    for start, stop in zip(starts, [*heads[1:], len(lines)], strict=True):
        body: list[tuple[int, str]] = []
        note = blank = False
        for number, line in lines[start + 1 : stop]:
            text = line.strip()
            note = bool(text) and (note or (vtt and blank and _NOTE.match(text) is not None))
            blank = not text
            if text and not note:
                body += [(number, piece) for piece in _BREAK.split(text)]
        cues.append(_Cue(lines[start][0], _times(source, *lines[start]), body))
    return cues


def _heads(source: Source, lines: list[tuple[int, str]], starts: list[int], vtt: bool) -> list[int]:
    """Where each cue begins: at its number or identifier if the line above its times is one, else at its times."""
    above = [lines[start - 1][1].strip() if start else "" for start in starts]
    apart = [start < 2 or not lines[start - 2][1].strip() for start in starts]
    numbered, named = above[0].isdecimal(), above[0] != "" and not above[0].startswith("WEBVTT")
    heads = []
    last: str | None = None
    for start, text, alone in zip(starts, above, apart, strict=True):
        if start - 1 in starts:  # a cue without words
            text = ""
        number = text.isdecimal() and (numbered or alone)
        if number and not alone and last is not None and text.lstrip("0") != str(int(last[-9:]) + 1):
            raise source.error(
                lines[start][0] - 1,
                f"{short(text)} may be words or the number of the next cue; number the cues in order",
            )
        identifier = number or (vtt and alone and bool(text))
        if identifier and not number and " " in text and not named:
            raise source.error(
                lines[start][0] - 1,
                f"{short(text)} may be words or the name of the next cue; delete the blank line above it",
            )
        heads.append(start - 1 if identifier else start)
        last = text if number else None if not numbered else last
    return heads


def _times(source: Source, number: int, line: str) -> tuple[float, float]:
    start, _, rest = line.partition("-->")
    stamps = [(part.split() or [""])[0] for part in (start, rest)]
    first, last = (seconds(stamp) if _TIME.fullmatch(stamp) else None for stamp in stamps)
    if first is None or last is None:
        raise source.error(number, f"{line.strip()!r} is not 'hh:mm:ss,mmm --> hh:mm:ss,mmm'")
    if last < first:
        raise source.error(number, f"{line.strip()!r} ends before it starts")
    return first, last


def _plain(text: str) -> str:
    """*text* without tags, with entities decoded."""
    return words(_ENTITY.sub(lambda match: html.unescape(match[0]), _TAG.sub("", text)))


def _parts(source: Source, cue: _Cue) -> list[_Part]:
    """The cue cut at voice tags, or at lines and ``>>``; a voice goes on until another tag."""
    parts: list[_Part] = []
    tagged = any(_VOICE.search(line) for _, line in cue.lines)
    voice, new = "", False
    for number, line in cue.lines:
        if not tagged:
            parts += _untagged(number, _plain(line))
            continue
        cut = 0
        for match in [*_VOICE.finditer(line), None]:
            text = _plain(line[cut : match.start() if match else len(line)])
            if voice:
                text = _DASH.sub("", text)
            elif any(c.isalnum() for c in text):
                raise source.error(number, f"{short(text)} is outside of the voice tags; write <v Name> before it")
            if not voice:
                pass
            elif text and new:
                parts.append(_Part(text, number, voice))
                new = False
            elif text:
                parts[-1].text += f" {text}"
            if match is None:
                break
            if match["broken"] or (not match["end"] and not _plain(match["name"])):
                raise source.error(number, f"{short(match[0])} is not a voice tag; write <v Name>")
            voice, new, cut = "" if match["end"] else _plain(match["name"]), True, match.end()
    for part, following in pairwise(parts):
        part.below = following.text
    return parts


def _untagged(number: int, line: str) -> Iterator[_Part]:
    for n, piece in enumerate(_CHEVRONS.split(line)):
        text = piece.strip()
        dash = _DASH.match(text)
        if text:
            yield _Part(text[dash.end() :] if dash else text, number, change=">> " if n else "- " if dash else "")


def _candidate(part: _Part) -> Candidate | None:
    """The name before a colon."""
    match = None if part.voice else NAMED.match(part.text)
    if match is None:
        return None
    name = _ASIDE.sub("", match["name"])
    name = name[1:-1].strip() or name if name[0] + name[-1] in ("[]", "()") else name
    return Candidate(name, match["text"] or part.below, part.line, marked=bool(part.change))


def _own_line(part: _Part) -> Candidate | None:
    """A name in capitals without a colon, alone on the line above the words."""
    alone = part.below and part.text.isupper() and not part.below.isupper() and len(part.text.split()) <= 3
    if part.voice or not alone or part.text[-1] in ".?!,;:…-":
        return None
    return Candidate(part.text.strip("[]()"), part.below, part.line)


def _bracketed(part: _Part) -> Candidate | None:
    """A name in brackets before the words."""
    match = _BRACKETS.match(part.text)
    return Candidate(match["name"], match["text"], part.line) if match and match["text"] else None


def _named(names: Names, part: _Part) -> tuple[str, str] | None:
    """Speaker and words of a part that says who speaks; None where it does not."""
    if part.voice:
        again = NAMED.match(part.text)
        return part.voice, again["text"] if again and again["name"].casefold() == part.voice.casefold() else part.text
    candidate = _candidate(part)
    if candidate is not None and names.speaks(candidate):
        return candidate.name, NAMED.match(part.text)["text"]  # type: ignore[index]
    bracket = _BRACKETS.match(part.text)
    if bracket is not None and names.known(bracket["name"]):
        return bracket["name"], bracket["text"]
    alone = _own_line(part)
    if alone is not None and names.known(alone.name):
        return alone.name, ""
    other = _BEFORE_DASH.match(part.text)
    if other is not None and names.counts[other["name"].casefold()]:
        raise names.unsure(Candidate(other["name"], part.text, part.line))
    if not bracket and (alone or (part.below and names.known(part.text))):
        raise names.unsure(Candidate(part.text, part.below, part.line))
    return None
