"""The rule that chooses the best epoch of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Selection:
    """The epoch with the best *monitor* is kept; *monitor* is a metric that the multi-task module logs."""

    monitor: str = "val/weighted_f1"
    mode: Literal["max", "min"] = "max"

    @property
    def key(self) -> str:
        """Name of the selected epoch's score in a result, such as ``dev_weighted_f1``."""
        return self.monitor.replace("val/", "dev_")

    @property
    def worst(self) -> float:
        """A score that every other one beats."""
        return float("-inf") if self.mode == "max" else float("inf")

    def better(self, score: float, than: float) -> bool:
        """Whether *score* beats another one."""
        return score > than if self.mode == "max" else score < than


SELECTION = Selection()
"""Checkpoints, early stopping, ``refine.when=best`` and the address of a trained model all take this rule."""
