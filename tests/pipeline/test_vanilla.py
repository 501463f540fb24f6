"""Vanilla predictions are made once per model and dialogues, stored, and read back ever after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lantern.errors import UserError
from lantern.pipeline import train as stages
from lantern.pipeline import vanilla
from lantern.pipeline.preflight import ReadyRun, preflight
from lantern.pipeline.run import run
from lantern.tables import PredictionTable
from tests.composed import compose
from tests.pipeline.test_run import Recorder

Tiny = Callable[..., list[str]]


@pytest.fixture
def ready(tiny: Tiny) -> ReadyRun:
    return preflight(compose(tiny("refine.limit_dialogues=1")))


def no_model(folder: Path) -> None:
    raise AssertionError(f"the model of {folder} is not needed")


def store(ready: ReadyRun, split: str, shift: float = 0.0) -> list[PredictionTable]:
    """Predictions for *split* as a model might store them, of all dialogues of each source."""
    tables = []
    for source in vanilla.sources(ready, split):
        rows = sum(len(ready.corpus.by_id[name]) for name in source.dialogues)
        vectors = np.tile([0.5 - shift, 0.1 + shift, 0.1, 0.1, 0.1, 0.1], (rows, 1))
        made = vanilla.vanilla_table(vanilla.transcripts(ready.corpus), source.dialogues, vectors, None, split)
        source.folder.mkdir(parents=True, exist_ok=True)
        made.save(source.file)
        tables.append(made)
    return tables


def test_stored_predictions_are_read_and_no_model_is_needed(ready: ReadyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanilla, "load_module", no_model)
    assert vanilla.stored(ready, "dev") is None
    (made,) = store(ready, "dev")
    (source,) = vanilla.sources(ready, "dev")
    before = source.file.read_bytes()
    table = vanilla.predict(ready, "dev")
    first = ready.split.dev[0]
    assert table.utterances.tolist() == [u.id for u in ready.corpus.by_id[first].utterances]
    stored = vanilla.stored(ready, "dev")
    assert stored is not None
    for found in (table, stored):
        np.testing.assert_array_equal(found.vanilla, made.keep({first}).vanilla)
    whole = vanilla.predict(replace(ready, backend=None), "dev")
    np.testing.assert_array_equal(whole.utterances, made.utterances)
    assert source.file.read_bytes() == before


def test_predictions_of_another_machine_are_taken_as_they_are(tiny: Tiny) -> None:
    overrides = tiny("trainer.epochs=1", "weighting.fit_on=oof")
    first = run(preflight(compose(overrides)), Recorder())
    ready = preflight(compose(overrides))
    (source,) = vanilla.sources(ready, "test")
    own = PredictionTable.load(source.file)
    # As another GPU rounds: another last digit.
    other = replace(own, vanilla=own.vanilla * (1 + np.linspace(-1e-6, 1e-6, own.vanilla.shape[1])))
    other.save(source.file)
    before = source.file.read_bytes()
    again = run(ready, Recorder())
    table = PredictionTable.load(ready.folder / "predictions.test.parquet")
    assert not np.array_equal(table.vanilla, own.vanilla)
    np.testing.assert_array_equal(table.vanilla, other.vanilla)
    assert source.file.read_bytes() == before
    assert again["llm"]["prompts"] == first["llm"]["prompts"]


def test_the_first_process_to_store_predictions_decides(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = preflight(compose(tiny("refine.enabled=false", "trainer.epochs=1")))
    run(ready, Recorder())
    (source,) = vanilla.sources(ready, "test")
    own = PredictionTable.load(source.file)
    source.file.unlink()
    predict_corpus = vanilla.predict_corpus

    def meanwhile(*arguments: object) -> PredictionTable:
        """Another process, of a machine that rounds otherwise, stores its predictions first."""
        store(ready, "test")
        return predict_corpus(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(vanilla, "predict_corpus", meanwhile)
    table = vanilla.predict(ready, "test")
    assert table.vanilla[0].tolist() == [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert own.vanilla.shape == table.vanilla.shape


def test_which_models_predict_a_split(tiny: Tiny) -> None:
    def named(*more: str) -> dict[str, list[tuple[str, ...]]]:
        ready = preflight(compose(tiny("weighting.fit_on=oof", "oof.folds=3", *more)))
        return {split: [s.dialogues for s in vanilla.sources(ready, split)] for split in ("dev", "oof", "test")}

    split = preflight(compose(tiny())).split
    found = named()
    assert (found["dev"], found["test"]) == ([split.dev], [split.test])
    assert len(found["oof"]) == 3
    assert sorted(name for part in found["oof"] for name in part) == sorted(split.train)
    assert named("oof.test_model=mean")["test"] == [split.test] * 3


def test_the_mean_of_the_folds_models(tiny: Tiny) -> None:
    ready = preflight(compose(tiny("weighting.fit_on=oof", "oof.folds=3", "oof.test_model=mean")))
    parts = store(ready, "test")
    for number, (source, table) in enumerate(zip(vanilla.sources(ready, "test"), parts, strict=True)):
        shift = np.array([-0.1, 0.1, 0, 0, 0, 0]) * number
        replace(table, vanilla=table.vanilla + shift).save(source.file)
    assert vanilla.predict(ready, "test").vanilla[0] == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])


def test_stored_predictions_are_named_by_split_and_dialogues(ready: ReadyRun, tmp_path: Path) -> None:
    names = {
        vanilla.Source(tmp_path, split, ids, ready.corpus).file
        for split in ("dev", "oof")
        for ids in (("a", "b"), ("b", "a"), ("a",), ("ab",))
    }
    assert len(names) == 8
    assert vanilla.Source(tmp_path, "dev", ("a", "b"), ready.corpus).file in names


def test_a_file_of_other_dialogues_is_refused(ready: ReadyRun) -> None:
    (made,) = store(ready, "dev")
    (source,) = vanilla.sources(ready, "dev")
    made.select(slice(1, None)).save(source.file)
    with pytest.raises(UserError, match=r"not the predictions of all \d+ dialogues; delete that file to make it again"):
        vanilla.predict(ready, "dev")
    source.file.write_bytes(b"x")
    with pytest.raises(UserError, match=r"not a predictions table .* delete that file to make it again"):
        vanilla.stored(ready, "dev")


def test_placeholders_are_as_long_as_predictions(ready: ReadyRun) -> None:
    table = vanilla.placeholder(ready, "dev")
    first = ready.split.dev[0]
    assert table.utterances.tolist() == [u.id for u in ready.corpus.by_id[first].utterances]
    assert table.vanilla.sum(axis=1) == pytest.approx(1)
    assert table.predicted_scores is not None
    plain = replace(ready, corpus=replace(ready.corpus, score_range=None))
    assert vanilla.placeholder(plain, "dev").predicted_scores is None


def test_a_damaged_model_is_named(ready: ReadyRun) -> None:
    (source,) = vanilla.sources(ready, "dev")
    source.folder.mkdir(parents=True)
    (source.folder / stages.BEST).write_bytes(b"x")
    with pytest.raises(UserError, match=r"best\.ckpt"):
        vanilla.predict(ready, "dev")
