"""Asks the LLM about every receptive field of a predictions table and writes what it said into the table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lantern.corpora.types import Dialogue
from lantern.errors import UserError
from lantern.refine.backends.config import TOP_LOGPROBS, make_request
from lantern.refine.backends.simulated import oracle
from lantern.refine.failures import CURES
from lantern.refine.fields import Field, receptive_fields
from lantern.refine.ledger.location import check_location
from lantern.refine.prompt import Prompt, Turn, turns_of
from lantern.refine.reply import Parsed, asked, parse_letters, parse_reply
from lantern.refine.types import Failure, Outcome, Reply, Request
from lantern.tables import FieldReply, PredictionTable, Row

if TYPE_CHECKING:
    from lantern.refine.backends.config import BackendConfig
    from lantern.refine.backends.simulated import SimulatedConfig


MOST = 100
"""Coverage and samples beyond it are typing errors, and dear ones."""


@dataclass
class RefineConfig:
    """How the LLM is asked."""

    enabled: bool = True
    """False: the run ends after the vanilla model."""
    when: str = "end"
    """``end``: once, on the selected checkpoint; ``best``: also in training, at each validation epoch that improves;
    ``every_n``: also in training, at every n-th validation epoch."""
    every_n: int = 5
    """Used by ``when=every_n``."""
    stride: int = 2
    """``s``: utterances by which neighbouring receptive fields are shifted."""
    coverage: int = 2
    """``t``: receptive fields that hold each utterance; the window is ``t * s`` utterances wide."""
    context: str = "both"
    """``both``: a field shows what comes before and after; ``causal``: every utterance is the last one of its fields,
    at ``coverage`` times as many calls as utterances."""
    samples: int = 1
    """Replies per prompt, averaged (self-consistency); more than one needs ``llm.temperature`` above 0."""
    repair: bool = True
    """Show the LLM its error and ask once more when a reply cannot be used."""
    batch: bool = False
    """Ask through the provider's batch interface, at half the price and within a day."""
    batch_poll: float = 30.0
    """Seconds between looks at a batch."""
    max_cost: float | None = None
    """Dollars; the call that would pass it is not sent. null: no limit."""
    limit_dialogues: int | None = None
    """Refine and score only the first so many dialogues of each split. null: all."""
    ledger: str | None = None
    """Every request, reply, usage, cost and failure, shared by runs: a file, or for runs on several machines
    ``postgresql://user@host/database``. null: the file ``ledger.sqlite`` in ``runs``."""

    def __post_init__(self) -> None:
        if self.when not in ("end", "best", "every_n"):
            raise UserError(f"refine.when={self.when} is not one of end, best, every_n")
        if self.context not in ("both", "causal"):
            raise UserError(f"refine.context={self.context} is not one of both, causal")
        for name in ("every_n", "stride", "coverage", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"refine.{name}={getattr(self, name)} must be at least 1")
        for name in ("coverage", "samples"):
            if getattr(self, name) > MOST:
                raise UserError(
                    f"refine.{name}={getattr(self, name)} must be at most {MOST}: each is a call of its own"
                )
        if self.limit_dialogues is not None and self.limit_dialogues < 1:
            raise UserError(f"refine.limit_dialogues={self.limit_dialogues} must be at least 1, or null for all")
        if not self.batch_poll > 0:
            raise UserError(f"refine.batch_poll={self.batch_poll} must be above 0")
        if self.max_cost is not None and self.max_cost < 0:
            raise UserError(f"refine.max_cost={self.max_cost} must not be negative")
        if self.ledger is not None:
            check_location(self.ledger)


@dataclass
class RefineStats:
    """Counts of one refinement; all plain numbers."""

    fields: int = 0
    prompts: int = 0
    """Distinct prompts, each sample on its own: fields that read the same are asked once."""
    calls: int = 0
    """Calls sent to the backend now; the rest came from the ledger."""
    repaired: int = 0
    failed_fields: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Fields without probabilities, by kind of failure."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """Dollars for every reply that this result stands on, whenever it was bought; None when a price is unknown."""

    def add(self, other: RefineStats) -> None:
        """Sum *other* into this."""
        for name in ("fields", "prompts", "calls", "repaired", "failed_fields"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("input_tokens", "cached_input_tokens", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures = dict(sorted((Counter(self.failures) + Counter(other.failures)).items()))
        self.cost = None if self.cost is None or other.cost is None else self.cost + other.cost


class Asker(Protocol):
    """What the refiner needs of the engine."""

    calls: int

    def run(
        self, requests: Sequence[Request], follow_up: Callable[[Request, Outcome], Request | None] | None = None
    ) -> list[list[Outcome]]: ...


@dataclass(frozen=True, slots=True)
class _Question:
    rows: tuple[int, ...]
    """Of the table: the utterances that are asked about."""
    field: Field
    requests: tuple[Request, ...]
    """One per sample."""


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
    ) -> None:
        self.dialogues, self.prompt, self.config, self.backend = dialogues, prompt, config, backend
        self.simulated, self.seed = simulated, seed

    def questions(self, table: PredictionTable) -> list[_Question]:
        """Every receptive field of every dialogue of *table* with the request that asks about it.

        The table must hold every utterance of its dialogues: fields run over the full transcript.
        """
        by_dialogue: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(table.rows):
            by_dialogue[row.dialogue].append(number)
        questions = []
        for name, numbers in by_dialogue.items():
            dialogue = self.dialogues[name]
            if [table.rows[n].utterance for n in numbers] != [u.id for u in dialogue.utterances]:
                raise ValueError(f"the predictions of dialogue {name!r} do not cover its transcript in order")
            rows = [table.rows[n] for n in numbers]
            turns = turns_of(
                self.prompt.config, dialogue, [r.vanilla for r in rows], [r.predicted_scores for r in rows], self.seed
            )
            causal = self.config.context == "causal"
            for window in receptive_fields(len(dialogue), self.config.stride, self.config.coverage, causal):
                chosen = tuple(numbers[i] for i in window.targets)
                shown = [replace(turns[i], asked=i in window.targets) for i in range(window.start, window.stop)]
                targets = [table.rows[n] for n in chosen]
                samples = [self._request(window, shown, targets, k) for k in range(self.config.samples)]
                questions.append(_Question(chosen, window, tuple(samples)))
        return questions

    def _request(self, window: Field, turns: list[Turn], asked: list[Row], sample: int) -> Request:
        schema = self.prompt.schema(len(asked))
        request = make_request(
            self.backend,
            self.prompt.messages(turns),
            schema=schema,
            max_tokens=self.prompt.max_tokens(len(asked)),
            replicate=sample,
            logprobs=TOP_LOGPROBS if self.prompt.elicitation == "logprobs" else None,
        )
        if self.simulated is None:
            return request
        described = oracle(
            self.simulated,
            self.prompt.labels.classes,
            [row.label for row in asked],
            [window.band(i) for i in window.targets],
            len(turns) / (window.stride * window.coverage),
            [list(turn.probabilities or ()) for turn in turns if turn.asked],
            self.seed,
        )
        return replace(request, oracle=described)

    def judge(self, request: Request, reply: Reply) -> Failure | None:
        """Typed failure of a reply's content, None when it is an answer."""
        parsed = self._parse(request, reply)
        return parsed if isinstance(parsed, Failure) else None

    def _parse(self, request: Request, reply: Reply) -> Parsed | Failure:
        parse = parse_letters if self.prompt.elicitation == "logprobs" else parse_reply
        return parse(reply, asked(request), self.prompt.labels.classes)

    def repair(self, request: Request, outcome: Outcome) -> Request | None:
        """The one repair turn for a reply whose content failed."""
        if not self.config.repair or not isinstance(outcome, Failure) or outcome.reply is None:
            return None
        if outcome.kind in ("no_logprobs", "low_mass"):
            return None  # asking again brings the same numbers
        count = asked(request)
        if outcome.kind == "cut_off":
            # Its own words would only be cut off again: ask anew with room.
            return replace(request, sampling={**request.sampling, "max_tokens": 2 * request.sampling["max_tokens"]})
        turn = (
            {"role": "assistant", "content": outcome.reply.text[:4000]},
            {"role": "user", "content": self.prompt.repair(outcome.message, count)},
        )
        return replace(request, messages=request.messages + turn)

    def refine(self, table: PredictionTable, engine: Asker, needs_answer: bool = False) -> RefineStats:
        """Ask about every field and fill ``row.fields`` of *table* in place; failures become masked entries.

        Raises:
            UserError: with *needs_answer*, when not one call brought a reply.
        """
        questions = self.questions(table)
        before = engine.calls
        requests = [request for question in questions for request in question.requests]
        outcomes = iter(engine.run(requests, self.repair))
        stats = RefineStats(
            fields=len(questions),
            prompts=len({request.key for request in requests}),
            calls=engine.calls - before,
        )
        for row in table.rows:
            row.fields = []
        failures: Counter[str] = Counter()
        lost: list[Failure] = []
        paid: dict[str, Reply] = {}
        for question in questions:
            results: list[Parsed | Failure] = []
            repaired = False
            for request in question.requests:
                history = next(outcomes)
                for number, outcome in enumerate(history):
                    reply = outcome.reply if isinstance(outcome, Failure) else outcome
                    if reply is not None:
                        paid[f"{request.key}/{number}"] = reply
                last = history[-1]
                results.append(last if isinstance(last, Failure) else self._parse(request, last))
                repaired = repaired or (len(history) > 1 and isinstance(results[-1], Parsed))
            result = _joined(results)
            if isinstance(result, Failure):
                failures[result.kind] += 1
                lost += [result] if result.kind in CURES else []
            stats.repaired += repaired
            self._fill(table, question, result, repaired)
        if needs_answer and lost and len(lost) == len(questions):
            first = lost[0]
            raise UserError(
                f"llm={self.backend.name}: {self.backend.model} answered none of {len(questions)} questions "
                f"({first.kind}: {first.message[:200]}); {CURES[first.kind]}. Nothing is lost: the same command goes on"
            )
        for row in table.rows:
            row.fields.sort(key=lambda entry: entry.band)
        stats.failures, stats.failed_fields = dict(sorted(failures.items())), failures.total()
        _add_usage(stats, list(paid.values()))
        return stats

    def _fill(self, table: PredictionTable, question: _Question, result: _Joined | Failure, repaired: bool) -> None:
        window = question.field
        for position, (index, number) in enumerate(zip(window.targets, question.rows, strict=True)):
            entry = FieldReply(
                band=window.band(index), length=len(window), position=index - window.start, repaired=repaired
            )
            if isinstance(result, Failure):
                entry.failure = result.kind
            else:
                entry.probabilities, entry.raw_sum = result.probabilities[position], result.sums[position]
                entry.spread = None if result.spread is None else result.spread[position]
            table.rows[number].fields.append(entry)


@dataclass(frozen=True, slots=True)
class _Joined:
    probabilities: list[list[float]]
    sums: list[float]
    spread: list[float] | None


def _joined(results: list[Parsed | Failure]) -> _Joined | Failure:
    """The mean of the samples that can be used; a failure only when none can."""
    usable = [result for result in results if isinstance(result, Parsed)]
    if not usable:
        first = results[0]
        assert isinstance(first, Failure)
        return first
    if len(results) == 1:
        return _Joined(usable[0].probabilities, usable[0].sums, None)
    drawn = np.array([result.probabilities for result in usable])
    mean = drawn.mean(axis=0)
    spread = np.abs(drawn - mean).sum(axis=2).mean(axis=0) / 2
    sums = np.mean([result.sums for result in usable], axis=0)
    return _Joined(mean.tolist(), sums.tolist(), spread.tolist())


def _add_usage(stats: RefineStats, replies: list[Reply]) -> None:
    costs: list[float | None] = []
    for reply in replies:
        stats.input_tokens += reply.usage.input
        stats.cached_input_tokens += reply.usage.cached_input
        stats.output_tokens += reply.usage.output
        costs.append(reply.cost)
    known = [c for c in costs if c is not None]
    stats.cost = sum(known) if len(known) == len(costs) else None


def summary(stats: RefineStats) -> dict[str, Any]:
    """The counts as plain JSON."""
    return {name: getattr(stats, name) for name in RefineStats.__dataclass_fields__}
