"""The words behind a run, for the dialogue reader: those of its turns, of its prompts and of the replies. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lantern.config.compose import read_config
from lantern.config.schema import RunConfig
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.protocols.splits import folds, resolve_split
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, LabelSet
from lantern.errors import UserError
from lantern.results.load import Run
from lantern.tables import PredictionTable

if TYPE_CHECKING:
    from lantern.refine.demonstrations import Demonstrations
    from lantern.refine.engine.base import Chain
    from lantern.refine.ledger.ledger import Ledger
    from lantern.refine.questions import Refiner
    from lantern.refine.types import Outcome


@dataclass(frozen=True, slots=True)
class Texts:
    """Text by utterance id, or why there is none."""

    by_id: dict[str, str]
    note: str = ""
    corpus: Corpus | None = None
    """Where its text may be shown."""


def texts_of(run: Run, with_text: bool) -> Texts:
    """Text of the utterances of *run*'s corpus, read from the corpus folder that its configuration names.

    Args:
        run: any run of the corpus.
        with_text: also where the licence forbids passing the text on.
    """
    try:
        corpus = corpus_of(run)
    except UserError as error:
        return Texts({}, f"turns are shown by their ids, without text: {error}")
    if corpus.redistribution == "forbidden" and not with_text:
        return Texts({}, f"turns are shown by their ids: the licence of {corpus.name} forbids passing its text on")
    if corpus.fingerprint != run.result["corpus"].get("fingerprint"):
        where = (run.config.get("corpus") or {}).get("path") or "the generator's corpus"
        return Texts({}, f"turns are shown by their ids, without text: {where} is not the corpus of the run any more")
    return Texts({u.id: u.text for u in corpus.utterances}, corpus=corpus)


def corpus_of(run: Run) -> Corpus:
    """The corpus that *run*'s configuration names, as it is now.

    Raises:
        UserError: it is not there, or damaged.
    """
    wanted = run.config.get("corpus") or {}
    limit = wanted.get("limit_dialogues")
    if wanted.get("path") is not None:
        corpus = load_corpus(Path(wanted["path"]), features=limit is not None)  # they are part of a cut fingerprint
    elif wanted.get("name") == "sample":
        corpus = generate_sample(seed=wanted.get("seed", 0), dialogues=wanted.get("dialogues", 60))
    else:
        raise UserError(f"the run's configuration names no folder of corpus {wanted.get('name')!r}")
    return corpus if limit is None else corpus.limit(int(limit))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call about a field: what was sent, and what came back."""

    messages: tuple[tuple[str, str], ...]
    """Role and text; of a repair turn the further ones only."""
    reply: str
    failure: str
    """Kind of failure; empty for a reply that was used."""
    model: str
    tokens: tuple[int, int]
    """In and out."""
    cost: float | None
    """Dollars; None where the price is not known."""
    seconds: float
    repair: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asked its LLM about a predictions table."""

    fields: list[list[Attempt]]
    """Of every receptive field, its calls in order; empty where the ledger holds none."""
    of: np.ndarray
    """Which of *fields* an utterance has in a band, int ``[N, T]``; -1 for none."""


def refiner_of(
    config: RunConfig,
    dialogues: Mapping[str, Dialogue],
    labels: LabelSet,
    score_range: tuple[float, float] | None,
    examples: Demonstrations | None = None,
) -> Refiner:
    """Makes the questions of a configuration; needs neither ledger nor backend."""
    from lantern.refine.prompt import Prompt
    from lantern.refine.questions import Refiner

    prompt = Prompt(config.prompt, labels, score_range if config.model.dimensions else None, config.llm.elicitation)
    return Refiner(dialogues, prompt, config.refine, config.llm, config.llm.simulated, config.seed, examples)


def examples_of(config: RunConfig, corpus: Corpus, runs: Path, keep: bool = False) -> Demonstrations | None:
    """The demonstrations of a configuration; None where its prompt has none.

    Vectors are read from the stages in the folder *runs*; where they are not there they are made, and with *keep* kept:
    a prompt must never change, and the last digit of a vector may on another machine.
    """
    if not config.prompt.demonstrations or not config.refine.enabled:
        return None
    from lantern.refine.demonstrations import Demonstrations, meanings

    train = resolve_split(corpus, config.protocol, config.seed).train
    held_out = config.weighting.fit_on == "oof"
    pairs = folds(corpus, train, config.oof.folds, config.fold_seed) if held_out else []
    vectors = partial(meanings, place=runs / "stages" / "meanings", keep=keep)
    return Demonstrations(config.prompt, corpus.by_id, train, pairs, vectors, config.seed)


def asked_by(run: Run, corpus: Corpus, table: PredictionTable) -> Asked | str:
    """What *run* asked about the dialogues of *table*, from its ledger; or why that cannot be shown.

    A ledger on a server is left alone: a report asks nobody.
    """
    from lantern.refine.ledger.ledger import Ledger
    from lantern.refine.ledger.location import is_url

    try:
        config = read_config(run.folder / "config.yaml")
        place = config.refine.ledger or str(run.folder.parent / "ledger.sqlite")
        if is_url(place):
            return "prompts and replies are in a ledger on a server, which a report does not ask"
        ledger = Ledger.if_there(place)
        if ledger is None:
            return f"prompts and replies are not shown: {place} is not there"
        with ledger:
            examples = examples_of(config, corpus, run.folder.parent)
            refiner = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range, examples)
            return asked_of(refiner, ledger, table)
    except (UserError, ValueError, KeyError) as error:
        return f"prompts and replies are not shown: {error}"


def asked_of(refiner: Refiner, ledger: Ledger, table: PredictionTable) -> Asked:
    """What *ledger* holds of the questions of *refiner* about *table*; nothing is sent and nothing is written."""
    from lantern.refine.engine.base import BaseEngine, Chains

    engine = BaseEngine(None, ledger)

    def known(chains: list[Chain]) -> dict[str, Outcome]:
        stored = ledger.get_many([chain.key for chain in chains])
        return {c.key: engine.outcome(c.request, stored[c.key]) for c in chains if c.key in stored}

    questions = refiner.questions(table)
    chains = Chains([request for question in questions for request in question.requests], refiner.repair)
    chains.take(chains.all, known)
    histories = iter(chains.outcomes)
    of, fields = np.full((len(table), table.coverage), -1), []
    for number, question in enumerate(questions):
        of[list(question.rows), [question.field.band(i) for i in question.targets]] = number
        attempts: list[Attempt] = []
        for request in question.requests:
            messages = request.messages
            for turn, outcome in enumerate(next(histories)):
                further = refiner.repair(request, outcome) if turn == 0 else None
                attempts.append(_attempt(messages, outcome, repair=turn > 0))
                messages = () if further is None else further.messages[len(request.messages) :]
        fields.append(attempts)
    return Asked(fields, of)


def _attempt(messages: tuple[dict[str, str], ...], outcome: Outcome, repair: bool) -> Attempt:
    from lantern.refine.types import Failure

    reply = outcome.reply
    return Attempt(
        messages=tuple((message["role"], message["content"]) for message in messages),
        reply="" if reply is None else reply.text,
        failure=f"{outcome.kind}: {outcome.message}" if isinstance(outcome, Failure) else "",
        model="" if reply is None else reply.model or "",
        tokens=(0, 0) if reply is None else (reply.usage.input, reply.usage.output),
        cost=0.0 if reply is None else reply.cost,
        seconds=0.0 if reply is None else reply.latency,
        repair=repair,
    )
