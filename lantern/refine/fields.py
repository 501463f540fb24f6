"""Receptive fields: overlapping windows in which every utterance lies exactly ``t`` times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """A window of consecutive utterances ``[start, stop)`` of one dialogue, cut to ``[0, L)``."""

    start: int
    stop: int
    origin: int
    """Where the uncut window begins; negative for fields that hang over the dialogue's start."""
    stride: int
    coverage: int

    def __len__(self) -> int:
        return self.stop - self.start

    def band(self, index: int) -> int:
        """0 when utterance *index* is in the newest stretch of the window, ``t - 1`` in the oldest."""
        if not self.start <= index < self.stop:
            raise ValueError(f"utterance {index} is not in the field [{self.start}, {self.stop})")
        return self.coverage - 1 - (index - self.origin) // self.stride


def receptive_fields(length: int, stride: int, coverage: int) -> list[Field]:
    """Fields of a dialogue of *length* utterances, in order of their origin.

    Width ``w = coverage * stride``; origins are ``-(w - stride), ..., 0, stride, ...`` while smaller than *length*.
    Each utterance lies in exactly *coverage* fields, once per band; no field is empty; there are
    ``ceil(length / stride) + coverage - 1`` of them.
    """
    if stride < 1 or coverage < 1:
        raise ValueError(f"stride and coverage must be at least 1, got {stride} and {coverage}")
    width = stride * coverage
    return [
        Field(max(origin, 0), min(origin + width, length), origin, stride, coverage)
        for origin in range(stride - width, length, stride)
    ]
