"""Corpus folder to batches: the DataModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lantern.corpora.folder import Corpus
from lantern.corpora.types import Dialogue
from lantern.models.batch import Batch, Sizes


class DialogueDataset(Dataset[dict[str, Any]]):
    """Tensors of the dialogues *ids*, made once."""

    def __init__(self, corpus: Corpus, ids: Sequence[str], modalities: Sequence[str]) -> None:
        by_id = {d.id: d for d in corpus.dialogues}
        offsets = corpus.offsets()
        self.items = [_tensors(corpus, by_id[i], offsets[i], modalities) for i in ids]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def _tensors(corpus: Corpus, dialogue: Dialogue, start: int, modalities: Sequence[str]) -> dict[str, Any]:
    rows = slice(start, start + len(dialogue))
    number = {speaker: n for n, speaker in enumerate(dialogue.speakers)}
    scores = np.full((len(dialogue), 3), np.nan, np.float32)
    if corpus.score_range is not None:
        low, high = corpus.score_range
        for row, utterance in enumerate(dialogue.utterances):
            if utterance.scores is not None:
                known = [np.nan if s is None else s for s in utterance.scores]
                scores[row] = (np.array(known, np.float32) - (low + high) / 2) / ((high - low) / 2)
    return {
        "dialogue": dialogue.id,
        "ids": [u.id for u in dialogue.utterances],
        "features": {m: torch.from_numpy(corpus.features[m][rows].astype(np.float32)) for m in modalities},
        "present": {m: torch.from_numpy(corpus.present[m][rows].astype(bool)) for m in modalities},
        "speakers": torch.tensor([number[u.speaker] for u in dialogue.utterances]),
        "labels": torch.tensor([-1 if u.label is None else u.label for u in dialogue.utterances]),
        "scores": torch.from_numpy(scores),
    }


def collate(items: list[dict[str, Any]]) -> Batch:
    """Pad dialogues to the longest: features ``[B, L, D]`` and the rest as :class:`Batch` says."""
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(item["labels"]) for item in items])
    names = list(items[0]["features"])
    return Batch(
        features={m: pad([i["features"][m] for i in items], batch_first=True) for m in names},
        present={m: pad([i["present"][m] for i in items], batch_first=True) for m in names},
        speakers=pad([i["speakers"] for i in items], batch_first=True),
        labels=pad([i["labels"] for i in items], batch_first=True, padding_value=-1),
        scores=pad([i["scores"] for i in items], batch_first=True, padding_value=float("nan")),
        mask=torch.arange(int(lengths.max()))[None, :] < lengths[:, None],
        ids=[i["ids"] for i in items],
        dialogue_ids=[i["dialogue"] for i in items],
    )


class EpochSampler(Sampler[int]):
    """A new order each epoch from ``(seed, epoch)`` alone, so that a resumed training sees the same orders."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist())


class CorpusDataModule(pl.LightningDataModule):
    """Batches of whole dialogues; test dialogues are not even built while fitting."""

    def __init__(
        self,
        corpus: Corpus,
        *,
        train_ids: Sequence[str],
        dev_ids: Sequence[str],
        test_ids: Sequence[str],
        batch_size: int,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.corpus, self.batch_size, self.seed = corpus, batch_size, seed
        self.ids = {"train": tuple(train_ids), "dev": tuple(dev_ids), "test": tuple(test_ids)}
        self.modalities = list(corpus.features) if modalities is None else list(modalities)
        self._built: dict[str, DialogueDataset] = {}

    def setup(self, stage: str) -> None:
        parts = {"fit": ("train", "dev"), "validate": ("dev",), "test": ("test",)}.get(stage, ())
        for part in parts:
            if part not in self._built:
                self._built[part] = DialogueDataset(self.corpus, self.ids[part], self.modalities)

    def sizes(self, class_weights: str = "none") -> Sizes:
        """What a backbone must know; *class_weights* ``inverse`` gives total / count per class of the training split.

        A class without a training utterance gets weight 0: it never occurs in the loss.
        """
        train = set(self.ids["train"])
        labels = [u.label for d in self.corpus.dialogues if d.id in train for u in d.utterances if u.label is not None]
        counts = np.bincount(labels, minlength=len(self.corpus.label_set))
        weights = tuple(float(counts.sum() / c) if c else 0.0 for c in counts)
        return Sizes(
            dims={m: int(self.corpus.features[m].shape[1]) for m in self.modalities},
            classes=len(self.corpus.label_set),
            speakers=max(len(d.speakers) for d in self.corpus.dialogues),
            class_weights=weights if class_weights == "inverse" else None,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        data = self._built["train"]
        return DataLoader(data, self.batch_size, sampler=EpochSampler(len(data), self.seed), collate_fn=collate)

    def _eval(self, part: str) -> DataLoader[dict[str, Any]]:
        return DataLoader(self._built[part], self.batch_size, shuffle=False, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._eval("dev")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._eval("test")

    def loader(self, ids: Sequence[str]) -> DataLoader[dict[str, Any]]:
        """An evaluation loader over any dialogues."""
        return DataLoader(
            DialogueDataset(self.corpus, ids, self.modalities), self.batch_size, shuffle=False, collate_fn=collate
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
