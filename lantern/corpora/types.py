"""Dialogues, utterances and label sets: plain data, no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from lantern.errors import UserError

MODALITIES = ("text", "audio", "visual")
"""Every modality, in the order of corpus folders, reports and commands. The one list: add a modality here."""
DIMENSIONS = ("valence", "arousal", "dominance")
PARTS = ("train", "dev", "test")
"""The splits of a corpus and the parts of a protocol."""

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:[.,]\d+)?)")


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A named, counted list of classes; the position in *classes* is the label's index."""

    name: str
    classes: tuple[str, ...]
    definitions: dict[str, str] = field(default_factory=dict)
    """One line per class, shown to the LLM."""

    def __post_init__(self) -> None:
        for name in (self.name, *self.classes):
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"label set {self.name!r}: {name!r} is not a name; give words")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise UserError(f"label set {self.name!r} needs at least two different classes, got {list(self.classes)}")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LabelSet:
        """The label set that ``dataclasses.asdict`` wrote as JSON."""
        return cls(values["name"], tuple(values["classes"]), dict(values.get("definitions", {})))

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a dialogue, keyed by the corpus's own turn id."""

    id: str
    speaker: str
    text: str
    label: int | None = None
    """Index into the label set; ``None`` when the turn has no usable label (it stays in the transcript)."""
    scores: tuple[float | None, float | None, float | None] | None = None
    """Valence, arousal, dominance on the corpus scale; ``None`` where it was not rated."""
    extra: dict[str, object] = field(default_factory=dict)
    """Anything else the importer kept (times, votes); JSON values only."""

    @property
    def times(self) -> tuple[float | None, float | None]:
        """Start and end in seconds; ``None`` where the corpus does not say."""
        return seconds(self.extra.get("start")), seconds(self.extra.get("end"))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An ordered conversation."""

    id: str
    utterances: tuple[Utterance, ...]
    session: str | None = None
    """Recording session or episode; folds and held-out development data are cut along it where it exists."""

    def __len__(self) -> int:
        return len(self.utterances)

    def __str__(self) -> str:
        """The transcript, a line per turn."""
        return "\n".join(f"{u.speaker}: {u.text}" for u in self.utterances)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Distinct speakers in the order in which they first speak."""
        return tuple(dict.fromkeys(u.speaker for u in self.utterances))


def seconds(value: object) -> float | None:
    """Seconds of a number or of ``hh:mm:ss.mmm`` (also ``mm:ss``, also with a comma); ``None`` for anything else."""
    if isinstance(value, str):
        match = _CLOCK.fullmatch(value.strip())
        if match is None:
            return None
        return 3600 * int(match[1] or 0) + 60 * int(match[2] or 0) + float(match[3].replace(",", "."))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)
