from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lantern.corpora.data import CorpusDataModule, DialogueDataset, EpochSampler, collate
from lantern.corpora.folder import Corpus, FeatureCard, load_corpus
from lantern.corpora.labels import label_set
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError
from lantern.models.batch import Batch


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(dialogues=20)


def module(corpus: Corpus, **settings: Any) -> CorpusDataModule:
    parts = {f"{part}_ids": corpus.splits[part] for part in ("train", "dev", "test")}
    return CorpusDataModule(corpus, **{"batch_size": 4, **parts, **settings})


def test_test_dialogues_are_not_built_while_fitting(corpus: Corpus) -> None:
    data = module(corpus)
    data.setup("fit")
    assert set(data._built) == {"train", "dev"}
    with pytest.raises(RuntimeError, match="test dialogues are not set up"):
        data.test_dataloader()
    fresh = module(corpus)
    fresh.setup("validate")
    assert set(fresh._built) == {"dev"}
    fresh.setup("test")
    assert [i for batch in fresh.test_dataloader() for i in batch.dialogue_ids] == list(corpus.splits["test"])


class _Watcher(pl.LightningModule):
    """Keeps the dialogue ids that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 1)
        self.seen: dict[str, list[list[str]]] = {"train": [], "dev": [], "test": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if batch_idx == 0:
            self.seen["train"].append([])
        self.seen["train"][-1] += batch.dialogue_ids
        return self.layer(batch.features["text"]).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["dev"].append(batch.dialogue_ids)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"].append(batch.dialogue_ids)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(corpus: Corpus, epochs: int, resume: str | None = None, save: str | None = None) -> _Watcher:
    watcher = _Watcher()
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **options)
    data = module(corpus, seed=5)
    trainer.fit(watcher, datamodule=data, ckpt_path=resume, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    trainer.test(watcher, datamodule=data, verbose=False)
    return watcher


def test_under_lightning_orders_are_fresh_each_epoch_and_the_same_after_a_resume(corpus: Corpus, tmp_path: Any) -> None:
    whole = _fit(corpus, epochs=4).seen
    _fit(corpus, epochs=2, save=str(tmp_path / "x.ckpt"))
    resumed = _fit(corpus, epochs=4, resume=str(tmp_path / "x.ckpt")).seen
    assert len({tuple(order) for order in whole["train"]}) == 4
    assert all(sorted(order) == sorted(corpus.splits["train"]) for order in whole["train"])
    assert resumed["train"] == whole["train"][2:]
    assert [i for ids in whole["test"] for i in ids] == list(corpus.splits["test"])
    assert all(ids == whole["dev"][0] for ids in whole["dev"])


def test_orders_depend_on_seed_and_epoch_together() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = EpochSampler(20, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16
    assert sorted(order(1, 1)) == list(range(20))
    torch.manual_seed(0)
    first = order(2, 2)
    torch.manual_seed(1)
    assert order(2, 2) == first


def test_batches_follow_the_corpus(corpus: Corpus) -> None:
    batch = collate(list(DialogueDataset(corpus, corpus.splits["dev"], ["text", "audio", "visual"])))
    for b, name in enumerate(batch.dialogue_ids):
        dialogue = corpus.by_id[name]
        length = len(dialogue)
        assert batch.ids[b] == [u.id for u in dialogue.utterances]
        assert int(batch.lengths[b]) == length
        expected = [-1 if u.label is None else u.label for u in dialogue.utterances]
        assert batch.labels[b, :length].tolist() == expected
        for row, utterance in enumerate(dialogue.utterances):
            if utterance.scores is None:
                assert batch.scores[b, row].isnan().all()
            else:
                wanted = [(s - 3) / 2 for s in utterance.scores if s is not None]
                assert batch.scores[b, row].tolist() == pytest.approx(wanted)
        assert [dialogue.speakers[s] for s in batch.speakers[b, :length]] == [u.speaker for u in dialogue.utterances]
        for m in ("text", "audio", "visual"):
            np.testing.assert_array_equal(batch.features[m][b, :length], corpus.features[m][corpus.rows[name]])
            np.testing.assert_array_equal(batch.present[m][b, :length], corpus.present[m][corpus.rows[name]])


def test_a_corpus_folder_stays_on_the_disk(corpus: Corpus, tmp_path: Path) -> None:
    found = load_corpus(corpus.save(tmp_path / "c"))
    values = found.features["text"]
    assert not values.flags.owndata
    assert not values.flags.writeable
    np.testing.assert_array_equal(values, corpus.features["text"])
    data = DialogueDataset(found, found.splits["train"], ["text"])
    first = data[0].features["text"]
    first.zero_()
    assert data[0].features["text"].any()
    assert {name for kept in data._items for name in kept.features} == set()


def test_collate_pads_with_values_that_count_as_nothing(corpus: Corpus) -> None:
    items = list(DialogueDataset(corpus, corpus.splits["train"][:3], ["text", "visual"]))
    batch = collate(items)
    lengths = [len(item.labels) for item in items]
    assert len(set(lengths)) > 1
    padding = ~batch.mask
    assert batch.mask.shape == (3, max(lengths))
    assert batch.lengths.tolist() == lengths
    assert (batch.labels[padding] == -1).all()
    assert batch.scores[padding].isnan().all()
    assert not batch.features["text"][padding].any()
    assert not batch.present["visual"][padding].any()
    assert not batch.speakers[padding].any()
    assert (batch.labels.dtype, batch.speakers.dtype, batch.mask.dtype) == (torch.int64, torch.int64, torch.bool)
    assert batch.features["text"].dtype == batch.scores.dtype == torch.float32
    moved = module(corpus).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.features["visual"].device.type == moved.present["visual"].device.type == "meta"


def _tiny(score_range: tuple[float, float] | None) -> Corpus:
    turns = (
        Utterance("a", "x", "", 0, (0.0, 10.0, None)),
        Utterance("b", "y", "", None, None),
        Utterance("c", "z", "", 1, (5.0, 7.5, 2.5)),
    )
    made = Corpus("t", label_set("meld-7"), (Dialogue("d", turns),), {"train": ("d",)}, score_range=score_range)
    return made.with_features("text", np.ones((3, 2)), FeatureCard("x", "1", 2, 3))


def test_scores_are_mapped_from_the_corpus_scale_and_missing_ones_are_nan() -> None:
    scores = DialogueDataset(_tiny((0.0, 10.0)), ["d"], ["text"])[0].scores
    torch.testing.assert_close(
        scores, torch.tensor([[-1, 1, torch.nan], [torch.nan] * 3, [0, 0.5, -0.5]]), equal_nan=True
    )
    assert DialogueDataset(_tiny(None), ["d"], ["text"])[0].scores.isnan().all()


def test_tensors_do_not_share_memory_with_the_corpus() -> None:
    made = _tiny(None)
    DialogueDataset(made, ["d"], ["text"])[0].features["text"].zero_()
    assert made.features["text"].all()


def test_sizes_and_class_weights_come_from_train_alone(corpus: Corpus) -> None:
    data = module(corpus, modalities=["text", "audio"])
    sizes = data.sizes("inverse")
    assert sizes.dims == {"text": 64, "audio": 32}
    assert (sizes.classes, sizes.speakers) == (6, 3)
    labels = [u.label for i in corpus.splits["train"] for u in corpus.by_id[i].utterances if u.label is not None]
    assert sizes.class_weights is not None
    assert sizes.class_weights == pytest.approx([len(labels) / labels.count(k) for k in range(6)])
    assert data.sizes("none").class_weights is None
    tiny = CorpusDataModule(_tiny(None), ["d"], [], [], batch_size=1)
    assert tiny.sizes("inverse").class_weights == (2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert tiny.sizes().speakers == 3
    numbered = CorpusDataModule(replace(_tiny(None), speaker_numbers={"x": 4, "y": 0, "z": 1}), ["d"], [], [], 1)
    assert numbered.sizes().speakers == 5
    with pytest.raises(UserError, match=r"class_weights=balanced is not one of inverse, none"):
        data.sizes("balanced")


def test_bad_arguments_are_refused(corpus: Corpus) -> None:
    train, test = corpus.splits["train"], corpus.splits["test"]
    with pytest.raises(UserError, match="is in train and in test"):
        module(corpus, test_ids=(*test, train[0]))
    with pytest.raises(UserError, match="no dialogue 'nope', which is named in dev"):
        module(corpus, dev_ids=["nope"])
    with pytest.raises(UserError, match="has no 'smell' features; it has text, audio, visual"):
        module(corpus, modalities=["smell"])
    with pytest.raises(UserError, match="has no train dialogues"):
        module(corpus, train_ids=[])
    with pytest.raises(UserError, match="batch_size=0"):
        module(corpus, batch_size=0)
