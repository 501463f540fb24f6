"""The facts about a corpus that a run keeps, so that its model can be used without the corpus. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.folder import Corpus
from lantern.corpora.types import LabelSet
from lantern.errors import UserError
from lantern.files import write_json


@dataclass(frozen=True, slots=True)
class CorpusCard:
    """Label set, score scale and feature cards of the corpus that a model was trained on; no text."""

    name: str
    label_set: LabelSet
    score_range: tuple[float, float] | None
    features: dict[str, FeatureCard]
    """Per modality of the corpus."""

    @classmethod
    def of(cls, corpus: Corpus) -> CorpusCard:
        """The card of *corpus*."""
        cards = {name: replace(card, fits=()) for name, card in corpus.cards.items()}
        return cls(corpus.name, corpus.label_set, corpus.score_range, cards)

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> CorpusCard:
        """Read what :meth:`save` wrote; anything else is a UserError."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            scale = values["score_range"]
            return cls(
                name=values["name"],
                label_set=LabelSet.from_json(values["label_set"]),
                score_range=None if scale is None else (float(scale[0]), float(scale[1])),
                features={name: FeatureCard(**{**card, "fits": ()}) for name, card in values["features"].items()},
            )
        except FileNotFoundError:
            raise UserError(f"{path} is missing: repeat the command of that run; nothing is trained twice") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a corpus card ({type(error).__name__}: {error})") from None
