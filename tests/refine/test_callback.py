from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lantern.corpora.data import CorpusDataModule
from lantern.corpora.folder import Corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.models.module import MultiTaskModule
from lantern.refine.callback import LLMRefinement, PredictionCollector, score, uniform_mean
from lantern.refine.questions import RefineStats
from lantern.tables import FieldReply, PredictionTable, Row


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(dialogues=10)


class Counter:
    def __init__(self) -> None:
        self.tables: list[PredictionTable] = []

    def __call__(self, table: PredictionTable) -> RefineStats:
        self.tables.append(table)
        return RefineStats()


def fit(
    corpus: Corpus, when: str, epochs: int, folder: Path, every_n: int = 2, **options: object
) -> tuple[Counter, LLMRefinement]:
    import dataclasses

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
    collector = PredictionCollector({d.id: d for d in corpus.dialogues}, corpus.label_set, corpus.score_range)
    callback = LLMRefinement(counter, collector, when=when, every_n=every_n)
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
    fresh = LLMRefinement(None, callback.collector)
    fresh.load_state_dict(saved)
    assert fresh.state_dict() == callback.state_dict()


def test_the_table_holds_every_dev_utterance_in_corpus_order(corpus: Corpus, tmp_path: Path) -> None:
    counter, _ = fit(corpus, "every_n", 2, tmp_path)
    rows = counter.tables[0].rows
    wanted = [u.id for d in corpus.dialogues if d.id in corpus.splits["dev"] for u in d.utterances]
    assert [row.utterance for row in rows] == wanted
    np.testing.assert_allclose([sum(row.vanilla) for row in rows], 1, atol=1e-12)
    assert all(row.predicted_scores is not None and min(row.predicted_scores) >= 1 for row in rows)


def test_score_and_mean_without_labels_or_replies(corpus: Corpus, tmp_path: Path) -> None:
    counter, _ = fit(corpus, "every_n", 2, tmp_path)
    table = counter.tables[0]
    np.testing.assert_array_equal(uniform_mean(table), table.vanilla)
    for row in table.rows:
        row.label = None
    assert score(table, table.vanilla) == 0.0


def test_the_mean_is_of_the_replies_that_are_there() -> None:
    replies = ([[0.8, 0.2], [0.4, 0.6]], [None, [0.1, 0.9]], [None, None])
    rows = [
        Row("d", str(n), n, "A", 0, None, [0.5, 0.5], fields=[FieldReply(k, 2, 0, p) for k, p in enumerate(given)])
        for n, given in enumerate(replies)
    ]
    table = PredictionTable(("a", "b"), rows)
    np.testing.assert_allclose(uniform_mean(table), [[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])


def test_outputs_of_a_batch_go_to_their_utterances(corpus: Corpus) -> None:
    collector = PredictionCollector(corpus.by_id, corpus.label_set, (1.0, 5.0))
    chosen = corpus.dialogues[:3]
    count = sum(len(d) for d in chosen)
    marks = torch.linspace(0.1, 0.9, count)
    probabilities = torch.stack([marks, *[(1 - marks) / 5] * 5], dim=1)
    scores = torch.stack([2 * marks - 1, torch.full((count,), 0.5), torch.full((count,), 3.0)], dim=1)
    # Two in one step, the third one earlier: the table is in corpus order all the same.
    last = count - len(chosen[2])
    collector.add([chosen[2].id], [len(chosen[2])], {"probabilities": probabilities[last:], "scores": scores[last:]})
    outputs = {"probabilities": probabilities[:last], "scores": scores[:last]}
    collector.add([d.id for d in chosen[:2]], [len(d) for d in chosen[:2]], outputs)
    rows = collector.table("dev").rows
    assert [row.utterance for row in rows] == [u.id for d in chosen for u in d.utterances]
    np.testing.assert_allclose([row.vanilla[0] for row in rows], marks.numpy(), atol=1e-6)
    found = np.array([row.predicted_scores for row in rows])
    np.testing.assert_allclose(found[:, 0], 3 + 2 * (2 * marks.numpy() - 1), atol=1e-5)
    # Half way from the middle of the scale to its end, and beyond it.
    assert found[:, 1:].tolist() == [[4.0, 5.0]] * count
    unrated = PredictionCollector(corpus.by_id, corpus.label_set, None)
    unrated.add([chosen[0].id], [len(chosen[0])], outputs | {"probabilities": probabilities[: len(chosen[0])]})
    assert unrated.table("dev").rows[0].predicted_scores is None
