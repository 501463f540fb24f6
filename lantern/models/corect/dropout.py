"""Dropout that is cheap on CPUs, where one Bernoulli draw per element costs more than the layers around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Inverted dropout with the distribution of :func:`torch.nn.functional.dropout`.

    On a CPU, when *p* is a multiple of 1/256 (0.5 is), the decisions come from single random bytes of torch's global
    generator; otherwise this is torch's own dropout.
    """
    threshold = p * 256
    if not training or p == 0 or x.device.type != "cpu" or not threshold.is_integer():
        return F.dropout(x, p, training)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    bytes_ = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (bytes_ >= int(threshold)).to(x.dtype).mul_(1 / (1 - p))
