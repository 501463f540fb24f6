"""Class and dimension losses of the multi-task model, without a wait for the device; unscored rows do not count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy over the labelled rows: *logits* ``[N, C]``, *labels* ``[N]`` with -1 for unlabelled.

    With *weights* ``[C]`` the mean is weighted by the class of each row, as published for SDT. Zero (with a graph)
    when no row is labelled.
    """
    weights = logits.new_ones(logits.shape[-1]) if weights is None else weights
    weights = weights.float()
    total = (weights[labels.clamp_min(0)] * (labels >= 0)).sum()
    losses = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=-1, reduction="sum")
    # A class without training utterances has weight 0; a mean over such rows alone would be 0 / 0.
    return losses / total.clamp_min(torch.finfo(total.dtype).tiny)


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over dimensions of ``1 - CCC`` over the batch's scored rows; *predicted*, *target* ``[N, 3]``, NaN unscored.

    A dimension with fewer than two scored rows has no CCC and is left out; zero (with a graph) if all are.
    """
    known = ~torch.isnan(target)
    count = known.sum(0).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(known, x, 0.0).sum(0) / count

    x, y = predicted.float(), target.float().nan_to_num()
    mean_x, mean_y = mean(x), mean(y)
    covariance = mean((x - mean_x) * (y - mean_y))
    spread = mean((x - mean_x) ** 2) + mean((y - mean_y) ** 2) + (mean_x - mean_y) ** 2
    # The epsilon keeps the gradient finite when both are the same constant.
    losses = 1 - 2 * covariance / (spread + 1e-8)
    usable = known.sum(0) > 1
    return torch.where(usable, losses, 0.0).sum() / usable.sum().clamp_min(1)


def mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the scored entries of ``[N, 3]``; zero (with a graph) if there are none."""
    known = ~torch.isnan(target)
    difference = predicted.float() - target.float().nan_to_num()
    return torch.where(known, difference**2, 0.0).sum() / known.sum().clamp_min(1)
