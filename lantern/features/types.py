"""What an extractor reads and returns. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lantern.corpora.feature_files import FeatureCard


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance, and the source of its features."""

    row: int
    """Its index in corpus order."""
    id: str
    text: str = ""
    path: Path | None = None
    """A file, or a folder of frames; None for text."""
    start: float | None = None
    """Seconds from the beginning of *path*; None for the whole file."""
    end: float | None = None
    half: str = ""
    """``left`` or ``right`` where only that half of the picture shows the speaker."""

    @property
    def stamp(self) -> str:
        """Changes when the source of the features changes."""
        if self.path is None:
            return hashlib.sha256(self.text.encode()).hexdigest()[:16]
        try:
            status = self.path.stat()
        except OSError:
            return "gone"
        return f"{self.path}|{status.st_size}|{status.st_mtime_ns}|{self.start}|{self.end}|{self.half}"


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why an utterance has no features although it has a source."""

    reason: str


Result = np.ndarray | Unusable
"""A vector float ``[D]``, or why there is none."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An extractor by name with its settings; every worker process builds its own from it."""

    extractor: str
    model: str = ""
    """Folder or cached name of a model, for the extractors that take one."""
    download: bool = False
    """Whether *model* may be fetched from the network."""
    device: str = ""
    """``cpu`` or ``cuda`` for *model*; "" is a GPU where there is one."""


class Extractor(Protocol):
    """Makes vectors; one is built in every worker process."""

    card: FeatureCard
    """Extractor, version, layer, ``fitted_on`` and licence; dims and count are filled in later."""
    batch: int
    """How many items to extract at once."""

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One result per item, in their order."""
        ...
