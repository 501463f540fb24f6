"""What a run would train, send and cost. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lantern.files import digest
from lantern.pipeline.preflight import Prepared, VanillaStage
from lantern.pipeline.refinement import refiner_of
from lantern.pipeline.train import keep_dialogues, load_vanilla, mean_table, vanilla_path
from lantern.refine.estimate import Estimate, estimate, tokenizer_of
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Price, Request
from lantern.tables import PredictionTable, Row, concatenate


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one run or of all runs of a sweep; what several runs share is counted once."""

    to_train: int
    to_reuse: int
    """Vanilla models that are trained already."""
    dialogues: int
    """Asked about, summed over runs and splits."""
    fields: int
    """Receptive fields in them."""
    asking: Estimate | None
    """None when no LLM is asked."""
    exact: bool
    """All vanilla predictions are known, so that the prompts are those that will be sent; else they hold placeholders
    of the same length and none of them can be in the ledger."""
    price: Price | None
    example: Request | None
    """One prompt, whole."""


def plan(runs: Sequence[Prepared]) -> Plan:
    """The plan of *runs*, which must ask the same LLM.

    Raises:
        UserError: the ledger is damaged, or the price or the tokenizer cannot be had.
    """
    to_train, to_reuse = models(runs)
    asking = [ready for ready in runs if ready.backend is not None]
    if not asking:
        return Plan(to_train, to_reuse, 0, 0, None, True, None, None)
    first = asking[0]
    config = first.config
    requests: list[Request] = []
    exact = True
    fields = 0
    numbers: dict[str, int] = {}
    for ready in asking:
        model = digest([stage.inputs for stage in ready.vanilla_stages])
        questions, known = _requests(ready, numbers.setdefault(model, len(numbers) + 1))
        requests += questions
        fields += len(questions) // ready.config.refine.samples
        exact = exact and known
    ledger = Ledger.if_there(config.ledger)
    price = config.llm.price
    if price is None and config.llm.simulated is None:
        first.backend.prepare()
        price = first.backend.price
    if price is not None and config.refine.batch:
        price = price.times(config.llm.batch_price_share)
    tokenizer = tokenizer_of(config.llm, config.llm.simulated is not None)
    found = estimate(requests, config.llm, price, tokenizer, ledger)
    if config.llm.simulated is not None:
        found = replace(found, latency=0.0, seconds=0.0)
    if ledger is not None:
        ledger.close()
    dialogues = sum(len(ids) for ready in asking for ids in ready.asked.values())
    return Plan(to_train, to_reuse, dialogues, fields, found, exact, price, requests[0] if requests else None)


def models(runs: Sequence[Prepared]) -> tuple[int, int]:
    """Vanilla models that *runs* need: how many are to be trained, how many are there already."""
    stages = {str(_folder(ready, stage)): stage.done for ready in runs for stage in ready.vanilla_stages}
    done = sum(stages.values())
    return len(stages) - done, done


def _folder(ready: Prepared, stage: VanillaStage) -> Path:
    return ready.store.folder("train", stage.inputs)


def _requests(ready: Prepared, model: int) -> tuple[list[Request], bool]:
    """Every question of one run, whose vanilla models are the *model*-th of the plan, and whether all of them are the
    very ones that will be sent."""
    config, corpus = ready.config, ready.corpus
    refiner = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range)
    requests: list[Request] = []
    exact = True
    for split, ids in ready.asked.items():
        table = _stored(ready, split)
        changes: dict[str, Any] = {}
        if table is None:
            exact, table = False, _placeholder(ready, split, ids)
            # Placeholders look alike where the predictions of other models will not.
            changes = {"model": f"{config.llm.model}#{model}"}
        keep_dialogues(table, ids)
        asked = [request for question in refiner.questions(table) for request in question.requests]
        requests += [replace(request, **changes) for request in asked]
    return requests, exact


def _stored(ready: Prepared, split: str) -> PredictionTable | None:
    """The vanilla predictions of *split*, if they have been made."""
    main, *folds = ready.vanilla_stages
    if split == "test" and ready.config.oof.test_model == "mean" and folds:
        parts = [(stage, ready.split.test) for stage in folds]
    elif split == "oof":
        parts = [(stage, stage.split.test) for stage in folds]
    else:
        parts = [(main, ready.split.dev if split == "dev" else ready.split.test)]
    paths = [vanilla_path(_folder(ready, stage), split, ids) for stage, ids in parts]
    if not all(path.is_file() for path in paths):
        return None
    tables = [load_vanilla(path, ready.corpus, ids) for path, (_, ids) in zip(paths, parts)]
    return mean_table(tables) if split == "test" else concatenate(tables, split)


def _placeholder(ready: Prepared, split: str, ids: Sequence[str]) -> PredictionTable:
    """A table whose prompts are as long as the real ones."""
    corpus, classes = ready.corpus, ready.corpus.label_set.classes
    scores = None
    if corpus.score_range is not None and ready.config.model.dimensions:
        scores = [sum(corpus.score_range) / 2] * 3
    rows = [
        Row(name, u.id, index, u.speaker, u.label, None, [1 / len(classes)] * len(classes), scores)
        for name in ids
        for index, u in enumerate(corpus.by_id[name].utterances)
    ]
    return PredictionTable(classes, rows, split)
