"""Dialogues as token windows: what the encoder is trained on and what it makes features of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lantern.corpora.data import DialogueDataset
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


@dataclass(frozen=True, slots=True)
class _Window:
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
        for item in DialogueDataset(corpus, ids, ()):
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
                        [pieces.begin, *(token for one in tokens[chosen] for token in one)],
                        [-1, *(turn for turn, one in enumerate(tokens[chosen]) for _ in one)],
                        own,
                        item.labels[chosen].masked_fill(~own, -1),
                        item.scores[chosen].masked_fill(~own[:, None], float("nan")),
                        torch.arange(first + window.start, first + window.stop),
                    )
                )
        self.pad = pieces.pad

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


def _padded(parts: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)


class LengthBatches(Sampler[list[int]]):
    """Batches of windows of like lengths, in an order that ``(seed, epoch)`` decides; in order where *seed* is None."""

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


class WindowData(pl.LightningDataModule):
    """Training and dev windows.

    Args:
        corpus: its features are not used.
        train_ids, dev_ids: dialogue ids.
        config: of the encoder.
        pieces: its tokenizer.
        seed: of the order of the windows.
    """

    def __init__(
        self,
        corpus: Corpus,
        train_ids: Sequence[str],
        dev_ids: Sequence[str],
        config: EncoderConfig,
        pieces: Pieces,
        seed: int,
    ) -> None:
        super().__init__()
        self.train = WindowDataset(corpus, train_ids, config, pieces)
        self.dev = WindowDataset(corpus, dev_ids, config, pieces)
        self.size, self.seed = config.batch_size, seed

    def train_dataloader(self) -> DataLoader[TextBatch]:
        return batches(self.train, self.size, self.seed)

    def val_dataloader(self) -> DataLoader[TextBatch]:
        return batches(self.dev, self.size)


def batches(data: WindowDataset, size: int, seed: int | None = None) -> DataLoader[TextBatch]:
    """Batches of *data*, each as long as its longest window."""
    sampler = LengthBatches([len(w.tokens) for w in data.windows], size, seed)
    # Without a batch size of its own the loader takes each list of indices that the sampler gives as one item.
    return DataLoader(data, batch_size=None, sampler=sampler)
