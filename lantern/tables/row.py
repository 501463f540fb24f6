"""Read-only views of single utterances of a predictions table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lantern.errors import FailureKind


@dataclass(frozen=True, slots=True)
class FieldReply:
    """A view of what one receptive field said of one utterance."""

    band: int
    length: int
    position: int
    probabilities: list[float] | None = None
    """None when the field failed."""
    repaired: bool = False
    failure: FailureKind | None = None
    raw_sum: float | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A view of one utterance of a predictions table, for reading; probabilities are in the order of the classes."""

    dialogue: str
    utterance: str
    index: int
    """Position in the full transcript, 0-based."""
    speaker: str
    label: int | None
    """Gold class index; None when not labelled (such rows are never scored)."""
    scores: list[float | None] | None
    """Gold valence, arousal, dominance on the corpus scale."""
    vanilla: list[float]
    predicted_scores: list[float] | None = None
    """Vanilla valence, arousal, dominance on the corpus scale; None without a dimension head."""
    fields: list[FieldReply] | tuple[()] = ()
    """By band; empty before refinement."""
    weights: list[float] | None = None
    """Weight of [vanilla, band 0, ..., band T-1] in the merge; sums to 1."""
    merged: list[float] | None = None

    def explain(self, classes: Sequence[str]) -> str | None:
        """One sentence on how the merged prediction came about; None before the merge."""
        if self.merged is None:
            return None

        def top(vector: list[float]) -> str:
            best = max(range(len(vector)), key=vector.__getitem__)
            return f"{classes[best]} {vector[best]:.2f}"

        replies = {reply.band: reply.probabilities for reply in self.fields if reply.probabilities is not None}
        if not replies:
            return f"vanilla {top(self.vanilla)} is kept: no usable reply"
        text = f"vanilla {top(self.vanilla)}, merged {top(self.merged)}"
        if self.weights is None:
            return text
        heaviest = max(range(len(self.weights)), key=self.weights.__getitem__)
        source = "vanilla" if heaviest == 0 else f"band {heaviest - 1}, {top(replies[heaviest - 1])}"
        return f"{text}; most weight ({self.weights[heaviest]:.2f}) on {source}"
