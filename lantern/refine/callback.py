"""The Lightning side of refinement: collects predictions in validation and hands them to the LLM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from lantern.corpora.types import Dialogue, LabelSet
from lantern.metrics.classification import confusion_matrix, weighted_f1
from lantern.refine.questions import RefineStats, summary
from lantern.tables import PredictionTable, Row

log = logging.getLogger(__name__)


class PredictionCollector:
    """Turns the outputs of evaluation steps into a predictions table, in corpus order and without duplicates."""

    def __init__(
        self, dialogues: Mapping[str, Dialogue], labels: LabelSet, score_range: tuple[float, float] | None
    ) -> None:
        self.dialogues, self.labels, self.score_range = dialogues, labels, score_range
        self._found: dict[str, tuple[list[list[float]], list[list[float]] | None]] = {}

    def clear(self) -> None:
        self._found = {}

    def add(self, dialogue_ids: list[str], lengths: list[int], outputs: Mapping[str, Any]) -> None:
        """Keep one step's ``probabilities`` ``[N, C]`` and ``scores`` ``[N, 3]`` (or None)."""
        probabilities = outputs["probabilities"].detach().float().cpu().double()
        # float32 softmax sums to 1 only to 1e-7; the table's vectors should do so to double precision.
        probabilities = (probabilities / probabilities.sum(dim=1, keepdim=True)).tolist()
        scores = None if outputs["scores"] is None else self._to_corpus_scale(outputs["scores"])
        start = 0
        for name, length in zip(dialogue_ids, lengths):
            part = slice(start, start + length)
            self._found[name] = (probabilities[part], None if scores is None else scores[part])
            start += length

    def _to_corpus_scale(self, scores: torch.Tensor) -> list[list[float]] | None:
        if self.score_range is None:
            return None
        low, high = self.score_range
        values = (low + high) / 2 + scores.detach().float().cpu().numpy() * (high - low) / 2
        return np.clip(values, low, high).tolist()

    def gather(self) -> None:
        """Under a process group, bring the dialogues of every rank to every rank."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._found)
        for part in parts:
            self._found.update(part)

    def table(self, split: str) -> PredictionTable:
        """All collected dialogues in corpus order."""
        rows = []
        for name, dialogue in self.dialogues.items():
            if name not in self._found:
                continue
            probabilities, scores = self._found[name]
            for index, utterance in enumerate(dialogue.utterances):
                rows.append(
                    Row(
                        dialogue=name,
                        utterance=utterance.id,
                        index=index,
                        speaker=utterance.speaker,
                        label=utterance.label,
                        scores=None if utterance.scores is None else list(utterance.scores),
                        vanilla=probabilities[index],
                        predicted_scores=None if scores is None else scores[index],
                    )
                )
        return PredictionTable(self.labels.classes, rows, split)


class LLMRefinement(pl.Callback):
    """Refines the predictions of a validation or test epoch in ``on_*_epoch_end``.

    In that hook ``pl_module.log`` still works and checkpoints see what is logged; the callback runs before the
    module's own hook, so it collects for itself. It acts on rank zero only and never in the sanity check.

    Args:
        refine: fills a predictions table in place and returns the counts (``None``: only collect).
        collector: builds the table.
        when: ``end`` acts outside ``fit`` only; ``best`` also in training whenever the vanilla weighted F1 improves;
            ``every_n`` also in training at every *every_n*-th validation epoch.
        split: name of the table; None: ``dev`` in validation, ``test`` in test.
    """

    def __init__(
        self,
        refine: Callable[[PredictionTable], RefineStats] | None,
        collector: PredictionCollector,
        when: str = "end",
        every_n: int = 5,
        split: str | None = None,
    ) -> None:
        self.refine, self.collector, self.when, self.every_n = refine, collector, when, every_n
        self.split = split
        self.table: PredictionTable | None = None
        """The last table that was collected (and refined, if it was time to)."""
        self.stats: RefineStats | None = None
        self._best = -1.0
        self._history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._history = state_dict["best"], list(state_dict["history"])

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.collector.clear()

    def _collect(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.collector.add(batch.dialogue_ids, [int(n) for n in batch.lengths], outputs)

    on_validation_epoch_start = on_test_epoch_start = _start
    on_validation_batch_end = on_test_batch_end = _collect

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._finish(trainer, pl_module, "dev", due=self._due(trainer))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(trainer, pl_module, "test", due=True)

    def _due(self, trainer: pl.Trainer) -> bool | None:
        """None: only known once the table is there (``when=best``)."""
        if trainer.state.fn != "fit":
            return True
        if self.when == "every_n":
            return (trainer.current_epoch + 1) % self.every_n == 0
        return None if self.when == "best" else False

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, due: bool | None) -> None:
        if due is False:
            return
        self.collector.gather()
        table = self.collector.table(self.split or split)
        vanilla = score(table, table.vanilla)
        if due is None and vanilla <= self._best:
            return
        self._best = max(self._best, vanilla) if trainer.state.fn == "fit" else self._best
        self.table = table
        if self.refine is None or not trainer.is_global_zero:
            return
        self.stats = self.refine(table)
        mean = score(table, uniform_mean(table))
        entry = {
            "epoch": trainer.current_epoch,
            "split": split,
            "vanilla_weighted_f1": vanilla,
            "mean_weighted_f1": mean,
        }
        self._history.append({**entry, **summary(self.stats)})
        if trainer.state.fn == "fit":
            pl_module.log("refine/weighted_f1", mean, rank_zero_only=True, batch_size=1)
            log.info("epoch %d: LLM mean %.4f, vanilla %.4f", trainer.current_epoch, mean, vanilla)


def score(table: PredictionTable, probabilities: np.ndarray) -> float:
    """Weighted F1 over the labelled rows, as the checkpoint is chosen by; 0 when there are none."""
    known = table.labelled
    if not known.any():
        return 0.0
    confusion = confusion_matrix(probabilities[known].argmax(axis=1), table.labels[known], len(table.classes))
    return float(weighted_f1(confusion))


def uniform_mean(table: PredictionTable) -> np.ndarray:
    """Mean of the present refined vectors ``[N, C]``; the vanilla one where there are none."""
    refined, mask = table.refined()
    if table.coverage == 0:
        return table.vanilla
    count = mask.sum(axis=1, keepdims=True)
    return np.where(count > 0, refined.sum(axis=1) / np.maximum(count, 1), table.vanilla)
