"""Dialogues as token windows: what the encoder is trained on, alone or with a backbone, and makes features of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lantern.corpora.data import DialogueDataset, collate
from lantern.corpora.folder import Corpus
from lantern.features.encoders.build import Pieces
from lantern.features.encoders.config import EncoderConfig
from lantern.features.encoders.windows import cut
from lantern.models.batch import Batch

OUTSIDE = 1_000_000
"""Turn number of padding tokens: no turn sees them."""
_POOL = 16
"""Batches that are sorted by length together: less padding, and still another order in each epoch."""


@dataclass(slots=True, kw_only=True)
class TextBatch(Batch):
    """``B`` windows of at most ``L`` turns; :attr:`mask` is True for the turns that take their vector from the window.

    Turns that are context only have no label, no score and no mask.
    """

    tokens: Tensor
    """int64 ``[B, T]``."""
    turns: Tensor
    """Which turn of the window each token belongs to, int64 ``[B, T]``; -1 for the token that begins the window,
    :data:`OUTSIDE` for padding."""
    rows: Tensor
    """The utterance's row in the corpus, int64 ``[B, L]``."""

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch on *device*."""
        # The method of the base class replaces what it knows of and keeps this class.
        moved = Batch.to(self, device)
        assert isinstance(moved, TextBatch)
        moved.tokens, moved.turns, moved.rows = (x.to(device) for x in (self.tokens, self.turns, self.rows))
        return moved


@dataclass(slots=True, kw_only=True)
class DialogueBatch(Batch):
    """``B`` whole dialogues without text features, and the ``W`` windows that these come from."""

    windows: TextBatch
    places: Tensor
    """Where the vector of each own turn of the windows belongs in ``[B * L]``, int64 ``[N]``."""
    rows: Tensor
    """The utterance's row in the corpus, int64 ``[B, L]``."""

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same batch on *device*."""
        moved = Batch.to(self, device)
        assert isinstance(moved, DialogueBatch)
        moved.windows = self.windows.to(device)
        moved.places, moved.rows = self.places.to(device), self.rows.to(device)
        return moved


@dataclass(frozen=True, slots=True)
class _Window:
    dialogue: int
    """Its place among the dialogues of the data."""
    tokens: list[int]
    turns: list[int]
    own: Tensor
    labels: Tensor
    scores: Tensor
    rows: Tensor


class WindowDataset(Dataset[TextBatch]):
    """Windows over the dialogues *ids*; an item is the batch of a list of windows."""

    def __init__(self, corpus: Corpus, ids: Sequence[str], config: EncoderConfig, pieces: Pieces) -> None:
        self.windows: list[_Window] = []
        for number, item in enumerate(DialogueDataset(corpus, ids, ())):
            dialogue = corpus.by_id[item.dialogue]
            first = corpus.rows[item.dialogue].start
            texts = [f"{u.speaker}: {u.text}" if config.speakers else u.text for u in dialogue.utterances]
            # A turn that is longer than half a window loses its end, so that it always has some context.
            longest = config.tokens // 2 - 1
            tokens = [[*found[:longest], pieces.end] for found in pieces.of(texts)]
            for window in cut([len(one) for one in tokens], config.tokens - 1, config.causal):
                chosen = slice(window.start, window.stop)
                own = torch.zeros(window.stop - window.start, dtype=torch.bool)
                own[[turn - window.start for turn in window.own]] = True
                self.windows.append(
                    _Window(
                        number,
                        [pieces.begin, *(token for one in tokens[chosen] for token in one)],
                        [-1, *(turn for turn, one in enumerate(tokens[chosen]) for _ in one)],
                        own,
                        item.labels[chosen].masked_fill(~own, -1),
                        item.scores[chosen].masked_fill(~own[:, None], float("nan")),
                        torch.arange(first + window.start, first + window.stop),
                    )
                )
        self.pad = pieces.pad

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item."""
        return [len(window.tokens) for window in self.windows]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, indices: Sequence[int]) -> TextBatch:
        chosen = [self.windows[i] for i in indices]
        own = _padded([w.own for w in chosen], False)
        return TextBatch(
            features={},
            speakers=torch.zeros(own.shape, dtype=torch.int64),
            mask=own,
            labels=_padded([w.labels for w in chosen], -1),
            scores=_padded([w.scores for w in chosen], float("nan")),
            tokens=_padded([torch.tensor(w.tokens) for w in chosen], self.pad),
            turns=_padded([torch.tensor(w.turns) for w in chosen], OUTSIDE),
            rows=_padded([w.rows for w in chosen], -1),
        )


class DialogueWindows(Dataset[DialogueBatch]):
    """The dialogues *ids* with their windows and *modalities*; an item is the batch of a list of dialogues."""

    def __init__(
        self, corpus: Corpus, ids: Sequence[str], config: EncoderConfig, pieces: Pieces, modalities: Sequence[str]
    ) -> None:
        self.dialogues = DialogueDataset(corpus, ids, modalities)
        self.windows = WindowDataset(corpus, ids, config, pieces)
        self.starts = [corpus.rows[name].start for name in ids]
        self.of: list[list[int]] = [[] for _ in ids]
        for place, window in enumerate(self.windows.windows):
            self.of[window.dialogue].append(place)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item."""
        lengths = self.windows.lengths
        return [sum(lengths[place] for place in places) for places in self.of]

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, indices: Sequence[int]) -> DialogueBatch:
        batch = collate([self.dialogues[i] for i in indices])
        windows = self.windows[[place for i in indices for place in self.of[i]]]
        starts = torch.tensor([self.starts[i] for i in indices])
        number = torch.tensor([n for n, i in enumerate(indices) for _ in self.of[i]])
        width = batch.mask.shape[1]
        places = windows.rows + (number * width - starts[number])[:, None]
        return DialogueBatch(
            features=batch.features,
            present=batch.present,
            speakers=batch.speakers,
            mask=batch.mask,
            labels=batch.labels,
            scores=batch.scores,
            ids=batch.ids,
            dialogue_ids=batch.dialogue_ids,
            windows=windows,
            places=places[windows.mask],
            rows=starts[:, None] + torch.arange(width),
        )


def _padded(parts: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)


Items = WindowDataset | DialogueWindows
"""Data for an encoder alone, or with a backbone."""


class LengthBatches(Sampler[list[int]]):
    """Batches of items of like lengths, in an order that ``(seed, epoch)`` decides; in order where *seed* is None."""

    def __init__(self, lengths: Sequence[int], size: int, seed: int | None) -> None:
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            yield from self._batches(sorted(range(len(self.lengths)), key=self.lengths.__getitem__))
            return
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths)).tolist()
        made: list[list[int]] = []
        for start in range(0, len(order), _POOL * self.size):
            pool = sorted(order[start : start + _POOL * self.size], key=self.lengths.__getitem__)
            made += self._batches(pool)
        yield from (made[i] for i in random.permutation(len(made)))

    def _batches(self, order: list[int]) -> list[list[int]]:
        return [order[start : start + self.size] for start in range(0, len(order), self.size)]


class EncoderData(pl.LightningDataModule):
    """*train* and *dev* in batches of *size*; *seed* decides the order."""

    def __init__(self, train: Items, dev: Items, size: int, seed: int) -> None:
        super().__init__()
        self.train, self.dev, self.size, self.seed = train, dev, size, seed

    def train_dataloader(self) -> DataLoader[Any]:
        return batches(self.train, self.size, self.seed)

    def val_dataloader(self) -> DataLoader[Any]:
        return batches(self.dev, self.size)


def batches(data: Items, size: int, seed: int | None = None) -> DataLoader[Any]:
    """Batches of *data*, each as long as its longest window."""
    # Without a batch size of its own the loader takes each list of indices that the sampler gives as one item.
    return DataLoader(data, batch_size=None, sampler=LengthBatches(data.lengths, size, seed))
