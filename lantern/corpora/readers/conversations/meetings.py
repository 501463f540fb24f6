"""Transcripts of meetings: Zoom's chat; name and time above or before the words (Otter, Rev, Teams, Meet)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from lantern.corpora.readers.conversations.names import NAMED, Candidate, Names
from lantern.corpora.readers.conversations.turns import Source, Turn, short, words
from lantern.corpora.types import seconds

Lines = list[tuple[int, str]]
_DIRECTIONS = (
    ("from", "to"),
    ("von", "an"),
    ("de", "à|a|para|pour"),
    ("da", "a|per"),
    ("van", "aan|naar"),
    ("från", "till"),
    ("fra", "til"),
    ("od", "do"),
)
_ZOOM = [
    re.compile(
        rf"^(?:\d{{4}}-\d\d-\d\d\s+)?\d{{1,2}}:\d\d(?::\d\d)?(?:\s?[AaPp][Mm])?\s+{start}\s+"
        rf"(?P<name>[^:\n]+?)(?:\s+(?:{end})\s+[^:\n]*?)?\s*:(?:\s+(?P<text>.*))?$",
        re.IGNORECASE,
    )
    for start, end in _DIRECTIONS
]
_REACTION = re.compile(r"^(?:Reacted to|Removed a .{1,40} reaction from) [\"“].*", re.IGNORECASE)
_QUOTED = re.compile(r"^Replying to [\"“][^\"”]*[\"”]:?\s*", re.IGNORECASE)
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_HALF = r"(?:\s?[AaPp]\.?[Mm]\.?)?"
_DAY = r"(?:(?:today|yesterday) at |\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? )?"
_NAME = r"(?P<name>[^\s\d:\[(<>=|][^:\n\t\[(|]{0,79}?)"
_HEADERS = {
    "name: (time) text": re.compile(
        rf"^{_NAME}\s*:?\s*[\[(]{_DAY}(?P<time>{_TIME}){_HALF}[\])]\s*:?(?P<text>(?:\s.*)?)$"
    ),
    "name: <tab> time text": re.compile(
        rf"^{_NAME}\s*:?[ ]?\t\s*(?P<time>{_TIME}){_HALF}(?:\s*:)?(?P<text>(?:\s.*)?)$"
    ),
    "[name] time text": re.compile(
        rf"^\[(?P<name>[^\d\[\]\n][^\[\]\n]{{0,79}})\]:?\s+(?P<time>{_TIME}){_HALF}(?P<text>(?:\s.*)?)$"
    ),
    "name, two blanks, time": re.compile(rf"^{_NAME}\s{{2,}}{_DAY}(?P<time>{_TIME}){_HALF}(?P<text>)$", re.IGNORECASE),
    "name - time": re.compile(rf"^{_NAME}\s*[|·•–—,-]\s*{_DAY}(?P<time>{_TIME}){_HALF}(?P<text>)$", re.IGNORECASE),
    "name time": re.compile(rf"^{_NAME}\s{_DAY}(?P<time>{_TIME}){_HALF}(?P<text>)$", re.IGNORECASE),
    "name: time text": re.compile(rf"^{_NAME}\s*:[ ]+(?P<time>{_TIME}){_HALF}(?P<text>\s.*|)$"),
}
"""Where the name and the time of a turn stand; the words follow, or are on the lines below."""
_RULE = re.compile(r"={5,}$")
_TIME_ALONE = re.compile(r"^(?:\d{1,2}:\d{2}:\d{2}|[\[(](?:\d{1,2}:)?\d{1,2}:\d{2}[\])]:?)$")
_CLOSING = re.compile(
    r"^(?:(?:transcription|meeting) ended after .*|this editable transcript was computer generated .*|(?:transcribed by )?https://otter\.ai/?)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    time: str
    text: str


def read_zoom(source: Source, lines: Lines) -> Iterator[Turn] | None:
    """The messages of Zoom's chat, whoever they were sent to; None for a file of another form."""
    filled = [(number, line.strip()) for number, line in lines if line.strip()]
    pattern = next((pattern for pattern in _ZOOM if filled and pattern.match(filled[0][1])), None)
    return None if pattern is None else _zoom(source, filled, pattern)


def read_headed(source: Source, lines: Lines) -> Iterator[Turn] | None:
    """Turns that begin with a name and a time; None for a file of another form."""
    filled = [(number, line.strip("\u200e \t")) for number, line in lines if line.strip("\u200e \t")]
    for style, pattern in _HEADERS.items():
        headers = {
            n: _Header(words(m["name"]), m["time"], m["text"].strip())
            for n, line in filled
            if (m := pattern.match(line))
        }
        if headers and _sure(style, headers, filled):
            return _headed(source, filled, headers, style.endswith(" text"))
    return None


def without_heading(source: Source, lines: Lines) -> Lines:
    """The *lines* without Discord's heading in rules, Google Meet's above "Transcript", and times on their own line."""
    rules = [place for place, (_, line) in enumerate(lines) if _RULE.match(line.strip())]
    headings = {place for top, end in zip(rules[::2], rules[1::2], strict=False) for place in range(top, end + 1)}
    if rules and len(rules) % 2 == 0 and not any(line.strip() for _, line in lines[: rules[0]]):
        lines = [(number, "" if place in headings else line) for place, (number, line) in enumerate(lines)]
        source.left_out["heading"] += 1
    start = 0
    for place, (_, line) in enumerate(lines[:60]):
        if NAMED.match(line.strip()):
            break
        if line.strip().casefold().endswith("transcript"):
            start = place + 1
    kept = []
    for place, (number, line) in enumerate(lines):
        text = line.strip()
        time = _TIME_ALONE.match(text) and (place == 0 or not lines[place - 1][1].strip() or place == start)
        if place < start or time or _CLOSING.match(text):
            if text and not time:
                source.left_out["heading"] += 1
            continue
        kept.append((number, line))
    return kept


def _zoom(source: Source, lines: Lines, pattern: re.Pattern[str]) -> Iterator[Turn]:
    messages: list[tuple[str, list[str]]] = []
    for _, line in lines:
        if match := pattern.match(line):
            messages.append((words(match["name"]), [match["text"] or ""]))
        else:
            messages[-1][1].append(line)
    for name, parts in messages:
        text = words(_QUOTED.sub("", words(" ".join(parts))))
        if not text or _REACTION.match(text):
            source.left_out["reaction or empty"] += 1
        else:
            yield Turn(name, text)


def _sure(style: str, headers: dict[int, _Header], lines: Lines) -> bool:
    """Whether *headers* are those of the turns, not words that end in or begin with a time."""
    first = lines[0][0]
    if first not in headers and (len(headers) < 2 or any(NAMED.match(line) for n, line in lines if n < min(headers))):
        return False
    if style != "name: time text":
        below = {number: following for (number, _), (following, _) in pairwise(lines)}
        # A header without words must have some below it.
        return all(header.text or below.get(n, n) not in headers for n, header in headers.items()) or len(headers) > 2
    if any(NAMED.match(line) and number not in headers for number, line in lines):
        return False
    times = [seconds(header.time) or 0.0 for header in headers.values()]
    rising = times == sorted(times)
    hours = all(header.time.count(":") == 2 for header in headers.values())
    return rising and any(header.text for header in headers.values()) and (hours or times[0] < 60 or len(times) > 2)


def _headed(source: Source, lines: Lines, headers: dict[int, _Header], inline: bool) -> Iterator[Turn]:
    candidates = {n: Candidate(header.name, header.text or "…", n, marked=True) for n, header in headers.items()}
    others = {
        n: Candidate(m["name"], m["text"], n) for n, line in lines if n not in headers and (m := NAMED.match(line))
    }
    names = Names(source, [*candidates.values(), *others.values()])
    known = {header.name.casefold() for header in headers.values()}
    inline = inline and any(header.text for header in headers.values())
    speaker, first = "", 0
    text: list[str] = []
    for number, line in [*lines, (0, "")]:
        candidate = candidates.get(number)
        if not number or (candidate is not None and names.speaks(candidate)):
            if speaker and any(text):
                yield Turn(speaker, words(" ".join(text)))
            elif speaker:
                source.left_out[f"without words (line {first})"] += 1
            if candidate is not None:
                speaker, first, text = candidate.name, number, [headers[number].text]
            continue
        other = others.get(number)
        if other is not None and (other.name.casefold() in known or (inline and names.speaks(other))):
            raise source.error(number, f"{short(line)} has no time, and the other turns have; give it one")
        if speaker:
            text.append(line)
        else:
            source.left_out["heading"] += 1
