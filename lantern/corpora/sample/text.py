"""Words of the made-up dialogues, all written for Lantern; no line comes from a corpus.

``lines.txt`` has a section ``= name`` per scene. Its lines start with their kind: a class, ``>`` for an opening, ``?``
for a line that fits any emotion. The lines of ``= anywhere`` fit every scene, and any speaker of a scene can say any of
its lines. ``{o}`` is another speaker, ``{n}`` a small number, ``{d}`` a day.
"""

from __future__ import annotations

from pathlib import Path

OPENERS: dict[str, tuple[str, ...]] = {
    "happy": ("Aw.", "Oh, good.", "Mm, yes."),
    "sad": ("Oh.", "I don't know.", "Well..."),
    "neutral": ("Right.", "Yes.", "Um,"),
    "angry": ("No!", "Excuse me?", "Oh, really?"),
    "excited": ("Yes!", "Oh wow.", "Guess what!"),
    "frustrated": ("Ugh.", "Again.", "Oh, for heaven's sake."),
}
DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Saturday", "Sunday")
_KINDS = {name[:3]: name for name in OPENERS} | {">": "opening", "?": "ambiguous"}


def _sections() -> dict[str, dict[str, tuple[str, ...]]]:
    sections: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in Path(__file__).with_name("lines.txt").read_text(encoding="utf-8").splitlines():
        kind, text = line.split(" ", 1)
        if kind == "=":
            section = sections.setdefault(text, {})
        else:
            section[_KINDS[kind]] = (*section.get(_KINDS[kind], ()), text)
    return sections


SCENES = _sections()
"""Per scene its lines by class, and under ``opening`` those that start it."""
GENERIC = SCENES.pop("anywhere")
"""Lines by class that fit every scene."""
AMBIGUOUS = GENERIC.pop("ambiguous")
"""Lines that fit any emotion."""
