from __future__ import annotations

import pytest
import torch

from lantern.corpora.data import CorpusDataModule, EpochSampler, collate
from lantern.corpora.folder import Corpus
from lantern.corpora.sample import generate_sample


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(dialogues=10)


def module(corpus: Corpus, **settings: object) -> CorpusDataModule:
    parts = {f"{part}_ids": corpus.splits[part] for part in ("train", "dev", "test")}
    return CorpusDataModule(corpus, batch_size=4, **parts, **settings)  # type: ignore[arg-type]


def test_test_dialogues_are_not_built_while_fitting(corpus: Corpus) -> None:
    data = module(corpus)
    data.setup("fit")
    with pytest.raises(KeyError, match="test"):
        data.test_dataloader()
    data.setup("test")
    assert len(data.test_dataloader().dataset) == len(corpus.splits["test"])  # type: ignore[arg-type]


def test_batches_follow_the_corpus(corpus: Corpus) -> None:
    batch = next(iter(module(corpus).loader(corpus.splits["dev"])))
    by_id = {d.id: d for d in corpus.dialogues}
    for b, name in enumerate(batch.dialogue_ids):
        dialogue = by_id[name]
        assert batch.ids[b] == [u.id for u in dialogue.utterances]
        assert int(batch.lengths[b]) == len(dialogue)
        assert batch.labels[b, : len(dialogue)].tolist() == [
            -1 if u.label is None else u.label for u in dialogue.utterances
        ]
        assert (batch.labels[b, len(dialogue) :] == -1).all()
        assert batch.scores[b, len(dialogue) :].isnan().all()
        for row, utterance in enumerate(dialogue.utterances):
            if utterance.scores is None:
                assert batch.scores[b, row].isnan().all()
            else:
                assert batch.scores[b, row].tolist() == pytest.approx([(s - 3) / 2 for s in utterance.scores if s])
        start = corpus.offsets()[name]
        torch.testing.assert_close(
            batch.features["audio"][b, : len(dialogue)],
            torch.from_numpy(corpus.features["audio"][start : start + len(dialogue)]),
        )
    assert batch.speakers[0, 0] == 0


def test_train_orders_differ_by_epoch_and_repeat_on_resume() -> None:
    sampler = EpochSampler(20, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))
    resumed = EpochSampler(20, seed=3)
    resumed.set_epoch(1)
    assert list(resumed) == second


def test_sizes_and_class_weights_come_from_train_alone(corpus: Corpus) -> None:
    sizes = module(corpus, modalities=["text", "audio"]).sizes("inverse")
    assert sizes.dims == {"text": 64, "audio": 32}
    labels = [
        u.label for d in corpus.dialogues if d.id in corpus.splits["train"] for u in d.utterances if u.label is not None
    ]
    assert sizes.class_weights is not None
    for k, weight in enumerate(sizes.class_weights):
        assert weight == pytest.approx(len(labels) / labels.count(k) if labels.count(k) else 0)
    assert module(corpus).sizes("none").class_weights is None


def test_collate_masks_padding(corpus: Corpus) -> None:
    data = module(corpus)
    data.setup("fit")
    items = [data._built["train"][i] for i in range(3)]
    batch = collate(items)
    assert batch.mask.sum() == sum(len(item["labels"]) for item in items)
    assert not batch.present["text"][~batch.mask].any()
    assert batch.to("cpu").features["text"].shape == batch.features["text"].shape
