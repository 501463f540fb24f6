"""What a reply must look like: a number per class for every target utterance, as JSON or by token probabilities."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lantern.errors import UserError


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """Utterances and classes that one request asks about, and how the reply gives them."""

    count: int
    """Target utterances, numbered from 1 in the prompt."""
    classes: tuple[str, ...]
    elicitation: str = "json"
    """``json``, or what stands for a class whose token probabilities are read: ``letters``, or ``words``, the class
    itself."""

    @property
    def answers(self) -> tuple[str, ...] | None:
        """What stands for each class in a reply by token probabilities; None for JSON."""
        if self.elicitation == "json":
            return None
        return self.classes if self.elicitation == "words" else letters(self.classes)

    @property
    def numbers(self) -> list[str]:
        """The numbers of the target utterances, as the reply writes them."""
        return [str(n) for n in range(1, self.count + 1)]

    @property
    def schema(self) -> dict[str, Any] | None:
        """JSON schema in the strict subset that providers accept; None for token probabilities."""
        if self.answers is not None:
            return None
        vector = {
            "type": "object",
            "properties": {name: {"type": "number"} for name in self.classes},
            "required": list(self.classes),
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": dict.fromkeys(self.numbers, vector),
            "required": self.numbers,
            "additionalProperties": False,
        }

    @property
    def max_tokens(self) -> int:
        """Generous bound on the reply: a number is at most 6 tokens, a class name and its punctuation about 8."""
        if self.elicitation == "json":
            return 64 + self.count * (16 + 14 * len(self.classes))
        return 16 + self.count * (16 if self.elicitation == "words" else 8)

    def example(self, compact: bool = False) -> str:
        """A reply as it will probably be written, with each answer in turn; *compact*: without blanks."""
        if self.answers:
            blank, lines = "" if compact else " ", zip(self.numbers, itertools.cycle(self.answers))
            return "\n".join(f"{n}:{blank}{answer}" for n, answer in lines)
        return self.write([[0.15] * len(self.classes)] * self.count, compact)

    def write(self, vectors: Sequence[Sequence[float]], compact: bool = False) -> str:
        """The JSON reply that gives *vectors* ``[count, C]``."""
        content = {n: dict(zip(self.classes, vector)) for n, vector in zip(self.numbers, vectors, strict=True)}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":") if compact else None)

    @classmethod
    def of_response_format(cls, given: Mapping[str, Any] | None) -> ReplyShape | None:
        """The shape behind a stored ``response_format``; None where it holds no schema of Lantern's."""
        try:
            numbers = (given or {})["json_schema"]["schema"]["properties"]
            return cls(len(numbers), tuple(numbers["1"]["properties"]))
        except (KeyError, TypeError):
            return None


def letters(classes: Sequence[str]) -> tuple[str, ...]:
    """The letter of each class; one capital letter is one token for every tokenizer in use.

    Raises:
        UserError: more classes than letters.
    """
    if len(classes) > 26:
        raise UserError(f"llm.elicitation=letters can tell at most 26 classes apart, this label set has {len(classes)}")
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(classes)])


def check_words(classes: Sequence[str]) -> None:
    """Refuse classes that no reply by words can tell apart, whatever the tokens are.

    Raises:
        UserError: one of them begins another one, or with no letter.
    """
    for name in classes:
        if not name[:1].isalnum():
            raise UserError(
                f"llm.elicitation=words: the class {name!r} begins with no letter; take llm.elicitation=letters"
            )
        longer = [other for other in classes if other != name and other.casefold().startswith(name.casefold())]
        if longer:
            raise UserError(
                f"llm.elicitation=words cannot tell the classes {name!r} and {longer[0]!r} apart: one begins the "
                "other; take llm.elicitation=letters"
            )
