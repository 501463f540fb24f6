"""From the outputs of evaluation steps to a predictions table: the one way for every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from lantern.corpora.types import Dialogue, LabelSet
from lantern.models.batch import Batch
from lantern.tables import PredictionTable, concatenate


@dataclass(frozen=True)
class Transcripts:
    """What a table holds besides predictions."""

    dialogues: Mapping[str, Dialogue]
    """By id, in corpus order."""
    labels: LabelSet
    score_range: tuple[float, float] | None
    """Lowest and highest dimension score on the corpus scale; None for a corpus without scores."""


class TableBuilder:
    """Collects the outputs of steps, dialogue by dialogue, and makes a table in corpus order without duplicates.

    A step's outputs are a mapping with ``probabilities`` ``[N, C]`` and ``scores`` ``[N, 3]`` in [-1, 1] (or None) for
    the valid utterances of its batch, or with a finished ``table``.
    """

    def __init__(self, transcripts: Transcripts) -> None:
        self.transcripts = transcripts
        self._parts: dict[str, PredictionTable] = {}

    def clear(self) -> None:
        """Forget what was collected."""
        self._parts = {}

    def add(self, batch: Any, outputs: Mapping[str, Any]) -> None:
        """Keep the outputs of one step."""
        if "table" in outputs:
            table = outputs["table"]
            self._parts |= {name: table.select(rows) for name, rows in table.by_dialogue.items()}
            return
        probabilities = outputs["probabilities"].detach().float().cpu().double()
        # A float32 softmax sums to 1 only to 1e-7; the table's vectors should do so to double precision.
        probabilities = (probabilities / probabilities.sum(dim=1, keepdim=True)).numpy()
        scores = None if outputs["scores"] is None else self._to_corpus_scale(outputs["scores"])
        start = 0
        for name in batch.dialogue_ids:
            rows = slice(start, start + len(self.transcripts.dialogues[name]))
            part = None if scores is None else scores[rows]
            self._parts[name] = vanilla_table(self.transcripts, [name], probabilities[rows], part)
            start = rows.stop

    def _to_corpus_scale(self, scores: torch.Tensor) -> np.ndarray | None:
        if self.transcripts.score_range is None:
            return None
        low, high = self.transcripts.score_range
        values = (low + high) / 2 + scores.detach().float().cpu().numpy() * (high - low) / 2
        return np.clip(values, low, high).astype(np.float64)

    def gather(self) -> None:
        """Under a process group, bring the dialogues of every rank to every rank."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._parts)
        for part in parts:
            self._parts.update(part)

    def table(self, split: str) -> PredictionTable:
        """All collected dialogues in corpus order."""
        return concatenate([self._parts[name] for name in self.transcripts.dialogues if name in self._parts], split)


class TableWriter(BasePredictionWriter):
    """Collects what ``Trainer.predict`` predicts; :meth:`TableBuilder.table` of *builder* then has it."""

    def __init__(self, builder: TableBuilder) -> None:
        super().__init__("batch")
        self.builder = builder

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the outputs of one step."""
        self.builder.add(batch, prediction)


def vanilla_table(
    transcripts: Transcripts,
    ids: Sequence[str],
    vanilla: np.ndarray,
    predicted_scores: np.ndarray | None,
    split: str = "",
) -> PredictionTable:
    """The table of the dialogues *ids*: *vanilla* ``[N, C]``, *predicted_scores* ``[N, 3]`` on the corpus scale."""
    dialogues = [transcripts.dialogues[name] for name in ids]
    turns = [turn for dialogue in dialogues for turn in dialogue.utterances]
    unrated = (None, None, None)
    return PredictionTable(
        transcripts.labels.classes,
        dialogues=np.array([dialogue.id for dialogue in dialogues for _ in dialogue.utterances], dtype=object),
        utterances=np.array([turn.id for turn in turns], dtype=object),
        indices=np.array([place for dialogue in dialogues for place in range(len(dialogue))], dtype=np.int32),
        speakers=np.array([turn.speaker for turn in turns], dtype=object),
        labels=np.array([-1 if turn.label is None else turn.label for turn in turns], dtype=np.int64),
        scores=np.array([turn.scores or unrated for turn in turns], dtype=np.float64).reshape(len(turns), 3),
        vanilla=vanilla,
        predicted_scores=predicted_scores,
        split=split,
    )


class StoredPredictions(pl.LightningModule):
    """Plays back a predictions table in validation, so that callbacks see stored predictions as they see a model's."""

    def __init__(self, table: PredictionTable) -> None:
        super().__init__()
        self.stored = table

    def val_dataloader(self) -> DataLoader[int]:
        """One batch, in place of the whole table."""
        return DataLoader([0])  # type: ignore[arg-type]

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> dict[str, Any]:
        """The table itself."""
        return {"table": self.stored}
