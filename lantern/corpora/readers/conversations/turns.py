"""What every reader of conversations takes and gives."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.text_files import read_text
from lantern.errors import UserError


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read."""

    path: Path
    left_out: Counter[str]
    """Lines that are no utterance, by kind."""
    speakers: tuple[str, ...] = ()
    """Everybody who speaks; empty when the file alone decides."""

    def lines(self) -> list[tuple[int, str]]:
        """Lines with their numbers, without ends of lines."""
        # Not str.splitlines: it would also cut at separators inside a text.
        text = read_text(self.path).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
        return list(enumerate(text.split("\n"), 1))

    def error(self, line: int, message: str) -> UserError:
        """An error at *line*."""
        return UserError(f"{self.path}, line {line}: {message}")


@dataclass(frozen=True, slots=True)
class Turn:
    """An utterance of a conversation."""

    speaker: str
    text: str
    dialogue: str = ""
    id: str = ""
    times: tuple[float, float] | None = None
    """Start and end in seconds."""


def short(text: str) -> str:
    """The start of *text*, quoted, for a message in one line."""
    return repr(text.strip()[:40])


def words(text: str) -> str:
    """*text* with one blank between its words and without invisible marks of direction."""
    return " ".join(re.sub("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text).split())
