"""Dialogues as packed rows: every per-utterance layer runs on real utterances only, attention on a padded view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _Take(torch.autograd.Function):
    """``x[index]`` for an index without repeats, so that its gradient is a copy and not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.total = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.total, *grad.shape[1:]).index_copy_(0, index, grad), None


class _Put(torch.autograd.Function):
    """Zeros ``[total, ...]`` with the rows of ``x`` at ``index`` (no repeats)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(total, *x.shape[1:]).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None


@dataclass(frozen=True, slots=True)
class Rows:
    """The ``R`` rows, out of ``B * L`` padded positions, that a layer computes."""

    batch: int
    length: int
    index: Tensor | None
    """Flat position of each row, int64 ``[R]`` ascending; None when every position is a row."""
    keys: Tensor | None
    """Positions attention may look at, bool ``[B, 1, 1, L]``; None for all."""

    @classmethod
    def of(cls, mask: Tensor) -> Rows:
        """The valid positions of *mask*, bool ``[B, L]``."""
        batch, length = mask.shape
        if bool(mask.all()):
            return cls.everything(batch, length)
        return cls(batch, length, mask.flatten().nonzero().squeeze(1), mask[:, None, None, :])

    @classmethod
    def everything(cls, batch: int, length: int) -> Rows:
        """Every position, padding too."""
        return cls(batch, length, None, None)

    def take(self, padded: Tensor) -> Tensor:
        """``[B, L, ...]`` to rows ``[R, ...]``."""
        flat = padded.reshape(self.batch * self.length, *padded.shape[2:])
        return flat if self.index is None else _Take.apply(flat, self.index)

    def pad(self, rows: Tensor) -> Tensor:
        """Rows ``[R, ...]`` to ``[B, L, ...]`` with zeros elsewhere."""
        if self.index is not None:
            rows = _Put.apply(rows, self.index, self.batch * self.length)
        return rows.view(self.batch, self.length, *rows.shape[1:])
