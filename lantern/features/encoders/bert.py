"""A BERT encoder in plain torch, with the parameter names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Bert(nn.Module):
    """Embeddings and layers of BERT (Devlin et al. 2019), without its pooler.

    Args:
        config: ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads`` and ``layer_norm_eps``, as in the
            ``config.json`` of a checkpoint.
        weights: of the checkpoint; what is not part of the encoder is ignored.
        dropout: after the embeddings and before every residual sum, in training only.
        checkpointing: keep only the layers' outputs for the backward pass.

    Raises:
        KeyError: *weights* lack some.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_size = int(config["hidden_size"])
        eps, heads = float(config["layer_norm_eps"]), int(config["num_attention_heads"])
        tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        shapes = {name: weights[f"embeddings.{name}.weight"].shape for name in tables}
        # Filled below: random weights would cost time and draw from the global generator.
        with torch.device("meta"):
            self.embeddings = nn.ModuleDict({name: nn.Embedding(*shape) for name, shape in shapes.items()})
            self.embeddings["LayerNorm"] = nn.LayerNorm(self.hidden_size, eps)
            inner = int(weights["encoder.layer.0.intermediate.dense.weight"].shape[0])
            layers = [
                BertLayer(self.hidden_size, heads, inner, eps, dropout) for _ in range(int(config["num_hidden_layers"]))
            ]
            self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        state = {name: weights[name].float().clone() for name in self.state_dict()}
        self.load_state_dict(state, assign=True)
        self.dropout, self.checkpointing = dropout, checkpointing

    @property
    def layers(self) -> nn.ModuleList:
        """From the lowest to the highest."""
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def longest(self) -> int:
        """Tokens that a sequence may have."""
        table: Any = self.embeddings["position_embeddings"]
        return int(table.num_embeddings)

    def forward(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """Output ``[B, T, H]`` of the embeddings and of each layer.

        *tokens* int64 ``[B, T]``; *mask* bool ``[B, 1, T]`` or ``[B, T, T]``: which tokens each token sees.
        """
        parts: Any = self.embeddings
        x = parts["word_embeddings"](tokens)
        x = x + parts["position_embeddings"].weight[: tokens.shape[1]] + parts["token_type_embeddings"].weight[0]
        x = F.dropout(parts["LayerNorm"](x), self.dropout, self.training)
        outputs = [x]
        saving = self.checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            given = outputs[-1], mask[:, None]
            outputs.append(checkpoint(layer, *given, use_reentrant=False) if saving else layer(*given))
        return outputs


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a norm over its residual sum."""

    def __init__(self, hidden: int, heads: int, inner: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        parts = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": parts, "output": _projection(hidden, hidden, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, inner)})
        self.output = _projection(inner, hidden, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """*x* ``[B, T, H]``, *mask* bool ``[B, 1, 1 or T, T]``."""
        parts: Any = self.attention["self"]
        query, key, value = (
            parts[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        attended = _attend(query, key, value, mask).transpose(1, 2).flatten(2)
        x = self._add(x, attended, self.attention["output"])
        return self._add(x, F.gelu(self.intermediate["dense"](x)), self.output)

    def _add(self, x: Tensor, change: Tensor, parts: Any) -> Tensor:
        return parts["LayerNorm"](x + F.dropout(parts["dense"](change), self.dropout, self.training))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    if torch.is_grad_enabled() and query.device.type == "cpu":
        # Torch's fused attention has a slow backward pass on CPUs: a third of a step against a tenth.
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        return scores.masked_fill(~mask, -1e9).softmax(dim=-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _projection(width: int, hidden: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(width, hidden), "LayerNorm": nn.LayerNorm(hidden, eps)})
