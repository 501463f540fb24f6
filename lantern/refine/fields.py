"""Receptive fields, overlapping windows in which every utterance lies exactly ``t`` times, and questions about them."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.refine.shape import ReplyShape
from lantern.refine.types import Request


@dataclass(frozen=True, slots=True)
class Field:
    """A window of consecutive utterances ``[start, stop)`` of one dialogue, cut to ``[0, L)``."""

    start: int
    stop: int
    origin: int
    """Where the uncut window begins; negative for fields that hang over the dialogue's start."""
    stride: int
    coverage: int
    causal: bool = False
    """Only the last utterance is a target; the others are what came before it."""

    @property
    def targets(self) -> range:
        """Indices of the utterances that the LLM is to judge."""
        return range(self.stop - 1 if self.causal else self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def shown(self, length: int, before: int = 0, after: int = 0) -> range:
        """Indices of what the prompt shows: the window, and so many utterances more on each side of it, as far as a
        dialogue of *length* utterances has them."""
        return range(max(self.start - before, 0), min(self.stop + after, length))

    def band(self, index: int) -> int:
        """0 when utterance *index* is in the newest stretch of the window, ``t - 1`` in the oldest.

        Of a causal field: 0 for the shortest context, ``t - 1`` for the longest.
        """
        if index not in self.targets:
            raise ValueError(f"utterance {index} is no target of the field [{self.start}, {self.stop})")
        if self.causal:
            return (index - self.origin) // self.stride
        return self.coverage - 1 - (index - self.origin) // self.stride


def receptive_fields(length: int, stride: int, coverage: int, causal: bool = False) -> list[Field]:
    """Fields of a dialogue of *length* utterances.

    Width ``w = coverage * stride``; origins are ``-(w - stride), ..., 0, stride, ...`` while smaller than *length*.
    Each utterance lies in exactly *coverage* fields, once per band; no field is empty; there are
    ``ceil(length / stride) + coverage - 1`` of them, in order of their origin.

    With *causal*, no field shows later utterances: each utterance is the last one of its *coverage* fields, which are
    ``stride, 2 * stride, ..., w`` utterances long, cut to the dialogue.
    """
    if stride < 1 or coverage < 1:
        raise ValueError(f"stride and coverage must be at least 1, got {stride} and {coverage}")
    width = stride * coverage
    if causal:
        spans = [(i + 1, i + 1 - n * stride) for i in range(length) for n in range(1, coverage + 1)]
        return [Field(max(origin, 0), stop, origin, stride, coverage, causal=True) for stop, origin in spans]
    return [
        Field(max(origin, 0), min(origin + width, length), origin, stride, coverage)
        for origin in range(stride - width, length, stride)
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """A receptive field with the requests that ask about its target utterances, or about one of them."""

    field: Field
    targets: tuple[int, ...]
    """Indices, in the dialogue, of the utterances that it asks about."""
    rows: tuple[int, ...]
    """Their rows in the predictions table."""
    shape: ReplyShape
    requests: tuple[Request, ...]
    """One per sample."""
    blank: Request | None = None
    """The same prompt about an empty turn, whose answer is divided out of the others; the same for many questions."""

    @property
    def sent(self) -> tuple[Request, ...]:
        """All requests that the answer needs."""
        return self.requests if self.blank is None else (*self.requests, self.blank)
