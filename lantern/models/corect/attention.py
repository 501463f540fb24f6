"""The attention that the text transformer and the cross-modal stacks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.models.dropout import keep_mask
from lantern.models.rows import Rows


class Attention(nn.Module):
    """Scaled dot-product attention with the parameters of :class:`torch.nn.MultiheadAttention`, over packed rows."""

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
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            blocks = [block.chunk(3, dim=-1) for block in rows.spread(projected)]
        else:
            cuts = [self.width, 2 * self.width]
            (q_weight, kv_weight), (q_bias, kv_bias) = self.in_proj_weight.split(cuts), self.in_proj_bias.split(cuts)
            q = rows.spread(F.linear(query, q_weight, q_bias))
            kv = rows.spread(F.linear(source, kv_weight, kv_bias))
            blocks = [(own, *other.chunk(2, dim=-1)) for own, other in zip(q, kv)]
        keep = None
        if self.training and self.dropout:
            keep = keep_mask((rows.batch, self.heads, rows.length, rows.length), self.dropout, query)
        queries, keys, values = zip(*blocks)
        out: Tensor = self.out_proj(rows.attend(queries, keys, values, self.heads, keep))
        return out
