"""The cross-modal encoders of SDT, all of them at once.

For ``M`` modalities there are ``E = M * M`` one-layer transformer encoders, one per pair (target, source), without
shared weights. They are stacked on a leading axis, so that each step of all encoders is one batched matrix product over
the ``N`` valid utterances; only attention sees padding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.models.dropout import bernoulli, keep_mask
from lantern.models.rows import Rows


class StackedLinear(nn.Module):
    """``E`` independent linear layers, one per slice: ``[E, N, in] -> [E, N, out]``.

    The weight is kept ``[E, in, out]``: its gradient then comes out of the batched product in the layout of the
    parameter, which spares a transposed copy of every weight per step. Initialised as ``nn.Linear``.
    """

    bias: nn.Parameter | None

    def __init__(self, stack: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(stack, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        """The layers of *part* alone."""
        if self.bias is None:
            return torch.bmm(x, self.weight[part])
        return torch.baddbmm(self.bias[part].unsqueeze(1), x, self.weight[part])


class StackedLayerNorm(nn.Module):
    """``E`` independent layer norms over the last axis of ``[E, N, H]``, epsilon 1e-6."""

    def __init__(self, stack: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, size))
        self.bias = nn.Parameter(torch.zeros(stack, size))

    def forward(self, x: Tensor, part: slice) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return torch.addcmul(self.bias[part].unsqueeze(1), normal, self.weight[part].unsqueeze(1))


class Dropout(nn.Module):
    """Dropout as in ``nn.Dropout``, with :func:`~lantern.models.dropout.keep_mask`."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropout:
            return x
        return x * keep_mask(tuple(x.shape), self.dropout, x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """*residual* + dropout(*x*), in one pass."""
        if not self.training or not self.dropout:
            return residual + x
        return torch.addcmul(residual, x, keep_mask(tuple(x.shape), self.dropout, x))


class CrossModalEncoders(nn.Module):
    """All ``E = M * M`` encoders: targets in order, for each target its own modality first, then the others in order.

    The intra- and inter-modal transformers of arXiv 2310.20494; the details follow the published implementation: the
    residual is the dropped-out target, with one norm before the feed-forward part and none at the end.
    """

    targets: Tensor
    sources: Tensor
    source_draws: Tensor

    def __init__(self, modalities: int, hidden: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.pairs = encoder_pairs(modalities)
        """(target, source) of each encoder, as modality indices."""
        stack = len(self.pairs)
        self.query = StackedLinear(stack, hidden, hidden)
        self.key_value = StackedLinear(stack, hidden, 2 * hidden)
        self.output = StackedLinear(stack, hidden, hidden)
        self.norm = StackedLayerNorm(stack, hidden)
        self.inner = StackedLinear(stack, hidden, feed_forward)
        self.outer = StackedLinear(stack, feed_forward, hidden)
        self.drop = Dropout(dropout)
        # Input masks: draw e is the target's of encoder e; the source has a draw of its own unless it is the target.
        extra = iter(range(stack, 2 * stack))
        draws = [e if target == source else next(extra) for e, (target, source) in enumerate(self.pairs)]
        self.register_buffer("targets", torch.tensor([target for target, _ in self.pairs]), persistent=False)
        self.register_buffer("sources", torch.tensor([source for _, source in self.pairs]), persistent=False)
        self.register_buffer("source_draws", torch.tensor(draws), persistent=False)

    def forward(self, x: Tensor, rows: Rows, part: slice = slice(None)) -> Tensor:
        """Encoder inputs ``[M, N, H]`` to outputs ``[E, N, H]`` of the encoders in *part*; dropout is for all."""
        target, source = self._inputs(x, part)
        queries = rows.spread(self.query(target, part))
        keys, values = zip(*(block.chunk(2, dim=-1) for block in rows.spread(self.key_value(source, part))))
        attended = rows.attend(queries, keys, values, self.heads, self._keep(rows, x))
        del queries, keys, values
        residual = self.drop.add(self.output(attended, part), target)
        inner = self.drop(F.gelu(self.inner(self.norm(residual, part), part), approximate="tanh"))
        return self.drop.add(self.outer(inner, part), residual)

    def _keep(self, rows: Rows, like: Tensor) -> Tensor | None:
        """Dropout mask of the attention weights, ``[E, B, heads, L, L]``."""
        if not self.training or not self.dropout:
            return None
        shape = (len(self.pairs), rows.batch, self.heads, rows.length, rows.length)
        return bernoulli(shape, 1 - self.dropout, like).div_(1 - self.dropout)

    def _inputs(self, x: Tensor, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Target and source of every encoder, ``[E, N, H]`` each, with their own input dropout."""
        target, source = x[self.targets[part]], x[self.sources[part]]
        if not self.training or not self.dropout:
            return target, source
        modalities, stack = len(x), len(self.pairs)
        keep = keep_mask((2 * stack - modalities, *x.shape[1:]), self.dropout, x)
        return target * keep[:stack], source * keep[self.source_draws]


def encoder_pairs(modalities: int) -> list[tuple[int, int]]:
    """(target, source) of each encoder in stacking order: a target's own modality first, then the others in order."""
    order = range(modalities)
    return [(target, source) for target in order for source in sorted(order, key=lambda s: (s != target, s))]
