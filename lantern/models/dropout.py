"""Dropout that is cheap on CPUs, where one Bernoulli draw per element costs more than the layers around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _words(count: int, like: Tensor) -> Tensor:
    """*count* words of 64 random bits."""
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)


def _bernoulli(shape: Sequence[int], p: float, like: Tensor) -> Tensor:
    """1 with probability *p*, else 0."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(p)


# Compiled code takes these draws as they are: it would draw other numbers itself, and has no ``random_``. Two draws
# with the same arguments would become one there; ``like`` tells them apart.
_RANDOM = torch.Tag.nondeterministic_seeded
_compiled_words = torch.library.custom_op("lantern::words", _words, mutates_args=(), tags=_RANDOM)
_compiled_words.register_fake(lambda count, like: torch.empty(count, dtype=torch.int64))
_compiled_bernoulli = torch.library.custom_op("lantern::bernoulli", _bernoulli, mutates_args=(), tags=_RANDOM)
_compiled_bernoulli.register_fake(lambda shape, p, like: like.new_empty(shape))


def bernoulli(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """1 with probability *p*, else 0; dtype and device of *like*."""
    return (_compiled_bernoulli if torch.compiler.is_compiling() else _bernoulli)(shape, p, like.detach())


def keep_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A dropout mask: 0 with probability *p*, else ``1 / (1 - p)``; dtype and device of *like*."""
    scale = 1 / (1 - p)
    if not cheap(p, like):
        return bernoulli(shape, 1 - p, like).mul_(scale)
    # Eight bytes of a 64-bit draw of torch's global generator decide for eight elements.
    count = math.prod(shape)
    words = (_compiled_words if torch.compiler.is_compiling() else _words)(-(-count // 8), like.detach())
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
