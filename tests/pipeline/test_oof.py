"""Cross-fitting: the weighting sees only predictions for dialogues that the predicting model did not train on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.corpora.data import DialogueDataset
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.pipeline import train as stages
from lantern.pipeline.evaluate import notes
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.pipeline.store import record_test_read
from lantern.refine.questions import RefineStats
from lantern.tables import PredictionTable
from lantern.weighting.config import WeightingConfig
from lantern.weighting.stage import fit_weighting
from tests.composed import compose
from tests.pipeline.test_run import Recorder
from tests.rows import table_from_rows

Tiny = Callable[..., list[str]]


def oof(tiny: Tiny, *more: str) -> list[str]:
    return tiny("weighting.fit_on=oof", "trainer.epochs=2", *more)


def go(overrides: list[str], reporter: Recorder | None = None) -> dict[str, Any]:
    return run(preflight(compose(overrides)), reporter or Recorder())


def table(result: dict[str, Any], split: str) -> PredictionTable:
    return PredictionTable.load(Path(result["folder"]) / f"predictions.{split}.parquet")


def test_every_training_dialogue_is_predicted_by_a_model_that_did_not_train_on_it(tiny: Tiny) -> None:
    ready = preflight(compose(oof(tiny)))
    main, *folds = ready.vanilla_stages
    assert main.split.train == ready.split.train
    held = [i for stage in folds for i in stage.split.test]
    assert sorted(held) == sorted(ready.split.train)
    for stage in folds:
        assert not set(stage.split.train) & set(stage.split.test)
        assert stage.split.dev == ready.split.dev
        assert not set(ready.split.test) & {*stage.split.train, *stage.split.test}
    result = run(ready, Recorder())
    fitted = table(result, "oof")
    assert fitted.split == "oof"
    assert set(fitted.dialogues) == set(ready.split.train)
    assert fitted.coverage == 2
    assert not (Path(result["folder"]) / "predictions.dev.parquet").exists()
    assert result["weighting"]["fit_on"] == "oof"
    assert result["weighting"]["models"] == len(folds)
    assert result["weighting"]["test_model"] == "full"
    # The models of the folds and the main one are different models.
    stored = [
        PredictionTable.load(next(path.glob("vanilla.*.parquet")))
        for path in sorted((Path(result["folder"]).parent / "stages" / "train").iterdir())
    ]
    assert len({tuple(t.vanilla[0]) for t in stored}) == len(folds) + 1


def test_fold_models_are_reused(tiny: Tiny) -> None:
    first, recorder = go(oof(tiny)), Recorder()
    again = go(oof(tiny, "weighting=band"), recorder)
    assert recorder.epochs == []
    assert again["llm"]["calls"] == 0
    assert again["test"]["methods"]["vanilla"] == first["test"]["methods"]["vanilla"]


def test_a_limit_trains_only_the_folds_it_needs(tiny: Tiny) -> None:
    ready = preflight(compose(oof(tiny, "refine.limit_dialogues=2")))
    assert ready.refined["oof"] == ready.split.train[:2]
    assert len(ready.vanilla_stages) == 2
    result = run(ready, Recorder())
    assert set(table(result, "oof").dialogues) == set(ready.split.train[:2])
    assert any("first 2 dialogues of oof and test" in note for note in result["notes"])


def test_the_mean_of_the_folds_may_predict_test(tiny: Tiny) -> None:
    result = go(oof(tiny, "oof.test_model=mean", "trainer.epochs=1"))
    assert result["weighting"]["test_model"] == "mean"
    found = table(result, "test")
    runs = Path(result["folder"]).parent
    parts = [PredictionTable.load(path) for path in (runs / "stages" / "train").glob("*/vanilla.test.*.parquet")]
    assert len(parts) == result["weighting"]["models"]
    assert np.allclose(found.vanilla, np.mean([part.vanilla for part in parts], axis=0))
    assert np.allclose(found.vanilla.sum(axis=1), 1)


@pytest.mark.parametrize("other", ["weighting.fit_on=dev", "refine.enabled=false"])
def test_a_mean_of_folds_that_nobody_trains_is_refused(tiny: Tiny, other: str) -> None:
    with pytest.raises(UserError, match=f"oof.test_model=mean needs .*{other} trains none"):
        compose(oof(tiny, "oof.test_model=mean", other))


@pytest.mark.parametrize("fit_on", ["oof", "dev"])
def test_features_fitted_on_labels_are_told_in_the_result(tiny: Tiny, fit_on: str) -> None:
    corpus = generate_sample(dialogues=15)
    cards = {**corpus.cards, "text": replace(corpus.cards["text"], fitted_on="train-labels")}
    config = compose(tiny(f"weighting.fit_on={fit_on}"))
    told = [note for note in notes(config, replace(corpus, cards=cards), RefineStats()) if "training labels" in note]
    assert len(told) == 1
    assert told[0].startswith("text features")
    assert ("out-of-fold" in told[0]) == (fit_on == "oof")


def test_folds_by_groups_where_there_are_no_sessions(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from lantern.pipeline import preflight as prepare

    whole = generate_sample(dialogues=15)
    plain = replace(whole, dialogues=tuple(replace(d, session=None) for d in whole.dialogues))
    monkeypatch.setattr(prepare, "read_corpus", lambda config: plain)
    assert len(preflight(compose(oof(tiny, "oof.folds=4"))).vanilla_stages) == 5
    with pytest.raises(UserError, match="folds of"):
        preflight(compose(oof(tiny, "oof.folds=400")))


@pytest.mark.parametrize("fit_on", ["train", "in-sample"])
def test_in_sample_is_refused_and_says_why(tiny: Tiny, fit_on: str) -> None:
    with pytest.raises(UserError, match=r"trust it too much; use weighting\.fit_on=oof"):
        compose(tiny(f"weighting.fit_on={fit_on}"))
    with pytest.raises(UserError, match="trained on"):
        fit_weighting(WeightingConfig(), table_from_rows(("a", "b"), [], "train"))


def test_test_dialogues_are_not_built_while_anything_is_fitted(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = preflight(compose(oof(tiny)))
    built: list[str] = []
    original = DialogueDataset.__init__

    def record(self: DialogueDataset, corpus: Any, ids: Any, modalities: Any) -> None:
        built.extend(ids)
        original(self, corpus, ids, modalities)

    monkeypatch.setattr(DialogueDataset, "__init__", record)
    train, seen = stages.train, []

    def trained(*arguments: Any) -> Any:
        built.clear()
        result = train(*arguments)
        seen.append(set(built))
        return result

    monkeypatch.setattr(stages, "train", trained)
    run(ready, Recorder())
    assert len(seen) == len(ready.vanilla_stages)
    assert all(seen)
    assert not any(ids & set(ready.split.test) for ids in seen)


def _read(folder: Path) -> None:
    for _ in range(20):
        record_test_read(folder, "run", "0")


def test_every_reading_of_test_is_counted_once(tmp_path: Path, tiny: Tiny) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_read, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert record_test_read(tmp_path, "run", "0") == 80
    first, second = go(tiny("trainer.epochs=1")), go(tiny("trainer.epochs=1"))
    assert [r["protocol"]["test_reads_before"] for r in (first, second)] == [0, 1]
