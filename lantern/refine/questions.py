"""Makes the questions about every receptive field of a predictions table and writes the answers into a new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np

from lantern.corpora.types import Dialogue
from lantern.errors import FailureKind, UserError
from lantern.refine.backends.config import make_request
from lantern.refine.backends.simulated import oracle
from lantern.refine.fields import Field, Question, receptive_fields
from lantern.refine.ledger.location import check_location
from lantern.refine.prompt import Demonstration, Prompt, Turn, turns_of
from lantern.refine.types import Answer, Failure, Outcome, Reply, Request
from lantern.settings import Amount, Count, OneOf, Positive, Within, check
from lantern.tables import ANSWERED, KINDS, Fields, PredictionTable

if TYPE_CHECKING:
    from lantern.refine.backends.config import BackendConfig
    from lantern.refine.backends.simulated import SimulatedConfig
    from lantern.refine.demonstrations import Demonstrations


Calls = Annotated[int, Within(least=1, most=100)]
"""A number that multiplies the calls; more is a typing error, and an expensive one."""
LEAST_PREFERENCE = 1e-3
"""Smallest probability of an empty turn that is divided out: a zero there is rounded, not certain."""
Lines = Annotated[int, Within(least=0, most=1000)]
"""Lines of context in every prompt; each one is paid for once per field."""


@dataclass
class RefineConfig:
    """How the LLM refines predictions."""

    enabled: bool = True
    """False: the run ends after the vanilla model."""
    when: Annotated[str, OneOf("end", "best", "every_n")] = "end"
    """``end``: once, on the selected checkpoint; ``best``: also in training, at each validation epoch that improves;
    ``every_n``: also in training, at every n-th validation epoch."""
    every_n: Count = 5
    """Used by ``when=every_n``."""
    stride: Count = 4
    """``s``: utterances between neighbouring receptive fields."""
    coverage: Calls = 2
    """``t``: receptive fields that hold each utterance; the window is ``t * s`` utterances wide. Eight of them show the
    LLM more of the conversation than four, with as many replies per utterance and about half the calls."""
    context: Annotated[str, OneOf("both", "causal")] = "both"
    """``both``: a field shows what comes before and after; ``causal``: every utterance is the last one of its fields,
    at ``coverage`` times as many calls as utterances."""
    before: Lines = 0
    """Utterances before each field that the prompt shows but does not ask about."""
    after: Lines = 0
    """The same after each field; 0 with ``context=causal``."""
    independent: bool = False
    """Ask about each utterance of a field by itself, in a call of its own: the answer about one cannot lean on those
    about the lines before it. As many times the calls as a field is wide; the prompts of a field begin alike, which a
    provider's prompt cache makes cheap."""
    samples: Calls = 1
    """Replies per prompt, averaged (self-consistency); more than one needs ``llm.temperature`` above 0."""
    calibrate: bool = False
    """Divide what the LLM replies about an empty turn, one more call for each order of the classes, out of its replies:
    what it prefers before it has read anything (contextual calibration, Zhao et al. 2021)."""
    repair: bool = True
    """When a reply cannot be used, show the LLM its error once and let it answer again."""
    batch: bool = False
    """Use the provider's batch interface, at half the price and within a day."""
    batch_poll: Positive = 30.0
    """Seconds between looks at a batch."""
    max_cost: Amount | None = None
    """Dollars; the call that would pass it is not sent. null: no limit."""
    min_answered: Annotated[float, Within(least=0, most=1)] = 0.95
    """Share of the test fields whose questions must get a reply; below it the run is incomplete (exit code 3)."""
    limit_dialogues: Count | None = None
    """Refine and score only the first so many dialogues of each split. null: all."""
    ledger: str | None = None
    """Every request, reply, usage, cost and failure, shared by runs: a file, or for runs on several machines
    ``postgresql://user@host/database``. null: the file ``ledger.sqlite`` in ``runs``."""

    def __post_init__(self) -> None:
        check(self, "refine")
        if self.context == "causal" and self.after:
            raise UserError(
                f"refine.after={self.after}: with refine.context=causal a field shows nothing that comes later; "
                "set refine.after=0, or refine.context=both"
            )
        if self.ledger is not None:
            check_location(self.ledger)


@dataclass
class RefineStats:
    """Counts of one refinement; all plain numbers."""

    fields: int = 0
    """Questions: receptive fields, or with ``refine.independent`` their utterances."""
    prompts: int = 0
    """Distinct prompts of a table, each sample by itself: fields that read the same share one."""
    calls: int = 0
    """Calls sent to the backend now; the rest came from the ledger."""
    repaired: int = 0
    failed_fields: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Fields without probabilities, by kind of failure."""
    unanswered: int = 0
    """Fields whose question got no reply, so that the same command may complete them; other failures are settled."""
    reason: str = ""
    """Of the first unanswered one, and what may help."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """From question to reply, summed over every reply behind this result, whenever it was asked for."""
    cost: float | None = 0.0
    """Dollars for every reply behind this result, whenever it was bought; None when a price is unknown."""

    def add(self, other: RefineStats) -> None:
        """Sum *other* into this."""
        counts = ("fields", "prompts", "calls", "repaired", "failed_fields", "unanswered")
        for name in (*counts, "input_tokens", "cached_input_tokens", "output_tokens", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reason = self.reason or other.reason
        self.failures = dict(sorted((Counter(self.failures) + Counter(other.failures)).items()))
        self.cost = None if self.cost is None or other.cost is None else self.cost + other.cost

    def add_usage(self, replies: Iterable[Reply]) -> None:
        """Count the tokens and dollars of *replies*."""
        costs = []
        for reply in replies:
            self.input_tokens += reply.usage.input
            self.cached_input_tokens += reply.usage.cached_input
            self.output_tokens += reply.usage.output
            self.seconds += reply.latency
            costs.append(reply.cost)
        known = [cost for cost in costs if cost is not None]
        self.cost = sum(known) if len(known) == len(costs) else None


class EngineProtocol(Protocol):
    """What :meth:`Refiner.refine` needs of an engine."""

    calls: int

    def run(
        self, requests: Sequence[Request], follow_up: Callable[[Request, Outcome], Request | None] | None = None
    ) -> list[list[Outcome]]: ...


class Refiner:
    """Binds corpus, prompt and backend; :meth:`refine` is a function of the table and the ledger only."""

    def __init__(
        self,
        dialogues: Mapping[str, Dialogue],
        prompt: Prompt,
        config: RefineConfig,
        backend: BackendConfig,
        simulated: SimulatedConfig | None = None,
        seed: int = 0,
        examples: Demonstrations | None = None,
    ) -> None:
        self.dialogues, self.prompt, self.config, self.backend = dialogues, prompt, config, backend
        self.simulated, self.seed, self.examples = simulated, seed, examples

    def questions(self, table: PredictionTable) -> list[Question]:
        """A question about every receptive field of every dialogue of *table*, or about each utterance of each field.

        The table must hold every utterance of its dialogues: fields run over the full transcript.
        """
        if self.prompt.config.demonstrations and self.examples is None:
            raise ValueError("the prompt is to show demonstrations, and nothing chooses them")
        questions = []
        for name, rows in table.by_dialogue.items():
            dialogue = self.dialogues[name]
            if table.utterances[rows].tolist() != [u.id for u in dialogue.utterances]:
                raise ValueError(f"the predictions of dialogue {name!r} do not cover its transcript in order")
            predicted = table.predicted_scores
            scores = [None] * len(dialogue) if predicted is None else predicted[rows].tolist()
            turns = turns_of(self.prompt.config, dialogue, table.vanilla[rows].tolist(), scores, self.seed)
            labels = [None if label < 0 else label for label in table.labels[rows].tolist()]
            causal = self.config.context == "causal"
            windows = receptive_fields(len(dialogue), self.config.stride, self.config.coverage, causal)
            for number, window in enumerate(windows):
                visible = window.shown(len(dialogue), self.config.before, self.config.after)
                order = self.prompt.order(name, number, self.seed)
                for targets in [(i,) for i in window.targets] if self.config.independent else [tuple(window.targets)]:
                    shown = [replace(turns[i], target=i in targets) for i in visible]
                    shape = self.prompt.shape(len(targets), order)
                    oracle = self._oracle(window, targets, shown, labels)
                    examples = self.examples.of(name, targets) if self.examples is not None else ()
                    messages = self.prompt.messages(shown, order, examples)
                    samples = [make_request(self.backend, messages, shape, k) for k in range(self.config.samples)]
                    requests = tuple(replace(sample, oracle=oracle) for sample in samples)
                    places = tuple(rows.start + i for i in targets)
                    questions.append(Question(window, targets, places, shape, requests, self._blank(order, examples)))
        return questions

    def _blank(self, order: tuple[str, ...], examples: tuple[Demonstration, ...]) -> Request | None:
        """The request about an empty turn that calibrates the replies to a prompt of that *order*."""
        if not self.config.calibrate:
            return None
        request = make_request(self.backend, self.prompt.blank(order, examples), self.prompt.shape(1, order))
        if self.simulated is None:
            return request
        silent, equal = replace(self.simulated, noise=0.0, failure_rate=0.0), [1 / len(order)] * len(order)
        return replace(request, oracle=oracle(silent, self.prompt.labels.classes, [None], [0], 1.0, [equal], self.seed))

    def _oracle(
        self, field: Field, targets: Sequence[int], turns: list[Turn], labels: Sequence[int | None]
    ) -> dict[str, object] | None:
        """What the simulated LLM answers about *targets* from; None for a real one."""
        if self.simulated is None:
            return None
        return oracle(
            self.simulated,
            self.prompt.labels.classes,
            [labels[i] for i in targets],
            [field.band(i) for i in targets],
            len(turns) / (field.stride * field.coverage + self.config.before + self.config.after),
            [list(turn.probabilities or ()) for turn in turns if turn.target],
            self.seed,
        )

    def repair(self, request: Request, outcome: Outcome) -> Request | None:
        """The one further request after a reply whose content failed; None where it would not help."""
        if not self.config.repair or not isinstance(outcome, Failure):
            return None
        if outcome.kind == FailureKind.BAD_BODY:
            return request  # no LLM spoke: the same question, once more
        if outcome.reply is None:
            return None
        if outcome.kind in (FailureKind.NO_LOGPROBS, FailureKind.LOW_MASS):
            return None  # another reply would bring the same numbers
        if outcome.kind == FailureKind.CUT_OFF:
            # Quoting the reply would only cut it off again: repeat the question with room.
            room = request.sampling.get("max_tokens")
            return None if room is None else replace(request, sampling={**request.sampling, "max_tokens": 2 * room})
        assert request.shape is not None
        count = request.shape.count
        quoting = self.prompt.repair(outcome.reply.text[:4000], outcome.message, count)
        wordless = replace(request, messages=request.messages + self.prompt.repair("", "", count))
        messages = request.messages + quoting
        if outcome.kind == FailureKind.EMPTY:
            # There is nothing to quote, and two turns of the user in a row are refused by some.
            asked = request.messages[-1]["content"]
            messages = (*request.messages[:-1], {"role": "user", "content": f"{asked}\n{quoting[1]['content']}"})
        return replace(request, messages=messages, bundle_key=wordless.key)

    def refine(
        self, table: PredictionTable, engine: EngineProtocol, needs_answer: bool = False
    ) -> tuple[PredictionTable, RefineStats]:
        """*table* with the fields filled by the LLM, and the counts; failures become masked entries.

        Raises:
            UserError: with *needs_answer*, when questions got no reply and not one of the others got a usable one.
        """
        questions = self.questions(table)
        before = engine.calls
        requests = [request for question in questions for request in question.requests]
        requests += {question.blank.key: question.blank for question in questions if question.blank}.values()
        histories = engine.run(requests, self.repair)
        paid: dict[str, list[Outcome]] = {request.key: history for request, history in zip(requests, histories)}
        stats = RefineStats(fields=len(questions), prompts=len(paid), calls=engine.calls - before)
        width = self.config.stride * self.config.coverage
        fields = Fields.empty(len(table), self.config.coverage, len(table.classes), width)
        failures: list[Failure] = []
        for number, question in enumerate(questions):
            samples = histories[number * self.config.samples : (number + 1) * self.config.samples]
            repaired = any(len(history) > 1 and isinstance(history[-1], Answer) for history in samples)
            blank = paid[question.blank.key][-1] if question.blank else None
            failure = _fill(fields, question, table.classes, [history[-1] for history in samples], blank, repaired)
            stats.repaired += repaired
            failures += [failure] if failure is not None else []
        lost = [failure for failure in failures if not failure.kind.content]
        if lost:
            kind, advice = lost[0].kind, lost[0].kind.advice
            stats.reason = f"{kind}: {lost[0].message[:400]}" + (f"; {advice}" if advice else "")
        stats.unanswered = len(lost)
        none_usable = len(failures) == len(questions) and bool(lost)
        if needs_answer and none_usable and lost[0].kind != FailureKind.BUDGET:
            raise UserError(
                f"llm={self.backend.name}: {self.backend.model} answered none of {len(questions)} questions usably "
                f"({stats.reason}). Nothing is lost: the same command goes on"
            )
        stats.failures = dict(sorted(Counter(failure.kind.value for failure in failures).items()))
        stats.failed_fields = len(failures)
        stats.add_usage(o.reply for history in paid.values() for o in history if o.reply is not None)
        return replace(table, fields=fields, weights=None, merged=None), stats


def _fill(
    fields: Fields,
    question: Question,
    classes: tuple[str, ...],
    samples: list[Outcome],
    blank: Outcome | None,
    repaired: bool,
) -> Failure | None:
    """Put the mean of the usable *samples*, calibrated by *blank*, into *fields*; the failure when there is none."""
    field, rows = question.field, np.array(question.rows)
    bands = np.array([field.band(i) for i in question.targets])
    fields.lengths[rows, bands], fields.repaired[rows, bands] = len(field), repaired
    fields.positions[rows, bands] = np.array(question.targets) - field.start
    usable = [sample for sample in samples if isinstance(sample, Answer)]
    failure = blank if isinstance(blank, Failure) else None if usable else samples[0]
    if isinstance(failure, Failure):
        fields.failures[rows, bands] = KINDS.index(failure.kind)
        return failure
    drawn = np.array([answer.probabilities for answer in usable])
    if isinstance(blank, Answer):
        drawn = drawn / np.maximum(blank.probabilities[0], LEAST_PREFERENCE)
        drawn = drawn / drawn.sum(axis=-1, keepdims=True)
    drawn = drawn[..., [question.shape.classes.index(name) for name in classes]]  # from the prompt's order
    mean = drawn.mean(axis=0)
    fields.failures[rows, bands], fields.probabilities[rows, bands] = ANSWERED, mean
    fields.raw_sums[rows, bands] = np.mean([answer.sums for answer in usable], axis=0)
    if len(samples) > 1:
        fields.spreads[rows, bands] = np.abs(drawn - mean).sum(axis=2).mean(axis=0) / 2
    return None
