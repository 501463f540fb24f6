"""What a run would train, send and cost. Starts nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lantern.files import digest
from lantern.pipeline import vanilla
from lantern.pipeline.preflight import ReadyRun
from lantern.pipeline.refinement import refiner_of
from lantern.refine.backends.tokens import tokenizer_of
from lantern.refine.estimate import Estimate, estimate
from lantern.refine.fields import Question
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Price, Request
from lantern.results.texts import examples_of


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one run or of all runs of a sweep; what several runs share is counted once."""

    to_train: int
    to_reuse: int
    """Vanilla models that are trained already."""
    dialogues: int
    """To be refined, summed over runs and splits."""
    fields: int
    """Questions about them: receptive fields, or with ``refine.independent`` their utterances."""
    utterances: float
    """Whose questions are not all in the ledger; those of different fields of an utterance count as shares of it."""
    asking: Estimate | None
    """None without an LLM."""
    exact: bool
    """All vanilla predictions are known, or no prompt shows any, so that the prompts are those that will be sent; else
    they hold placeholders of the same length and none of them can be in the ledger."""
    price: Price | None
    example: Request | None
    """One prompt, whole."""


def plan(runs: Sequence[ReadyRun]) -> Plan:
    """The plan of *runs*, which must use the same LLM.

    Raises:
        UserError: the ledger is damaged, or the price or the tokenizer cannot be had.
    """
    to_train, to_reuse = models(runs)
    asking = [ready for ready in runs if ready.backend is not None]
    if not asking:
        return Plan(to_train, to_reuse, 0, 0, 0, None, True, None, None)
    first = asking[0]
    config = first.config
    requests: list[Request] = []
    exact = True
    fields = 0
    shares: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for ready in asking:
        model = digest([stage.inputs for stage in ready.vanilla_stages])
        questions, known = _questions(ready, numbers.setdefault(model, len(numbers) + 1))
        requests += [request for question in questions for request in question.sent]
        fields += len(questions)
        times = ready.config.refine.samples * ready.config.refine.coverage
        # Fields that read the same, as in a dialogue no longer than the stride, share a prompt.
        own: defaultdict[str, float] = defaultdict(float)
        for question in questions:
            for request in question.requests:
                own[request.key] += len(question.rows) / times
        shares |= own
        exact = exact and known
    ledger = Ledger.if_there(config.ledger)
    price = config.llm.price
    if price is None and config.llm.simulated is None:
        first.backend.prepare()
        price = first.backend.price
    if price is not None and config.refine.batch:
        price = price.times(config.llm.batch_price_share)
    tokenizer = tokenizer_of(config.llm, config.llm.simulated is not None)
    expected = estimate(requests, config.llm, price, tokenizer, ledger)
    if config.llm.simulated is not None:
        expected = replace(expected, latency=0.0, seconds=0.0)
    if ledger is not None:
        ledger.close()
    dialogues = sum(len(ids) for ready in asking for ids in ready.refined.values())
    utterances = sum(shares.values()) * expected.calls / max(1, expected.prompts)
    example = requests[0] if requests else None
    return Plan(to_train, to_reuse, dialogues, fields, utterances, expected, exact, price, example)


def models(runs: Sequence[ReadyRun]) -> tuple[int, int]:
    """Vanilla models that *runs* need: how many are to be trained, how many are there already."""
    stages = {
        str(ready.store.folder("train", stage.inputs)): stage.done for ready in runs for stage in ready.vanilla_stages
    }
    done = sum(stages.values())
    return len(stages) - done, done


def training_seconds(runs: Sequence[ReadyRun]) -> float | None:
    """How long the vanilla models that *runs* still need will take, one after the other, at most; None: not known."""
    todo = {
        str(ready.store.folder("train", stage.inputs)): ready.store.training_seconds(stage.inputs)
        for ready in runs
        for stage in ready.vanilla_stages
        if not stage.done
    }
    known = [seconds for seconds in todo.values() if seconds is not None]
    return sum(known) if len(known) == len(todo) else None


def _questions(ready: ReadyRun, model: int) -> tuple[list[Question], bool]:
    """Every question of one run, whose vanilla models are the *model*-th of the plan, and whether all of them are the
    very ones that will be sent."""
    config = ready.config
    examples = examples_of(config, ready.corpus, Path(config.runs))
    refiner = refiner_of(config, vanilla.transcripts(ready.corpus), examples)
    questions: list[Question] = []
    exact = True
    for split in ready.refined:
        table = vanilla.stored(ready, split)
        refiner.backend = config.llm
        if table is None:
            table = vanilla.placeholder(ready, split)
            prompt = config.prompt
            shown = prompt.priors in ("predicted", "shuffled") or (
                prompt.dimensions and table.predicted_scores is not None
            )
            if shown or config.llm.simulated is not None:
                exact = False
                # Placeholders look alike where the predictions of other models will not.
                refiner.backend = replace(config.llm, model=f"{config.llm.model}#{model}")
        questions += refiner.questions(table)
    return questions, exact
