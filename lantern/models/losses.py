"""Class and dimension losses of the multi-task model. Unscored utterances never reach them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy over the labelled rows: *logits* ``[N, C]``, *labels* ``[N]`` with -1 for unlabelled.

    With *weights* ``[C]`` the mean is weighted by the class of each row, as published for SDT. Zero (with a graph)
    when no row is labelled.
    """
    scored = labels >= 0
    # A class without training utterances has weight 0; a mean over such rows alone would be 0 / 0.
    if not bool(scored.any()) or (weights is not None and not bool(weights[labels[scored]].any())):
        return logits.float().sum() * 0.0
    weights = None if weights is None else weights.float()
    return F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=-1)


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over dimensions of ``1 - CCC`` over the batch's scored rows; *predicted*, *target* ``[N, 3]``, NaN unscored.

    A dimension with fewer than two scored rows has no CCC and is left out; zero (with a graph) if all are.
    """
    losses = []
    for column in range(target.shape[1]):
        known = ~torch.isnan(target[:, column])
        if int(known.sum()) < 2:
            continue
        x, y = predicted[known, column].float(), target[known, column].float()
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        spread = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean()) ** 2
        # The epsilon keeps the gradient finite when both are the same constant.
        losses.append(1 - 2 * covariance / (spread + 1e-8))
    return torch.stack(losses).mean() if losses else predicted.float().sum() * 0.0


def mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the scored entries of ``[N, 3]``; zero (with a graph) if there are none."""
    known = ~torch.isnan(target)
    if not bool(known.any()):
        return predicted.float().sum() * 0.0
    return F.mse_loss(predicted[known].float(), target[known].float())
