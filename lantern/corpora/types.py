"""Dialogues, utterances and label sets: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lantern.errors import UserError

MODALITIES = ("text", "audio", "visual")
DIMENSIONS = ("valence", "arousal", "dominance")


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

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, name: str) -> int:
        """Index of class *name*; an unknown name is an error, never mapped to the nearest one."""
        try:
            return self.classes.index(name)
        except ValueError:
            raise UserError(
                f"class {name!r} is not in label set {self.name!r}; its classes are {', '.join(self.classes)}"
            ) from None


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a dialogue, keyed by the corpus's own turn id."""

    id: str
    speaker: str
    text: str
    label: int | None = None
    """Index into the label set; ``None`` when the turn has no usable label (it stays in the transcript)."""
    scores: tuple[float | None, float | None, float | None] | None = None
    """Valence, arousal, dominance on the corpus scale; ``None`` where nobody rated it."""
    extra: dict[str, object] = field(default_factory=dict)
    """Anything else the importer kept (times, votes); JSON values only."""


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
