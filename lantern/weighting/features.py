"""From the predictions table to tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lantern.errors import UserError
from lantern.tables import DIMENSIONS, Fields, PredictionTable

DESCRIPTORS = ("cut length / window", "relative position", "repaired")


@dataclass
class WeightingInputs:
    """One split as tensors, all float64 unless said otherwise; rows and bands are in the table's order.

    ``N`` utterances, ``T`` fields each, ``C`` classes, ``R`` = ``len(DESCRIPTORS)``.
    """

    vanilla: Tensor
    """``[N, C]`` vanilla probabilities ``p₀``."""
    dimensions: Tensor
    """``[N, 3]`` predicted scores mapped to [-1, 1]; zeros where there are none."""
    refined: Tensor
    """``[N, T, C]`` refined probabilities ``p_f``; uniform where missing."""
    mask: Tensor
    """``[N, T]`` bool: the reply is there."""
    band: Tensor
    """``[N, T]`` int64 band of each field."""
    descriptors: Tensor
    """``[N, T, R]`` ``r_f``; zeros where missing."""
    labels: Tensor
    """``[N]`` int64, -1 where not labelled."""

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def answered(self) -> Tensor:
        """``[N]`` bool: at least one field has probabilities."""
        return self.mask.any(dim=1)

    @property
    def usable(self) -> Tensor:
        """``[N]`` bool: labelled and answered, so that a weighting can be fitted on it."""
        return (self.labels >= 0) & self.answered

    def select(self, rows: Tensor) -> WeightingInputs:
        """The rows of a bool mask or of indices."""
        return WeightingInputs(*(getattr(self, f.name)[rows] for f in fields(self)))


def build_inputs(
    table: PredictionTable, *, coverage: int, width: int, score_range: tuple[float, float] | None
) -> WeightingInputs:
    """Tensors of a refined *table*.

    Args:
        table: the refined predictions.
        coverage: bands of the table that the weighting is fitted on.
        width: field width by which cut lengths are divided.
        score_range: lowest and highest dimension score on the corpus scale; None when the corpus has no scores.

    Raises:
        UserError: the table has another coverage.
    """
    fields = table.fields or Fields.empty(len(table), coverage, len(table.classes), width)
    if fields.failures.shape[1] != coverage:
        raise UserError(
            f"the table has {fields.failures.shape[1]} fields per utterance, but the weighting was fitted with "
            f"{coverage}; use the same refine.coverage for both splits"
        )
    mask = fields.mask
    position = fields.positions / np.maximum(fields.lengths - 1, 1)
    descriptors = np.stack([np.minimum(fields.lengths / width, 1.0), position, fields.repaired], axis=-1)
    return WeightingInputs(
        vanilla=torch.from_numpy(table.vanilla.copy()),
        dimensions=torch.from_numpy(_dimensions(table, score_range)),
        refined=torch.from_numpy(np.where(mask[..., None], fields.probabilities, 1.0 / len(table.classes))),
        mask=torch.from_numpy(mask),
        band=torch.arange(coverage).repeat(len(table), 1),
        descriptors=torch.from_numpy(descriptors * mask[..., None]),
        labels=torch.from_numpy(table.labels.copy()),
    )


def _dimensions(table: PredictionTable, score_range: tuple[float, float] | None) -> np.ndarray:
    if score_range is None or table.predicted_scores is None:
        return np.zeros((len(table), DIMENSIONS))
    low, high = score_range
    if not low < high:
        raise ValueError(f"score_range {score_range} must rise")
    scaled = (table.predicted_scores - low) / (high - low) * 2 - 1
    return np.clip(np.nan_to_num(scaled), -1.5, 1.5)


def floored_log(probabilities: Tensor, floor: float) -> Tensor:
    """``log max(p, floor)``."""
    return probabilities.clamp_min(floor).log()


def agreement(vanilla: Tensor, other: Tensor) -> Tensor:
    """How far *other* ``[N, S, C]`` agrees with *vanilla* ``[N, C]``: overlap and same arg-max, ``[N, S, 2]``.

    Overlap is one minus the total variation distance, ``Σ min(p₀, p_f)``.
    """
    reference = vanilla.unsqueeze(1)
    overlap = torch.minimum(reference, other).sum(-1)
    same = (reference.argmax(-1) == other.argmax(-1)).to(vanilla.dtype)
    return torch.stack((overlap, same), dim=-1)
