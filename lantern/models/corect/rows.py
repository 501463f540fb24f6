"""Dialogues as packed rows: every per-utterance layer runs on real utterances only, attention on a padded view.

The attention is shared by the text transformer and the cross-modal stacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.models.dropout import dropout


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


class Attention(nn.Module):
    """Scaled dot-product attention with the parameters of :class:`torch.nn.MultiheadAttention`.

    Projections run on packed rows and only the attention itself on the padded view.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, source: Tensor, rows: Rows) -> Tensor:
        """Attend from *query* ``[R, width]`` to *source* ``[R, width]`` within each dialogue; ``[R, width]``."""
        if query is source:
            q, k, v = self._heads(F.linear(query, self.in_proj_weight, self.in_proj_bias), 3, rows)
        else:
            cuts = [self.width, 2 * self.width]
            (q_weight, kv_weight), (q_bias, kv_bias) = self.in_proj_weight.split(cuts), self.in_proj_bias.split(cuts)
            (q,) = self._heads(F.linear(query, q_weight, q_bias), 1, rows)
            k, v = self._heads(F.linear(source, kv_weight, kv_bias), 2, rows)
        if self.training and self.dropout:
            mixed = self._with_dropout(q, k, v, rows.keys)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.keys)
        out: Tensor = self.out_proj(rows.take(mixed.transpose(1, 2)).reshape(-1, self.width))
        return out

    def _with_dropout(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
        """Attention with dropout on its weights, for which torch has no fused CPU kernel."""
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if keys is not None:
            scores = scores.masked_fill(~keys, -torch.inf)
        return dropout(scores.softmax(-1), self.dropout, True) @ v

    def _heads(self, projected: Tensor, parts: int, rows: Rows) -> tuple[Tensor, ...]:
        """``[R, parts * width]`` to *parts* tensors ``[B, heads, L, width / heads]``."""
        split = rows.pad(projected).unflatten(-1, (parts, self.heads, self.width // self.heads))
        return split.permute(2, 0, 3, 1, 4).unbind(0)
