"""From refined tables to the numbers of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger

from lantern.config.schema import RunConfig
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.overlaps import PAPER_STYLE, training_texts
from lantern.environment import machine, versions
from lantern.errors import UserError
from lantern.metrics.classification import classification_report
from lantern.metrics.paired import METRICS
from lantern.metrics.slices import slice_parts, slice_report
from lantern.pipeline.preflight import ReadyRun, too_wide
from lantern.refine.backends.simulated import evidence
from lantern.refine.questions import RefineStats
from lantern.results.scores import methods, split_result
from lantern.results.summary import incomplete_line
from lantern.tables import PredictionTable
from lantern.weighting.simulation import softmax
from lantern.weighting.stage import apply_weighting, compare_baselines, fit_weighting


def evaluate(
    ready: ReadyRun, tables: dict[str, PredictionTable], stats: RefineStats, lacking: dict[str, Any] | None = None
) -> tuple[dict[str, PredictionTable], dict[str, Any]]:
    """Fit the weighting on the out-of-fold or the dev table, merge both tables, compute every number.

    *lacking* is what :func:`incomplete` says of the test part.
    """
    config, corpus, refined = ready.config, ready.corpus, ready.backend is not None
    test = tables["test"]
    if not test.labelled.any():
        raise UserError(
            f"no utterance of the test dialogues of corpus {corpus.name!r} is labelled: nothing to evaluate"
        )
    parts = slice_parts(test, corpus.by_id, training_texts(corpus, ready.split))
    tables, numbers = measure(config, tables, parts, corpus.score_range, ready.folder)
    if refined and config.weighting.fit_on == "oof":
        numbers["weighting"] |= {"models": len(ready.vanilla_stages) - 1, "test_model": config.oof.test_model}
    result = {
        "title": f"{corpus.name}, {config.backbone['name']}, {config.llm.name if refined else 'no LLM'}"
        + (", paper-style" if config.protocol.selection == "paper-style" else "")
        + (", incomplete" if lacking is not None else ""),
        "incomplete": lacking,
        "folder": str(ready.folder),
        "key": ready.key,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "machine": machine(gpu=config.trainer.accelerator != "cpu"),
        "seed": config.seed,
        "backbone": config.backbone["name"],
        "corpus": {
            "name": corpus.name,
            "label_set": corpus.label_set.name,
            "fingerprint": corpus.fingerprint,
            "made_up": corpus.made_up,
        },
        "protocol": {**ready.protocol, "fold": config.protocol.fold},
        "prompt": {"name": config.prompt.name, "version": config.prompt.version, "digest": config.prompt.digest},
        "llm": {"name": config.llm.name, "model": config.llm.model, **asdict(stats)} if refined else None,
        **numbers,
        "notes": [
            *([] if lacking is None else [incomplete_line(lacking)]),
            *too_wide(ready),
            *notes(config, corpus, stats),
        ],
    }
    return tables, result


def measure(
    config: RunConfig,
    tables: dict[str, PredictionTable],
    parts: Mapping[str, np.ndarray],
    score_range: tuple[float, float] | None,
    folder: Path,
) -> tuple[dict[str, PredictionTable], dict[str, Any]]:
    """The merged tables, and every number that follows from *tables* alone: no corpus and no LLM is needed.

    Args:
        config: seed and weighting.
        tables: ``test``, and the one that the weighting is fitted on.
        parts: of the test table, see :func:`lantern.metrics.slices.slice_parts`.
        score_range: of the corpus.
        folder: the run folder; the weighting's checkpoint and curve are written there.
    """
    weighting: dict[str, Any] | None = None
    baselines: dict[str, Any] = {}
    if tables["test"].fields is not None:
        fit_on = config.weighting.fit_on
        fitted = fit_weighting(
            config.weighting,
            tables[fit_on],
            seed=config.seed,
            score_range=score_range,
            folder=folder / "checkpoints",
            trainer={"logger": CSVLogger(folder, name="", version="weighting"), "log_every_n_steps": 1},
        )
        baselines = compare_baselines(
            tables[fit_on],
            tables["test"],
            config=config.weighting,
            seed=config.seed,
            score_range=score_range,
            fitted=fitted,
        )
        merged_tables = {name: apply_weighting(fitted, table) for name, table in tables.items()}
        tables = {name: table for name, (table, _) in merged_tables.items()}
        weights = merged_tables["test"][1]
        weighting = {"name": config.weighting.name, "fit_on": fit_on, **fitted.report, "weights": weights}
    merged = methods(tables["test"], baselines)
    slices = slice_report(tables["test"], merged, parts, config.seed)
    possible = _possible(config, tables["test"], baselines)
    return tables, {
        "weighting": weighting,
        "test": {**split_result(tables["test"], merged, config.seed), "slices": slices, "possible": possible},
        # The weighting was fitted on this table: only its vanilla numbers mean anything.
        **{
            name: split_result(table, {"vanilla": table.vanilla}, config.seed)
            for name, table in tables.items()
            if name != "test" and table.labelled.any()
        },
    }


def _possible(config: RunConfig, test: PredictionTable, baselines: Mapping[str, np.ndarray]) -> dict[str, float] | None:
    """Accuracy and weighted F1 of the best possible merge; None unless it is known, as of a simulated LLM.

    It adds to the tempered vanilla prediction what the replies say to whoever knows how they were drawn.
    """
    if config.llm.simulated is None or config.refine.samples > 1 or test.fields is None:
        return None
    known = evidence(config.llm.simulated, test, config.refine.before, config.refine.after)
    if known is None:
        return None
    best = softmax(np.log(np.maximum(baselines["temperature"], 1e-12)) + known)
    report = classification_report(best, test.labels, test.classes)
    return {metric: report[metric] for metric in METRICS}


def incomplete(test: RefineStats, least: float) -> dict[str, Any] | None:
    """What is missing of the test part, where less than the share *least* of its fields got a reply; else None."""
    answered = test.fields - test.unanswered
    if answered >= least * test.fields:
        return None
    return {"answered": answered, "fields": test.fields, "reason": test.reason}


def notes(config: RunConfig, corpus: Corpus, stats: RefineStats) -> list[str]:
    """What a reader of the numbers must know."""
    lines = []
    if config.protocol.selection == "paper-style":
        lines.append(f"{PAPER_STYLE}: compare these numbers with printed ones that were chosen so, with nothing else")
    if corpus.made_up:
        lines.append("the corpus is made up by a generator: these numbers say nothing about people")
    if corpus.contaminated:
        lines.append(corpus.contaminated)
    if config.refine.enabled and config.llm.simulated is not None:
        lines.append("the LLM is simulated from the gold labels: these numbers say nothing about any LLM")
    labelled_on = [name for name, card in corpus.cards.items() if card.fitted_on == "train-labels"]
    if labelled_on:
        also = ""
        whole = [name for name in labelled_on if not corpus.cards[name].fits]  # no fold has features of its own
        if whole and config.refine.enabled and config.weighting.fit_on == "oof":
            also = ", the out-of-fold ones that the weighting is fitted on too: it may trust the vanilla model too much"
        lines.append(
            f"{', '.join(labelled_on)} features were fitted on training labels: predictions on training dialogues "
            f"are over-confident{also}"
        )
    if config.refine.enabled and config.refine.limit_dialogues is not None:
        lines.append(
            f"only the first {config.refine.limit_dialogues} dialogues of {config.weighting.fit_on} and test were "
            "refined and scored"
        )
    budget = stats.failures.get("budget", 0)
    if budget:
        lines.append(
            f"refine.max_cost={config.refine.max_cost:g} stopped the LLM after {stats.fields - budget} of "
            f"{stats.fields} fields; what was bought is kept, and a higher max_cost goes on from there"
        )
    return lines
