"""Corpus to batches: dialogues as tensors, padding, and the DataModule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import check_split
from lantern.corpora.types import Dialogue
from lantern.errors import UserError
from lantern.models.batch import Batch, Sizes

CLASS_WEIGHTS = ("inverse", "none")


@dataclass(frozen=True, slots=True)
class DialogueTensors:
    """One dialogue of ``L`` utterances; the fields are those of :class:`~lantern.models.batch.Batch` without ``B``."""

    dialogue: str
    ids: list[str]
    features: dict[str, Tensor]
    present: dict[str, Tensor]
    speakers: Tensor
    labels: Tensor
    scores: Tensor


class DialogueDataset(Dataset[DialogueTensors]):
    """The dialogues *ids* of *corpus*. Features are copied when a dialogue is read; everything else is made here, once.

    A run has a dataset for each part of each of its folds: with features of their own they would hold the corpus
    five times.
    """

    def __init__(self, corpus: Corpus, ids: Sequence[str], modalities: Sequence[str]) -> None:
        self.corpus, self.modalities = corpus, tuple(modalities)
        self._items = [_tensors(corpus, corpus.by_id[i]) for i in ids]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[DialogueTensors]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> DialogueTensors:
        item, corpus = self._items[index], self.corpus
        rows = corpus.rows[item.dialogue]
        # torch.tensor copies: a view of the corpus's arrays may be read-only and would let a model write into them.
        return replace(
            item,
            features={m: torch.tensor(corpus.features[m][rows]) for m in self.modalities},
            present={m: torch.tensor(corpus.present[m][rows]) for m in self.modalities},
        )


def _tensors(corpus: Corpus, dialogue: Dialogue) -> DialogueTensors:
    """All of a dialogue but its features."""
    number = corpus.speaker_numbers or {speaker: n for n, speaker in enumerate(dialogue.speakers)}
    return DialogueTensors(
        dialogue=dialogue.id,
        ids=[u.id for u in dialogue.utterances],
        features={},
        present={},
        speakers=torch.tensor([number[u.speaker] for u in dialogue.utterances]),
        labels=torch.tensor([-1 if u.label is None else u.label for u in dialogue.utterances]),
        scores=torch.from_numpy(_scores(corpus, dialogue)),
    )


def _scores(corpus: Corpus, dialogue: Dialogue) -> np.ndarray:
    """Scores ``[L, 3]`` mapped from the corpus scale to [-1, 1]: (x - 3) / 2 for 1-5. NaN where nobody rated."""
    found = np.full((len(dialogue), 3), np.nan, dtype=np.float32)
    if corpus.score_range is None:
        return found
    low, high = corpus.score_range
    for row, utterance in enumerate(dialogue.utterances):
        if utterance.scores is not None:
            found[row] = [np.nan if s is None else s for s in utterance.scores]
    return ((found - (low + high) / 2) / ((high - low) / 2)).astype(np.float32)


def collate(items: list[DialogueTensors]) -> Batch:
    """Pad dialogues to the longest: zeros in features and speakers, -1 in labels, NaN in scores, False in masks."""
    lengths = torch.tensor([len(item.labels) for item in items])
    names = list(items[0].features)
    return Batch(
        features={m: pad_sequence([i.features[m] for i in items], batch_first=True) for m in names},
        present={m: pad_sequence([i.present[m] for i in items], batch_first=True) for m in names},
        speakers=pad_sequence([i.speakers for i in items], batch_first=True),
        labels=pad_sequence([i.labels for i in items], batch_first=True, padding_value=-1),
        scores=pad_sequence([i.scores for i in items], batch_first=True, padding_value=float("nan")),
        mask=torch.arange(int(lengths.max()))[None, :] < lengths[:, None],
        ids=[i.ids for i in items],
        dialogue_ids=[i.dialogue for i in items],
    )


class EpochSampler(Sampler[int]):
    """A new order each epoch, from ``(seed, epoch)`` alone: a resumed training sees the orders it would have seen.

    Of *processes* that train together the one of *rank* gets every so many-th place; where the places do not divide,
    the first ones are taken again, since all processes must make the same number of steps.
    """

    def __init__(self, count: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.count / self.processes)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        # Hashed together: with seed + epoch, run 1 would replay the orders of run 0 one epoch later.
        generator.manual_seed(int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0] >> 1))
        order = torch.randperm(self.count, generator=generator).tolist()
        padded = itertools.islice(itertools.cycle(order), len(self) * self.processes)
        return itertools.islice(padded, self.rank, None, self.processes)


class CorpusDataModule(pl.LightningDataModule):
    """Batches of whole dialogues. Test dialogues are not made into tensors before stage ``test``.

    Args:
        corpus: loaded with its features.
        train_ids, dev_ids, test_ids: dialogue ids; no dialogue may be in two. Only dev and test may be empty.
        batch_size: dialogues per step, shared by the processes that train together.
        seed: of the order of training dialogues.
        modalities: those to use; None for all that the corpus has.

    Raises:
        UserError: an unknown id or modality, no training dialogues, overlapping parts.
    """

    def __init__(
        self,
        corpus: Corpus,
        train_ids: Sequence[str],
        dev_ids: Sequence[str],
        test_ids: Sequence[str],
        batch_size: int,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.ids = {"train": tuple(train_ids), "dev": tuple(dev_ids), "test": tuple(test_ids)}
        # Under paper-style selection the test dialogues are the dev dialogues too, on purpose.
        twice = ("dev",) if self.ids["dev"] == self.ids["test"] else ()
        check_split(corpus, {p: ids for p, ids in self.ids.items() if (ids or p == "train") and p not in twice})
        self.modalities = tuple(corpus.features if modalities is None else modalities)
        for name in self.modalities:
            if name not in corpus.features:
                has = ", ".join(corpus.features) or "none"
                raise UserError(f"corpus.modalities: corpus {corpus.name!r} has no {name!r} features; it has {has}")
        if not self.modalities:
            raise UserError(f"corpus {corpus.name!r} has no features; import it again without --no-features")
        if batch_size < 1:
            raise UserError(f"backbone.batch_size={batch_size} must be at least 1")
        self.corpus, self.batch_size, self.seed = corpus, batch_size, seed
        self._built: dict[str, DialogueDataset] = {}

    def setup(self, stage: str) -> None:
        """Make the tensors of the parts that *stage* reads."""
        for part in {"fit": ("train", "dev"), "validate": ("dev",), "test": ("test",)}.get(stage, ()):
            if part not in self._built:
                self._built[part] = DialogueDataset(self.corpus, self.ids[part], self.modalities)

    def sizes(self, class_weights: str = "none") -> Sizes:
        """What a backbone must know of the corpus.

        *class_weights* ``inverse`` gives total / count per class over the training split, the published 1 / share; a
        class that it does not have gets 0, since it occurs in no loss there. ``none`` gives None.
        """
        if class_weights not in CLASS_WEIGHTS:
            raise UserError(f"model.class_weights={class_weights} is not one of {', '.join(CLASS_WEIGHTS)}")
        weights = None
        if class_weights == "inverse":
            turns = [u for i in self.ids["train"] for u in self.corpus.by_id[i].utterances]
            labels = np.array([u.label for u in turns if u.label is not None], dtype=np.int64)
            counts = np.bincount(labels, minlength=len(self.corpus.label_set))
            weights = tuple(float(counts.sum() / c) if c else 0.0 for c in counts)
        numbers = self.corpus.speaker_numbers.values()
        return Sizes(
            dims={m: int(self.corpus.features[m].shape[1]) for m in self.modalities},
            classes=len(self.corpus.label_set),
            speakers=1 + max(numbers) if numbers else max(len(d.speakers) for d in self.corpus.dialogues),
            class_weights=weights,
        )

    def train_dataloader(self) -> DataLoader[DialogueTensors]:
        data = self._part("train")
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = EpochSampler(len(data), self.seed, rank, processes)
        return DataLoader(data, math.ceil(self.batch_size / processes), sampler=sampler, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[DialogueTensors]:
        return self._in_order(self._part("dev"))

    def test_dataloader(self) -> DataLoader[DialogueTensors]:
        return self._in_order(self._part("test"))

    def _part(self, part: str) -> DialogueDataset:
        if part not in self._built:
            raise RuntimeError(f"the {part} dialogues are not set up: call setup() with the stage that reads them")
        return self._built[part]

    def _in_order(self, data: DialogueDataset) -> DataLoader[DialogueTensors]:
        return DataLoader(data, self.batch_size, shuffle=False, collate_fn=collate)
