"""Dropout that is cheap on CPUs, where one Bernoulli draw per element costs more than the layers around it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def keep_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A dropout mask: 0 with probability *p*, else ``1 / (1 - p)``; dtype and device of *like*."""
    scale = 1 / (1 - p)
    if not cheap(p, like):
        return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - p).mul_(scale)
    # Eight bytes of a 64-bit draw of torch's global generator decide for eight elements.
    count = math.prod(shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.uint8)[:count].view(shape) >= int(p * 256)
    return torch.mul(keep, torch.tensor(scale, dtype=like.dtype))


def cheap(p: float, like: Tensor) -> bool:
    """Whether single random bytes can decide: on a CPU, where *p* is a multiple of 1/256 (0.5 is)."""
    return like.device.type == "cpu" and (p * 256).is_integer()


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Inverted dropout with the distribution of :func:`torch.nn.functional.dropout`."""
    if not training or p == 0 or not cheap(p, x):
        return F.dropout(x, p, training)
    return x * keep_mask(tuple(x.shape), p, x)
