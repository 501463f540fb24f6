"""Multi-head attention over packed rows, shared by the text transformer and the cross-modal stacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.models.corect.dropout import dropout
from lantern.models.corect.rows import Rows


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
