"""The Lightning side of refinement: the predictions of a validation epoch go to the LLM."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import numpy as np

from lantern.metrics.classification import confusion_matrix, weighted_f1
from lantern.models.prediction import TableBuilder
from lantern.models.selection import SELECTION
from lantern.refine.questions import RefineStats
from lantern.tables import PredictionTable

log = logging.getLogger(__name__)

Refine = Callable[[PredictionTable], tuple[PredictionTable, RefineStats]]
"""From a vanilla table to the refined one and the counts."""


class LLMRefinement(pl.Callback):
    """Refines the predictions of a validation epoch in ``on_validation_epoch_end``.

    In that hook ``pl_module.log`` still works and checkpoints see what is logged. It acts on rank zero only and never
    in the sanity check. Stored predictions are played back by
    :class:`~lantern.models.prediction.StoredPredictions`.

    Args:
        refine: makes the refined table.
        builder: collects the outputs of the validation steps.
        split: name of the table.
        when: ``end`` acts outside ``fit`` only; ``best`` also in training whenever the epoch would be selected;
            ``every_n`` also in training at every *every_n*-th validation epoch.
    """

    def __init__(
        self, refine: Refine, builder: TableBuilder, split: str = "dev", when: str = "end", every_n: int = 5
    ) -> None:
        self.refine, self.builder, self.split, self.when, self.every_n = refine, builder, split, when, every_n
        self.table: PredictionTable | None = None
        """The last table that was refined."""
        self.stats: RefineStats | None = None
        self._best = SELECTION.worst
        self._history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._history = state_dict["best"], list(state_dict["history"])

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.builder.clear()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.builder.add(batch, outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        training = trainer.state.fn == "fit"
        if trainer.sanity_checking or (training and not self._may_be_due(trainer.current_epoch)):
            return
        self.builder.gather()
        vanilla = self.builder.table(self.split)
        if training and self.when == "best":
            selected = pl_module.selection_score()  # type: ignore[operator]
            if not SELECTION.better(selected, than=self._best):
                return
            self._best = selected
        if not trainer.is_global_zero:
            return
        self.table, self.stats = self.refine(vanilla)
        before, mean = score(vanilla, vanilla.vanilla), score(self.table, self.table.uniform_mean())
        entry = {"epoch": trainer.current_epoch, "split": self.split}
        entry |= {"vanilla_weighted_f1": before, "mean_weighted_f1": mean}
        self._history.append({**entry, **asdict(self.stats)})
        if training:
            pl_module.log("refine/weighted_f1", mean, rank_zero_only=True, batch_size=1)
            log.info("epoch %d: LLM mean %.4f, vanilla %.4f", trainer.current_epoch, mean, before)

    def _may_be_due(self, epoch: int) -> bool:
        return self.when == "best" or (self.when == "every_n" and (epoch + 1) % self.every_n == 0)


def score(table: PredictionTable, probabilities: np.ndarray) -> float:
    """Weighted F1 of *probabilities* ``[N, C]`` on the labelled rows; 0 without any."""
    known = table.labelled
    if not known.any():
        return 0.0
    confusion = confusion_matrix(probabilities[known].argmax(axis=1), table.labels[known], len(table.classes))
    return weighted_f1(confusion)
