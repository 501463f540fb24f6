"""Field in, chat messages out. The static part comes first so that providers can cache it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from lantern.corpora.types import DIMENSIONS, Dialogue, LabelSet, Utterance
from lantern.errors import UserError, did_you_mean
from lantern.refine.shape import ReplyShape, check_words
from lantern.settings import OneOf, Within, check

_PLACES = {
    "system": ("classes", "scores", "reply"),
    "letters": ("classes", "scores", "reply"),
    "class_words": ("classes", "scores", "reply"),
    "examples": (),
    "scores": ("low", "high"),
    "question": ("count",),
}
"""Names in braces that stand for something, by part of the prompt."""
WITHHELD = "(words withheld)"
_JOINERS = "\u200c\u200d"
_MARKED = re.compile(r"[<>\x7f-\U0010ffff]")


@dataclass
class PromptConfig:
    """A versioned prompt, one file under ``configs/prompt/``."""

    name: str = "???"
    version: int = 1
    """Raise it whenever the text changes; the text's hash is part of every result."""
    priors: Annotated[str, OneOf("predicted", "shuffled", "uniform", "none")] = "predicted"
    """``predicted`` shows the vanilla predictions, ``none`` leaves the probabilities out. Controls: ``shuffled`` shows
    each utterance those of another one of its dialogue, ``uniform`` equal probabilities."""
    dimensions: bool = True
    """Show valence, arousal and dominance (when the model predicts them)."""
    words: bool = True
    """Show what was said. false is a control: the LLM then has speakers and predictions only."""
    names: Annotated[str, OneOf("given", "masked")] = "given"
    """``given``, or ``masked``: A, B, ... in the order in which they first speak."""
    permute: bool = False
    """List the classes, and so their letters, in another order in each of an utterance's fields: the LLM's preference
    for a letter or a place then averages out over them. See :meth:`Prompt.order`."""
    demonstrations: Annotated[int, Within(least=0, most=100)] = 0
    """Show so many labelled turns of training dialogues, each with the turns before it."""
    demonstrations_by: Annotated[str, OneOf("nearest", "class")] = "nearest"
    """``nearest``: those nearest in meaning to the utterances that are asked about (MiniLM); ``class``: so many of each
    class, drawn by ``seed``, the same ones in every prompt, so that a provider can cache them."""
    system: str = ""
    """System part; ``{classes}``, ``{scores}`` and ``{reply}`` stand for the paragraphs below."""
    scores: str = ""
    """What the dimension scores mean; ``{low}`` and ``{high}`` are the ends of the scale."""
    priors_note: str = ""
    """What the vanilla probabilities mean."""
    letters: str = ""
    """With ``llm.elicitation=letters`` in place of the paragraph of *system* that holds ``{reply}``; its own
    ``{reply}`` becomes example lines."""
    class_words: str = ""
    """The same with ``llm.elicitation=words``."""
    examples: str = ""
    """What stands before the demonstrations."""
    question: str = ""
    """Last line of the user part; ``{count}`` is the number of utterances."""

    def __post_init__(self) -> None:
        check(self, "prompt")
        if self.demonstrations and not self.words:
            raise UserError("prompt.demonstrations shows words and is chosen by them; prompt.words=false takes none")
        for part, valid in _PLACES.items():
            self._check_places(part, valid)
        if self.name != "???" and not {"classes", "reply"} <= set(_places(self.system)):
            raise UserError(
                f"prompt={self.name}: prompt.system must hold {{classes}} and {{reply}}: they say "
                "which classes there are and what to return"
            )

    def _check_places(self, part: str, valid: tuple[str, ...]) -> None:
        listed = ", ".join(f"{{{name}}}" for name in valid)
        try:
            strange = [place for place in _places(getattr(self, part)) if place not in valid]
        except ValueError as error:
            raise UserError(f"prompt.{part}: {error}; write a literal brace twice") from None
        if strange:
            raise UserError(
                f"prompt.{part}: {{{strange[0]}}} has no meaning.{did_you_mean(strange[0], list(valid))} "
                f"Valid: {listed}; write a literal brace twice"
            )

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of everything that the prompt says in any dialogue."""
        parts = [self.system, self.scores, self.priors_note, self.question, self.letters, self.class_words]
        parts += [self.priors, str(self.dimensions)]
        parts += ["words withheld"] * (not self.words) + ["names masked"] * (self.names == "masked")
        parts += ["classes permuted"] * self.permute
        if self.demonstrations:
            parts += [self.examples, f"{self.demonstrations} examples by {self.demonstrations_by}"]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _places(text: str) -> list[str]:
    """The fields in braces in *text*, with any format that follows; ValueError where a brace has no partner."""
    parts = string.Formatter().parse(text)
    return [
        f"{name}{'!' + how if how else ''}{':' + form if form else ''}"
        for _, name, form, how in parts
        if name is not None
    ]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the prompt may show of one utterance."""

    utterance: Utterance
    probabilities: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    """Predicted valence, arousal, dominance on the corpus scale."""
    target: bool = True
    """Whether the prompt asks about it; else it is context."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A labelled turn of a training dialogue, with what the prompt shows of the turns before it."""

    dialogue: str
    """Id of its dialogue."""
    utterances: tuple[Utterance, ...]
    """The labelled one last."""
    label: int


def shown_in(config: PromptConfig, dialogue: Dialogue) -> list[Utterance]:
    """The utterances of *dialogue* with the names and words that *config* lets the LLM see."""
    if config.words and config.names == "given":
        return list(dialogue.utterances)
    names = {name: _letter(n) for n, name in enumerate(dialogue.speakers)} if config.names == "masked" else {}
    return [
        replace(u, speaker=names.get(u.speaker, u.speaker), text=u.text if config.words else WITHHELD)
        for u in dialogue.utterances
    ]


def turns_of(
    config: PromptConfig,
    dialogue: Dialogue,
    probabilities: Sequence[Sequence[float]],
    scores: Sequence[Sequence[float] | None],
    seed: int,
) -> list[Turn]:
    """What *config* lets the LLM see of each utterance of a whole dialogue, with its vanilla predictions."""
    order = list(range(len(dialogue)))
    if config.priors == "shuffled":
        words = hashlib.sha256(dialogue.id.encode()).digest()
        ring = np.random.default_rng([seed, *words]).permutation(len(dialogue))
        order = np.roll(ring, 1)[np.argsort(ring)].tolist()  # one cycle: no utterance keeps its own
    turns = []
    for shown, source in zip(shown_in(config, dialogue), order, strict=True):
        given = probabilities[source]
        turns.append(
            Turn(shown, [1 / len(given)] * len(given) if config.priors == "uniform" else given, scores[source])
        )
    return turns


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"S{number + 1}"


def quote(text: str) -> str:
    """*text* as a JSON string that cannot end its line, its quotes or the ``<dialogue>`` element.

    Invisible characters are written as escapes, except the joiners of scripts and emoji:
    some turn the direction of writing, others are halves of characters, which cannot be sent.
    """
    quoted = json.dumps(" ".join(text.split()), ensure_ascii=False)
    return _MARKED.sub(_escaped, quoted)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in "<>":
        return f"\\u{ord(character):04x}"
    unseen = character not in _JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs")
    return json.dumps(character)[1:-1] if unseen else character


class Prompt:
    """Renders receptive fields for one label set and one score scale."""

    def __init__(
        self,
        config: PromptConfig,
        labels: LabelSet,
        score_range: tuple[float, float] | None,
        elicitation: str = "json",
    ) -> None:
        self.config, self.labels, self.elicitation = config, labels, elicitation
        if elicitation == "words":
            check_words(labels.classes)
        self._dimensions = config.dimensions and score_range is not None
        self._score_range = score_range or (0.0, 0.0)
        self._systems = {labels.classes: self._render(labels.classes)}

    def _render(self, order: tuple[str, ...]) -> str:
        """The system part, which lists the classes in *order*."""
        config, labels = self.config, self.labels
        answers = self.shape(1, order).answers
        marks = [f" ({letter})" for letter in answers or ()] if self.elicitation == "letters" else [""] * len(labels)
        described = zip(order, marks, strict=True)
        classes = "\n".join(f"- {name}{mark}: {labels.definitions.get(name, name)}" for name, mark in described)
        references = [] if config.priors == "none" else [config.priors_note]
        if self._dimensions:
            low, high = self._score_range
            references.append(config.scores.format(low=f"{low:g}", high=f"{high:g}"))
        example = {"1": dict.fromkeys(order, round(1 / len(labels), 2))}
        reply = json.dumps(example, ensure_ascii=False)
        system = config.system
        if answers:
            asking = config.class_words if self.elicitation == "words" else config.letters
            system = "\n\n".join(asking if "{reply}" in part else part for part in system.split("\n\n"))
            reply = f"1: {answers[0]}\n2: {answers[-1]}"
        return system.format(classes=classes, scores="\n".join(references).strip(), reply=reply).strip()

    def order(self, dialogue: str, field: int, seed: int) -> tuple[str, ...]:
        """The classes in the order in which the prompt about a *dialogue*'s field of that number lists them.

        With ``prompt.permute``, *seed* shuffles them once, and every field turns that list on: ``C`` successive fields
        hold each class once in each place, and two successive ones hold it about half a list apart. There are only
        ``C`` orders, so that providers can cache the system part of each.
        """
        classes = self.labels.classes
        if not self.config.permute:
            return classes
        count = len(classes)
        start = int.from_bytes(hashlib.sha256(dialogue.encode()).digest()[:8])
        turn = (start + field) % count
        turned = turn // 2 + turn % 2 * -(-count // 2)
        shuffled = np.random.default_rng(seed).permutation(count)
        return tuple(classes[k] for k in np.roll(shuffled, -turned))

    def shape(self, count: int, order: tuple[str, ...] | None = None) -> ReplyShape:
        """What a reply about *count* target utterances must look like; its classes are in *order*."""
        return ReplyShape(count, order or self.labels.classes, self.elicitation)

    def blank(
        self, order: tuple[str, ...] | None = None, examples: Sequence[Demonstration] = ()
    ) -> tuple[dict[str, str], ...]:
        """The messages about one turn without words and with equal probabilities (Zhao et al. 2021, "content-free")."""
        equal = [1 / len(self.labels)] * len(self.labels)
        return self.messages([Turn(Utterance("", "A", ""), equal)], order, examples)

    def messages(
        self,
        turns: Sequence[Turn],
        order: tuple[str, ...] | None = None,
        examples: Sequence[Demonstration] = (),
    ) -> tuple[dict[str, str], ...]:
        """System and user message for the utterances of one field; the targets are numbered from 1.

        The classes are listed in *order*, without one in that of the label set. Examples that are the same for every
        field stand in the system message, others before the dialogue.
        """
        order = order or self.labels.classes
        if order not in self._systems:
            self._systems[order] = self._render(order)
        numbers = itertools.count(1)
        marks = [f"{next(numbers)}." if turn.target else "-" for turn in turns]
        lines = [
            f"{mark} {self._speaker(turn.utterance)}: {quote(turn.utterance.text)}{self._notes(turn, order)}"
            for mark, turn in zip(marks, turns, strict=True)
        ]
        dialogue = "\n".join(["<dialogue>", *lines, "</dialogue>"])
        question = self.config.question.format(count=sum(t.target for t in turns)).strip()
        system, user = self._systems[order], f"{dialogue}\n{question}"
        if examples and self.config.demonstrations_by == "class":
            system = f"{system}\n\n{self._shown(examples, order)}"
        elif examples:
            user = f"{self._shown(examples, order)}\n\n{user}"
        return {"role": "system", "content": system}, {"role": "user", "content": user}

    def _shown(self, examples: Sequence[Demonstration], order: tuple[str, ...]) -> str:
        """The paragraph of *examples*, each with the answer that would have been right."""
        answers = dict(zip(order, self.shape(1, order).answers or order, strict=True))
        parts = [self.config.examples.strip()]
        for example in examples:
            *before, last = [f"{self._speaker(u)}: {quote(u.text)}" for u in example.utterances]
            lines = ["<example>", *(f"- {line}" for line in before), f"1. {last}", "</example>"]
            parts.append("\n".join([*lines, f"1: {answers[self.labels.classes[example.label]]}"]))
        return "\n".join(parts)

    @staticmethod
    def _speaker(utterance: Utterance) -> str:
        name = utterance.speaker
        return name if name.replace(" ", "").isalnum() else quote(name)

    def _notes(self, turn: Turn, order: Sequence[str]) -> str:
        notes = []
        if self.config.priors != "none" and turn.probabilities is not None:
            values = dict(zip(self.labels.classes, turn.probabilities))
            notes.append(", ".join(f"{name} {values[name]:.2f}" for name in order if name in values))
        if self._dimensions and turn.scores is not None:
            notes.append(", ".join(f"{name} {value:.1f}" for name, value in zip(DIMENSIONS, turn.scores)))
        return f" [{'; '.join(notes)}]" if notes else ""

    def repair(self, quoted: str, error: str, count: int) -> tuple[dict[str, str], ...]:
        """The turns that follow a reply that could not be used: what it said, what is wrong and what to return."""
        answers = self.shape(count).answers
        if answers:
            words = self.elicitation == "words"
            one = f"one of: {', '.join(answers)}" if words else f"one letter from {answers[0]} to {answers[-1]}"
            wanted = f"{count} lines, one for each utterance: its number, a colon, a blank and {one}."
        else:
            wanted = (
                f'one JSON object with the keys "1" to "{count}"; each holds one number from 0 to 1 for every one of: '
                f"{', '.join(self.labels.classes)}."
            )
        return (
            {"role": "assistant", "content": quoted},
            {"role": "user", "content": f"Your reply could not be used: {error}. Return only {wanted}"},
        )
