"""Words in several languages by which names, messages and placeholders are told apart; the lists are in words.txt."""

from __future__ import annotations

from pathlib import Path


def _lists() -> dict[str, frozenset[str]]:
    lists: dict[str, set[str]] = {}
    kind = ""
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            _, name, kind = line.split(" ")
            lists[name] = set()
        elif line and not line.startswith("#"):
            lists[name] |= set(line.split()) if kind == "words" else {line.casefold()}
    return {name: frozenset(words) for name, words in lists.items()}


_LISTS = _lists()
PARTICLES = _LISTS["PARTICLES"]
"""Small words inside of names."""
FUNCTION_WORDS = _LISTS["FUNCTION_WORDS"]
ALONE = _LISTS["ALONE"]
"""Function words that are nobody's name, as Will and May may be."""
PREPOSITIONS = _LISTS["PREPOSITIONS"]
CHANGES = _LISTS["CHANGES"]
"""What a chat program says that somebody did."""
OPENERS = _LISTS["OPENERS"]
"""Words that open a sentence before a colon."""
ATTACHED = _LISTS["ATTACHED"]
"""What follows the name of a file, in parentheses."""
NO_MESSAGE = _LISTS["NO_MESSAGE"]
"""What stands in place of a message, without the last point."""
