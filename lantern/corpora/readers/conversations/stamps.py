"""Dates and times that chat programs write before a message, in any language and order."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_DAY = (
    r"(?:\d{1,4}\s?[./\-年년]\s?\d{1,2}(?:\s?[./\-月월]\s?\d{1,4})?[.日일]?"
    r"|\d{1,2}\.?\s(?:de\s)?[^\W\d_]{3,12}\.?,?\s(?:de\s)?\d{4}|\d{1,2}-[^\W\d_]{3,9}\.?-(?:\d{4}|\d{2})"
    r"|[^\W\d_]{3,12}\.?\s\d{1,2},?\s\d{4}|\d{4}\.?\s[^\W\d_]{3,12}\.?\s\d{1,2}\.?)"
)
_CLOCK = r"\d{1,2}(?:[:.]\d{2}|\s?h\s?\d{2})(?:[:.]\d{2})?(?:[.,]\d{1,6})?(?:Z|\s?[+-]\d{2}:?\d{2}|\sUTC)?"
_HALF = r"(?:[AaPp]\.?\s?[Mm]\.?(?!\w)|[صم](?!\w)|[πμ]\.?\s?μ\.?(?!\w)|[上下]午|오[전후])"
"""AM and PM."""
_BETWEEN = r"(?:[,،、T]|\s|[^\W\d_]{1,8}\.?|[–—-])"
_BEFORE_NAME = r"(?:\s*\]\s*|\s*[-–—|]\s+|\s*,\s+|:\s+|\s+)"
DATED = re.compile(
    rf"[\[(]?(?:[^\W\d_]{{2,10}}\.?,?\s)?(?:{_DAY}{_BETWEEN}{{1,6}}{_CLOCK}|{_CLOCK}\s?(?:{_HALF})?[,\s]\s?{_DAY})"
    rf"(?:\s?{_HALF})?(?P<more>\s[^\d:\[\]<>|]{{1,12}}?(?=\s[-–—]\s|\s?\]))?(?:\)\s*|{_BEFORE_NAME}|$)"
)
_TIMED = re.compile(
    rf"(?:[\[(]{_CLOCK}(?:\s?{_HALF})?[\])]\s*(?:[-–—]\s+)?|{_CLOCK}(?:\s?{_HALF})?(?:\s*[-–—|]\s+|\s+))"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chat."""

    number: int
    text: str
    """Without its stamp."""
    stamped: bool
    more: str = ""
    """Words between the time and the dash: part of the stamp in languages not known here."""
    bracket: bool = False


@dataclass(frozen=True, slots=True)
class Stamped:
    """A chat whose messages begin with a stamp."""

    lines: list[Line]
    dated: bool
    """The stamps have dates, not only times."""

    def unknown_words(self) -> str:
        """Words in stamps that differ from line to line, which no stamp does; "" if there are none."""
        different = Counter(line.more.strip() for line in self.lines if line.more)
        return ", ".join(different) if len(different) > 2 else ""


def split_stamps(lines: list[tuple[int, str]]) -> Stamped | None:
    """The *lines* with stamps taken off; None for a chat without stamps.

    Stamps with a date make times alone no stamps ("18:05 is late" is what somebody wrote).
    """
    clean = [(number, re.sub("[\u200f\u202a-\u202e\u2066-\u2069]", "", line).strip()) for number, line in lines]
    first = next((line.lstrip("\u200e") for _, line in clean if line), "")
    dated = [DATED.match(line.lstrip("\u200e")) for _, line in clean]
    pattern = DATED if any(dated) and (DATED.match(first) or _many(dated, clean)) else _TIMED
    if pattern is _TIMED and not _TIMED.match(first):
        return None
    found: list[Line] = []
    for number, line in clean:
        bare = line.lstrip("\u200e")
        match = pattern.match(bare)
        if match is None:
            found.append(Line(number, line, stamped=False))
        else:
            more = match.groupdict().get("more") or ""
            found.append(Line(number, bare[match.end() :], stamped=True, more=more, bracket=bare[:1] in "[("))
    return Stamped(found, pattern is DATED)


def _many(dated: list[re.Match[str] | None], lines: list[tuple[int, str]]) -> bool:
    """Whether stamps come often enough for what is above the first one to be a heading."""
    first = next(n for n, match in enumerate(dated) if match)
    heading = sum(bool(line) for _, line in lines[:first])
    return sum(match is not None for match in dated) > heading
