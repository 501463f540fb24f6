"""The losses of SDT's self-distillation (arXiv 2310.20494), over the labelled rows only.

All of it is in log-probabilities: a masked teacher probability of exact zero has no finite derivative in the usual
Kullback-Leibler form, and it is what makes the published implementation give NaN on a recent torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def student_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Sum over the ``M`` students of their class-weighted mean cross-entropy; zero where no row is labelled.

    Args:
        logits: ``[M, R, C]``.
        labels: class indices, int64 ``[R]``, -1 for unlabelled.
        class_weights: ``[C]``, or None for a plain mean. The mean is over the weights of the labels present.
    """
    known = labels.clamp_min(0)
    log_students = F.log_softmax(full_precision(logits), dim=-1)
    losses = -log_students.gather(-1, known.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
    weights = (labels >= 0).to(losses.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(losses.dtype)[known]
    # Classes of weight zero may be all there is in a batch: no loss then, rather than 0 / 0.
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def distillation(
    teacher: Tensor,
    students: Tensor,
    temperature: float = 1.0,
    detach_teacher: bool = False,
    labelled: Tensor | None = None,
) -> Tensor:
    """Sum over the ``M`` students of KL(teacher || student), a mean over utterances, without a factor temperature^2.

    Args:
        teacher: logits ``[R, C]``.
        students: logits ``[M, R, C]``.
        temperature: divides all logits.
        detach_teacher: keep the gradient out of the teacher; the published implementation lets it flow.
        labelled: rows that count, bool ``[R]``; None for all.

    Both sides stay log-probabilities, so the value and its gradients are finite where a probability underflows to zero.
    """
    log_teacher = F.log_softmax(full_precision(teacher) / temperature, dim=-1)
    if detach_teacher:
        log_teacher = log_teacher.detach()
    log_students = F.log_softmax(full_precision(students) / temperature, dim=-1)
    losses = (log_teacher.exp() * (log_teacher - log_students)).sum(-1)
    if labelled is None:
        return losses.sum() / len(teacher)
    return (losses * labelled).sum() / labelled.sum().clamp_min(1)


def full_precision(x: Tensor) -> Tensor:
    """*x* in float32 where it is narrower: a sum of log-probabilities loses too much in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
