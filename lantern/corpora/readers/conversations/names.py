"""Whether the text before a colon is a speaker or the start of a sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lantern.corpora.readers.conversations.turns import Source, short
from lantern.corpora.readers.conversations.wordlists import ALONE, FUNCTION_WORDS, OPENERS, PARTICLES
from lantern.errors import UserError

NAMED = re.compile(r"(?P<name>[^\s:：][^:：\n]{0,79}?)\s*(?::(?=\s|$)|：)\s*(?P<text>.*)$")
"""``Name: text`` on one line. A colon inside a word (an address, a time) is none."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The start of a line that may name its speaker."""

    name: str
    text: str
    line: int
    marked: bool = False
    """A dash or ``>>`` before it says that somebody else begins to speak."""


class _Verdict(Enum):
    NAME = 1
    SPEECH = 2
    UNSURE = 3


class Names:
    """Tells the speakers of a file from sentences with a colon, by who speaks elsewhere, length and capitals.

    Args:
        candidates: all of the file.
        certain: names that the file marks otherwise, such as WebVTT voices.
        unnamed: some lines of the file name no speaker.
    """

    def __init__(
        self, source: Source, candidates: Iterable[Candidate], certain: Iterable[str] = (), unnamed: bool = True
    ) -> None:
        self.source, self.unnamed = source, unnamed
        self.declared = {name.casefold() for name in source.speakers}
        self.certain = {name.casefold() for name in certain} | self.declared
        every = list(candidates)
        self.counts = Counter(candidate.name.casefold() for candidate in every)
        self.names = {candidate.name for candidate in every}
        self._inside: re.Pattern[str] | None = None

    def known(self, name: str) -> bool:
        """Whether *name* speaks for certain: given by the user, a voice of the file, or a name that comes again."""
        key = name.casefold()
        if key in self.certain:
            return True
        return not self.declared and self.counts[key] > 1 and self._verdict(Candidate(name, "", 0)) is _Verdict.NAME

    def speaks(self, candidate: Candidate) -> bool:
        """Whether *candidate* is a speaker.

        Raises:
            UserError: neither is certain.
        """
        verdict = self._verdict(candidate)
        if verdict is _Verdict.UNSURE:
            raise self.unsure(candidate)
        return verdict is _Verdict.NAME

    def check_inside(self, text: str, line: int) -> None:
        """Refuse *text* inside of which somebody else of the file begins to speak ("Hi. OLEK: Hello.")."""
        if self._inside is None:
            known = [name for name in sorted(self.names, key=len, reverse=True) if self._begins(name)]
            self._inside = re.compile("|".join(self._pattern(name) for name in known) or "(?!)")
        if match := self._inside.search(text):
            raise self.source.error(line, f"{short(match[0])} begins to speak inside of a line; put it on its own line")

    def _begins(self, name: str) -> bool:
        return any(c.isalpha() for c in name) and self._verdict(Candidate(name, "", 0)) is _Verdict.NAME

    @staticmethod
    def _pattern(name: str) -> str:
        """*name* and a colon: after the end of a sentence, and in capitals after any word."""
        return rf"(?:{'' if name.isupper() else '(?<=[.?!…”)])'}(?<=.)\s+{re.escape(name)}\s*:(?=\s))"

    def unsure(self, candidate: Candidate) -> UserError:
        """The error for a *candidate* that may be a name or words."""
        return self.source.error(
            candidate.line,
            f"{short(candidate.name)} may be a speaker or words; write the speaker's name and a colon before the words "
            "or name all speakers with --speakers",
        )

    def _verdict(self, candidate: Candidate) -> _Verdict:
        name, key = candidate.name, candidate.name.casefold()
        if key in self.certain:
            return _Verdict.NAME
        if self.declared:
            return _Verdict.SPEECH
        count = self.counts[key]
        parts = [part.strip("\"'“”„«»()[].,!?;…").casefold() for part in name.split()]
        if not any(c.isalpha() for c in name):  # numbers, telephone numbers, emoji
            number = sum(c.isdigit() for c in name)
            return _Verdict.NAME if count > 1 or not 0 < number < 6 else _Verdict.UNSURE
        if len(parts) == 1 or set(parts) <= OPENERS:
            return self._single(candidate, parts, count)
        capitals = name.isupper() and not candidate.text.isupper()
        if capitals and candidate.text and len(parts) <= 4 and not re.search(r"[?!;,…]", name):
            return _Verdict.NAME
        # A short word with a point ("Dr. Holm", "Olek B.") is an abbreviation, not the end of a sentence.
        comma = re.search(r",\s+(\S)", name)
        broken = re.search(r"[?!;…]|\w{4,}\.\s", name) is not None or (comma is not None and comma[1].islower())
        small = any(part.islower() and bare not in PARTICLES for part, bare in zip(name.split(), parts, strict=True))
        function = any(part in FUNCTION_WORDS - PARTICLES for part in parts)
        if not small and not broken and len(parts) <= 5:
            return self._rare(count) if not function or count > 1 or name.istitle() else _Verdict.SPEECH
        few = len(parts) <= 3 and parts[0] not in FUNCTION_WORDS
        if not broken and (count > 2 or (count == 2 and few)):
            return _Verdict.NAME
        if count > 1:
            return _Verdict.UNSURE
        if len(parts) == 3 and parts[1] in ("on", "in", "at", "from", "with") and parts[0] not in FUNCTION_WORDS:
            return _Verdict.UNSURE  # a man on TV
        if broken or function or len(parts) > 3:
            return _Verdict.SPEECH
        lower = [other for other in self.names if other[:1].islower()]
        alike = name[:1].islower() and len(lower) == len(self.names)
        return _Verdict.NAME if alike and not self.unnamed else _Verdict.UNSURE

    def _single(self, candidate: Candidate, parts: list[str], count: int) -> _Verdict:
        letter = len(candidate.name) == 1 and not candidate.name.islower()
        if not letter and set(parts) <= OPENERS | ALONE:
            return _Verdict.SPEECH if count == 1 else _Verdict.UNSURE
        others = self.names - {candidate.name}
        if candidate.name.isupper() or candidate.marked or count > 1:
            return _Verdict.NAME
        if len(others) > 1 and all(other.isupper() for other in others):
            return _Verdict.UNSURE
        return self._rare(count)

    def _rare(self, count: int) -> _Verdict:
        """Of a name by its looks: not certain where it is the only one that comes once and lines go unnamed."""
        again = max(sum(n > 1 for n in self.counts.values()), len(self.certain))
        return _Verdict.UNSURE if count == 1 and self.unnamed and again > 1 else _Verdict.NAME
