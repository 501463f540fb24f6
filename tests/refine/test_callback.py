from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lantern.corpora.data import CorpusDataModule
from lantern.corpora.folder import Corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue
from lantern.models.module import MultiTaskModule
from lantern.models.prediction import StoredPredictions, TableBuilder, Transcripts
from lantern.refine.callback import LLMRefinement, score
from lantern.refine.questions import RefineStats
from lantern.tables import Fields, PredictionTable


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(dialogues=10)


class Counter:
    """Refines by fields that all failed, and keeps the vanilla tables."""

    def __init__(self) -> None:
        self.tables: list[PredictionTable] = []

    def __call__(self, table: PredictionTable) -> tuple[PredictionTable, RefineStats]:
        self.tables.append(table)
        failed = Fields.empty(len(table), 2, len(table.classes), 4)
        return dataclasses.replace(table, fields=failed), RefineStats(fields=2 * len(table))


def transcripts(corpus: Corpus, score_range: tuple[float, float] | None = (1.0, 5.0)) -> Transcripts:
    return Transcripts(corpus.by_id, corpus.label_set, score_range)


def fit(
    corpus: Corpus, when: str, epochs: int, folder: Path, every_n: int = 2, **options: object
) -> tuple[Counter, LLMRefinement]:
    data = CorpusDataModule(
        corpus,
        train_ids=corpus.splits["train"],
        dev_ids=corpus.splits["dev"],
        test_ids=corpus.splits["test"],
        batch_size=3,
    )
    model = {"hidden": 8, "layers": 1, "dropout": 0.0, "bidirectional": False}
    module = MultiTaskModule("gru", model, dataclasses.asdict(data.sizes("inverse")), optimizer={"lr": 1e-2})
    counter = Counter()
    callback = LLMRefinement(counter, TableBuilder(transcripts(corpus)), when=when, every_n=every_n)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "c.ckpt")
    return counter, callback


def test_the_sanity_check_spends_nothing(corpus: Corpus, tmp_path: Path) -> None:
    counter, callback = fit(corpus, "every_n", 1, tmp_path, every_n=1, num_sanity_val_steps=2)
    assert len(counter.tables) == len(callback.state_dict()["history"]) == 1


@pytest.mark.parametrize(("when", "expected"), [("end", {0}), ("every_n", {2}), ("best", {1, 2, 3, 4, 5})])
def test_when(corpus: Corpus, tmp_path: Path, when: str, expected: set[int]) -> None:
    counter, callback = fit(corpus, when, 5, tmp_path)
    assert len(counter.tables) in expected
    history = callback.state_dict()["history"]
    assert len(history) == len(counter.tables)
    if when == "best":
        scores = [entry["vanilla_weighted_f1"] for entry in history]
        assert scores == sorted(set(scores))


def test_its_state_is_plain_and_comes_back(corpus: Corpus, tmp_path: Path) -> None:
    _, callback = fit(corpus, "every_n", 2, tmp_path)
    state = torch.load(tmp_path / "c.ckpt", weights_only=True)["callbacks"]
    saved = next(value for key, value in state.items() if "LLMRefinement" in key)
    fresh = LLMRefinement(callback.refine, callback.builder)
    fresh.load_state_dict(saved)
    assert fresh.state_dict() == callback.state_dict()


def test_the_table_holds_every_dev_utterance_in_corpus_order(corpus: Corpus, tmp_path: Path) -> None:
    counter, _ = fit(corpus, "every_n", 2, tmp_path)
    table = counter.tables[0]
    wanted = [u.id for d in corpus.dialogues if d.id in corpus.splits["dev"] for u in d.utterances]
    assert table.utterances.tolist() == wanted
    assert table.split == "dev"
    np.testing.assert_allclose(table.vanilla.sum(axis=1), 1, atol=1e-12)
    assert table.predicted_scores is not None
    assert table.predicted_scores.min() >= 1


def test_score_and_mean_without_labels_or_replies(corpus: Corpus, tmp_path: Path) -> None:
    counter, _ = fit(corpus, "every_n", 2, tmp_path)
    table = counter.tables[0]
    np.testing.assert_array_equal(table.uniform_mean(), table.vanilla)
    assert score(dataclasses.replace(table, labels=np.full(len(table), -1)), table.vanilla) == 0.0


def test_stored_predictions_are_refined_as_a_models_are(corpus: Corpus, tmp_path: Path) -> None:
    counter, trained = fit(corpus, "every_n", 2, tmp_path)
    table = counter.tables[0]
    callback = LLMRefinement(counter, TableBuilder(transcripts(corpus)), split="oof")
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(StoredPredictions(table), verbose=False)
    (_, again) = counter.tables
    assert again.split == "oof"
    for name in ("dialogues", "utterances", "vanilla", "predicted_scores", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert callback.stats == trained.stats == RefineStats(fields=2 * len(table))
    assert callback.table is not None
    assert callback.table.coverage == 2
    assert again.fields is None


def batch(*dialogues: Dialogue) -> SimpleNamespace:
    return SimpleNamespace(dialogue_ids=[dialogue.id for dialogue in dialogues])


def test_outputs_of_a_batch_go_to_their_utterances(corpus: Corpus) -> None:
    builder = TableBuilder(transcripts(corpus))
    chosen = corpus.dialogues[:3]
    count = sum(len(d) for d in chosen)
    marks = torch.linspace(0.1, 0.9, count)
    probabilities = torch.stack([marks, *[(1 - marks) / 5] * 5], dim=1)
    scores = torch.stack([2 * marks - 1, torch.full((count,), 0.5), torch.full((count,), 3.0)], dim=1)
    # Two in one step, the third one earlier: the table is in corpus order all the same.
    last = count - len(chosen[2])
    builder.add(batch(chosen[2]), {"probabilities": probabilities[last:], "scores": scores[last:]})
    builder.add(batch(*chosen[:2]), {"probabilities": probabilities[:last], "scores": scores[:last]})
    table = builder.table("dev")
    assert table.utterances.tolist() == [u.id for d in chosen for u in d.utterances]
    np.testing.assert_allclose(table.vanilla[:, 0], marks.numpy(), atol=1e-6)
    predicted = table.predicted_scores
    assert predicted is not None
    np.testing.assert_allclose(predicted[:, 0], 3 + 2 * (2 * marks.numpy() - 1), atol=1e-5)
    # Half way from the middle of the scale to its end, and beyond it.
    assert predicted[:, 1:].tolist() == [[4.0, 5.0]] * count
    unrated = TableBuilder(transcripts(corpus, score_range=None))
    first = len(chosen[0])
    unrated.add(batch(chosen[0]), {"probabilities": probabilities[:first], "scores": scores[:first]})
    assert unrated.table("dev").predicted_scores is None
    without_head = TableBuilder(transcripts(corpus))
    without_head.add(batch(chosen[0]), {"probabilities": probabilities[:first], "scores": None})
    assert without_head.table("dev").predicted_scores is None
    builder.clear()
    builder.add(batch(chosen[1]), {"table": table.keep({chosen[1].id})})
    np.testing.assert_array_equal(builder.table("dev").vanilla, table.keep({chosen[1].id}).vanilla)
