"""Field in, chat messages out. The static part comes first so that providers can cache it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lantern.corpora.types import DIMENSIONS, LabelSet, Utterance
from lantern.errors import UserError

PRIORS = ("predicted", "none")


@dataclass
class PromptConfig:
    """A versioned prompt, one file under ``configs/prompt/``."""

    name: str = "???"
    version: int = 1
    """Raise it whenever the text changes; the text's hash is part of every result."""
    priors: str = "predicted"
    """``predicted`` shows the vanilla probabilities, ``none`` leaves them out."""
    dimensions: bool = True
    """Show valence, arousal and dominance (when the model predicts them)."""
    system: str = ""
    """System part; ``{classes}``, ``{scores}`` and ``{reply}`` stand for the paragraphs below."""
    scores: str = ""
    """What the dimension scores mean; ``{low}`` and ``{high}`` are the ends of the scale."""
    priors_note: str = ""
    """What the vanilla probabilities mean."""
    question: str = ""
    """Last line of the user part; ``{count}`` is the number of utterances."""

    def __post_init__(self) -> None:
        if self.priors not in (*PRIORS, "???"):
            raise UserError(f"prompt.priors={self.priors} is not one of {', '.join(PRIORS)}")

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of everything the LLM is told in any dialogue."""
        parts = (self.system, self.scores, self.priors_note, self.question, self.priors, str(self.dimensions))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the prompt may show of one utterance."""

    utterance: Utterance
    probabilities: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    """Predicted valence, arousal, dominance on the corpus scale."""


def quote(text: str) -> str:
    """*text* as a JSON string that cannot end its line, its quotes or the ``<dialogue>`` element."""
    quoted = json.dumps(" ".join(text.split()), ensure_ascii=False)
    return quoted.replace("<", "\\u003c").replace(">", "\\u003e")


class Prompt:
    """Renders receptive fields for one label set and one score scale."""

    def __init__(self, config: PromptConfig, labels: LabelSet, score_range: tuple[float, float] | None) -> None:
        self.config, self.labels = config, labels
        self._dimensions = config.dimensions and score_range is not None
        low, high = score_range or (0.0, 0.0)
        classes = "\n".join(f"- {name}: {labels.definitions.get(name, name)}" for name in labels.classes)
        references = [config.priors_note] if config.priors == "predicted" else []
        if self._dimensions:
            references.append(config.scores.format(low=f"{low:g}", high=f"{high:g}"))
        example = {"1": dict.fromkeys(labels.classes, round(1 / len(labels), 2))}
        reply = json.dumps(example, ensure_ascii=False)
        self._system = config.system.format(classes=classes, scores="\n".join(references).strip(), reply=reply).strip()

    def messages(self, turns: Sequence[Turn]) -> tuple[dict[str, str], ...]:
        """System and user message for the utterances of one field, numbered from 1."""
        lines = [f"{n}. {self._speaker(t)}: {quote(t.utterance.text)}{self._notes(t)}" for n, t in enumerate(turns, 1)]
        dialogue = "\n".join(["<dialogue>", *lines, "</dialogue>"])
        question = self.config.question.format(count=len(turns)).strip()
        return (
            {"role": "system", "content": self._system},
            {"role": "user", "content": f"{dialogue}\n{question}"},
        )

    @staticmethod
    def _speaker(turn: Turn) -> str:
        name = turn.utterance.speaker
        return name if name.replace(" ", "").isalnum() else quote(name)

    def _notes(self, turn: Turn) -> str:
        notes = []
        if self.config.priors == "predicted" and turn.probabilities is not None:
            pairs = zip(self.labels.classes, turn.probabilities)
            notes.append(", ".join(f"{name} {value:.2f}" for name, value in pairs))
        if self._dimensions and turn.scores is not None:
            notes.append(", ".join(f"{name} {value:.1f}" for name, value in zip(DIMENSIONS, turn.scores)))
        return f" [{'; '.join(notes)}]" if notes else ""

    def schema(self, count: int) -> dict[str, Any]:
        """JSON schema of the reply for *count* utterances, in the strict subset that providers accept."""
        vector = {
            "type": "object",
            "properties": {name: {"type": "number"} for name in self.labels.classes},
            "required": list(self.labels.classes),
            "additionalProperties": False,
        }
        keys = [str(n) for n in range(1, count + 1)]
        return {
            "type": "object",
            "properties": dict.fromkeys(keys, vector),
            "required": keys,
            "additionalProperties": False,
        }

    def max_tokens(self, count: int) -> int:
        """Generous bound on the reply: a number is at most 6 tokens, a class name and its punctuation about 8."""
        return 64 + count * (16 + 14 * len(self.labels))

    def repair(self, error: str, count: int) -> str:
        """What the LLM is told when its reply could not be used."""
        return (
            f"Your reply could not be used: {error}. Return only one JSON object with the keys "
            f'"1" to "{count}"; each holds one number from 0 to 1 for every one of: {", ".join(self.labels.classes)}.'
        )
