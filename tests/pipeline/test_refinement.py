"""Refinement goes one way: a table of arrays through the Lightning callback, in every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest

from lantern.pipeline import vanilla
from lantern.pipeline.preflight import ReadyRun, preflight
from lantern.pipeline.refinement import Refinement
from lantern.pipeline.run import run
from lantern.refine.callback import LLMRefinement
from lantern.tables import Fields, PredictionTable
from lantern.weighting.stage import apply_weighting, fit_weighting
from tests.composed import compose
from tests.pipeline.test_run import Recorder

Tiny = Callable[..., list[str]]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, bool]]]:
    """How often the callback ends a validation, by split and whether a model trains; no row is made of a table."""
    seen: Counter[tuple[str, bool]] = Counter()
    refine = LLMRefinement.on_validation_epoch_end

    def ended(self: LLMRefinement, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seen[self.split, trainer.state.fn == "fit"] += 1
        refine(self, trainer, module)

    def row(*_: Any) -> Any:
        raise AssertionError("a run works on arrays, not on rows")

    with monkeypatch.context() as patch:
        patch.setattr(LLMRefinement, "on_validation_epoch_end", ended)
        patch.setattr(PredictionTable, "__iter__", row)
        patch.setattr(PredictionTable, "row", row)
        yield seen


@pytest.mark.parametrize("fit_on", ["oof", "dev"])
def test_every_run_refines_by_the_callback_and_builds_no_row(
    tiny: Tiny, fit_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = tiny(f"weighting.fit_on={fit_on}", "trainer.epochs=1")
    with counted(monkeypatch) as first:
        result = run(preflight(compose(overrides)), Recorder())
    with counted(monkeypatch) as again:
        reused = run(preflight(compose([*overrides, "weighting=band"])), Recorder())
    assert first == again == {(fit_on, False): 1, ("test", False): 1}
    assert result["llm"]["calls"] == result["llm"]["prompts"] > 0
    assert reused["llm"]["calls"] == 0
    assert reused["llm"]["prompts"] == result["llm"]["prompts"]


def frozen(table: PredictionTable) -> PredictionTable:
    """*table* whose arrays raise when they are changed in place."""
    owners: list[Any] = [table] if table.fields is None else [table, table.fields]
    for owner in owners:
        for field in fields(owner):
            if isinstance(values := getattr(owner, field.name), np.ndarray):
                values.flags.writeable = False
    return table


@pytest.fixture
def ready(tiny: Tiny) -> ReadyRun:
    return preflight(compose(tiny("llm.simulated.failure_rate=0.3", "refine.repair=false", "weighting.guard=false")))


def drawn(ready: ReadyRun, split: str) -> PredictionTable:
    table = vanilla.placeholder(ready, split)
    return replace(table, vanilla=np.random.default_rng(0).dirichlet(np.ones(6), size=len(table)))


def test_no_stage_changes_a_table_in_place(ready: ReadyRun) -> None:
    transcripts = vanilla.transcripts(ready.corpus)
    start = frozen(drawn(ready, "dev"))
    with Refinement(ready.config, ready.backend, transcripts) as llm:
        refined, stats = llm.refine(start)
        again, _ = llm.refine(start)
    assert start.fields is None
    frozen(refined)
    assert stats.failed_fields > 0
    assert refined.fields is not None
    assert again.fields is not None
    for field in fields(Fields):
        np.testing.assert_array_equal(getattr(refined.fields, field.name), getattr(again.fields, field.name))
    # Fields that failed have no probabilities, and all others are distributions.
    np.testing.assert_allclose(refined.fields.probabilities.sum(axis=2), refined.fields.mask)
    assert stats.failed_fields <= (~refined.fields.mask).sum() < refined.fields.mask.size
    fitted = fit_weighting(ready.config.weighting, refined, seed=0, score_range=ready.corpus.score_range)
    merged, _ = apply_weighting(fitted, refined)
    assert refined.merged is None
    assert merged.merged is not None
    assert not np.shares_memory(merged.merged, refined.vanilla)
    for table in (start, refined):
        np.testing.assert_array_equal(table.vanilla, drawn(ready, "dev").vanilla)


def test_the_callback_keeps_the_dialogues_it_is_given(ready: ReadyRun) -> None:
    table, transcripts = drawn(ready, "dev"), vanilla.transcripts(ready.corpus)
    first = ready.split.dev[0]
    with Refinement(ready.config, ready.backend, transcripts) as llm:
        refined, _ = llm.callback("dev", [first]).refine(table)
    assert set(refined.dialogues) == {first}


def test_progress_and_result_of_a_file_that_was_saved(ready: ReadyRun, tmp_path: Path) -> None:
    recorder = Recorder()
    with Refinement(ready.config, ready.backend, vanilla.transcripts(ready.corpus), recorder.asking) as llm:
        refined, stats = llm.refine(drawn(ready, "dev"))
    assert recorder.progress[-1].done == recorder.progress[-1].total == stats.prompts
    refined.save(tmp_path / "t.parquet")
    loaded = PredictionTable.load(tmp_path / "t.parquet")
    one, other = (
        fit_weighting(ready.config.weighting, table, seed=0, score_range=ready.corpus.score_range).predict(table)
        for table in (refined, loaded)
    )
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
