"""Pairwise cross-modal feature interaction, P-CM (arXiv 2311.04507): pre-norm stacks as in MulT (arXiv 1906.00295)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.errors import UserError
from lantern.models.corect.attention import Attention
from lantern.models.corect.config import Config
from lantern.models.rows import Rows


class _Layer(nn.Module):
    """Attention and feed-forward, each after a layer norm; query and source share the first norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        for linear in (self.self_attn.out_proj, self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, source: Tensor | None, rows: Rows) -> Tensor:
        query = self.layer_norms[0](x)
        x = x + self.self_attn(query, query if source is None else self.layer_norms[0](source), rows)
        out: Tensor = x + self.fc2(F.relu(self.fc1(self.layer_norms[1](x))))
        return out


class Stack(nn.Module):
    """Layers and a final norm: ``[R, width]`` rows attend to a fixed source, or to themselves, per dialogue."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, source: Tensor | None, rows: Rows) -> Tensor:
        """``[R, width]`` to ``[R, width]``; *source* None means self-attention."""
        x = x * self.scale
        if source is not None:
            source = source * self.scale
        for layer in self.layers:
            x = layer(x, source, rows)
        out: Tensor = self.layer_norm(x)
        return out


class CrossModal(nn.Module):
    """One stack per ordered pair of modalities, then a self-attention stack per modality.

    Raises:
        UserError: ``backbone.self_attention_heads`` does not divide the width of the self-attention stacks.
    """

    def __init__(self, modalities: list[str], config: Config) -> None:
        super().__init__()
        self.modalities = modalities
        width = (len(modalities) - 1) * config.hidden
        if width % config.self_attention_heads:
            others = len(modalities) - 1
            raise UserError(
                f"backbone.self_attention_heads={config.self_attention_heads} does not divide {width}, the width of "
                f"the self-attention stacks (backbone.hidden={config.hidden} times {others} other modalities)."
            )
        self.output_size = len(modalities) * width
        self.pairs = nn.ModuleDict(
            {
                pair_name(query, source): Stack(config.hidden, config.crossmodal_heads, config.crossmodal_layers)
                for query in modalities
                for source in modalities
                if source != query
            }
        )
        self.memories = nn.ModuleDict(
            {name: Stack(width, config.self_attention_heads, config.self_attention_layers) for name in modalities}
        )

    def forward(self, encoded: dict[str, Tensor], rows: Rows, stages: dict[str, Tensor] | None = None) -> Tensor:
        """Encodings ``[R, hidden]`` per modality to ``[R, M * (M - 1) * hidden]``, modality after modality."""
        outputs = []
        for query in self.modalities:
            attended = []
            for source in self.modalities:
                if source != query:
                    name = pair_name(query, source)
                    attended.append(self.pairs[name](encoded[query], encoded[source], rows))
                    if stages is not None:
                        stages[f"cross.{name}"] = rows.pad(attended[-1])
            outputs.append(self.memories[query](torch.cat(attended, dim=-1), None, rows))
            if stages is not None:
                stages[f"cross.mem_{query}"] = rows.pad(outputs[-1])
        return torch.cat(outputs, dim=-1)


def pair_name(query: str, source: str) -> str:
    """Name of the stack in which *query* attends to *source*."""
    return f"{query}_{source}"
