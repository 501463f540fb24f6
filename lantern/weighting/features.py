"""From the predictions table to tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lantern.errors import UserError
from lantern.tables import PredictionTable

DESCRIPTORS = ("cut length / window", "relative position", "repaired")
DIMENSIONS = 3


@dataclass
class WeightingInputs:
    """One split as tensors, all float64 unless said otherwise; fields stand in the table's order.

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

    def select(self, rows: Tensor) -> WeightingInputs:
        """The rows picked by a bool mask or by indices."""
        return WeightingInputs(*(getattr(self, f.name)[rows] for f in fields(self)))


def window_of(table: PredictionTable) -> int:
    """Longest field of the table, which is the window unless every dialogue is shorter."""
    return max((reply.length for row in table.rows for reply in row.fields), default=1)


def build_inputs(
    table: PredictionTable,
    *,
    coverage: int,
    window: int,
    score_range: tuple[float, float] | None,
) -> WeightingInputs:
    """Tensors of *table* for a weighting that knows *coverage* bands.

    Args:
        coverage: ``t`` of the split the weighting is fitted on.
        window: field width by which cut lengths are divided.
        score_range: lowest and highest dimension score on the corpus scale; None when the corpus has no scores.

    Raises:
        UserError: a row has a band outside ``0 ... coverage-1``.
    """
    n, t, c = len(table), coverage, len(table.classes)
    refined = np.full((n, t, c), 1.0 / c)
    mask = np.zeros((n, t), dtype=bool)
    band = np.tile(np.arange(t, dtype=np.int64), (n, 1))
    descriptors = np.zeros((n, t, len(DESCRIPTORS)))
    for i, row in enumerate(table.rows):
        for reply in row.fields:
            if not 0 <= reply.band < t:
                raise UserError(
                    f"utterance {row.utterance} has a reply in band {reply.band}, but the weighting was fitted with "
                    f"{t} field(s) per utterance (bands 0 ... {t - 1}); use the same coverage for both splits"
                )
            if reply.probabilities is None:
                continue
            refined[i, reply.band] = reply.probabilities
            mask[i, reply.band] = True
            descriptors[i, reply.band] = (
                min(reply.length / window, 1.0),
                reply.position / max(reply.length - 1, 1),
                float(reply.repaired),
            )
    return WeightingInputs(
        vanilla=torch.from_numpy(table.vanilla),
        dimensions=torch.from_numpy(_dimensions(table, score_range)),
        refined=torch.from_numpy(refined),
        mask=torch.from_numpy(mask),
        band=torch.from_numpy(band),
        descriptors=torch.from_numpy(descriptors),
        labels=torch.from_numpy(table.labels),
    )


def _dimensions(table: PredictionTable, score_range: tuple[float, float] | None) -> np.ndarray:
    result = np.zeros((len(table), DIMENSIONS))
    if score_range is None:
        return result
    low, high = score_range
    if not low < high:
        raise ValueError(f"score_range {score_range} must rise")
    for i, row in enumerate(table.rows):
        if row.predicted_scores is not None:
            result[i] = row.predicted_scores
            result[i] = (result[i] - low) / (high - low) * 2 - 1
    return np.clip(np.nan_to_num(result), -1.5, 1.5)


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
