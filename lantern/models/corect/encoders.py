"""Unimodal encoders: one vector per utterance and modality (arXiv 2311.04507, section on unimodal encoding)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lantern.errors import UserError
from lantern.models.corect.attention import Attention
from lantern.models.corect.config import Config
from lantern.models.dropout import dropout
from lantern.models.rows import Rows


def default_heads(width: int) -> int:
    """The published implementation's head count for a text transformer: smallest divisor in 7..14, else 1."""
    return next((heads for heads in range(7, 15) if width % heads == 0), 1)


class UtteranceEncoder(nn.Module):
    """Two linear layers with ReLU, each utterance by itself."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Encode ``[R, D]`` to ``[R, hidden]``."""
        out: Tensor = self.layers(x)
        return out


class _TransformerLayer(nn.Module):
    """A post-norm layer with the parameters of :class:`torch.nn.TransformerEncoderLayer`, over packed rows."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        x = self.norm1(x + self._drop(self.self_attn(x, x, rows)))
        inner = self._drop(F.relu(self.linear1(x)))
        out: Tensor = self.norm2(x + self._drop(self.linear2(inner)))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class TextTransformer(nn.Module):
    """Transformer over the utterances of a dialogue, without positions, then a linear layer to ``hidden``."""

    def __init__(self, size: int, config: Config) -> None:
        super().__init__()
        heads = config.text_heads or default_heads(size)
        if size % heads:
            raise UserError(f"backbone.text_heads={heads} does not divide the text feature size {size}.")
        self.blocks = nn.ModuleList(
            _TransformerLayer(size, heads, config.text_feedforward, config.dropout) for _ in range(config.text_layers)
        )
        self.output = nn.Linear(size, config.hidden)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Encode ``[R, D]`` to ``[R, hidden]``."""
        for block in self.blocks:
            x = block(x, rows)
        out: Tensor = self.output(x)
        return out


class TextLSTM(nn.Module):
    """Bidirectional LSTM over the utterances of a dialogue, half of ``hidden`` per direction; padding never enters."""

    def __init__(self, size: int, config: Config) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, config.hidden // 2, config.text_layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Encode ``[R, D]`` to ``[R, hidden]``; padding rows, where computed, are zeros."""
        packed = pack_padded_sequence(rows.pad(x), rows.lengths.cpu(), batch_first=True, enforce_sorted=False)
        # Under autocast, dialogues of one length go to oneDNN, whose LSTM in bfloat16 needs AVX-512.
        with torch.autocast("cpu", enabled=False):
            encoded, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(encoded, batch_first=True, total_length=rows.length)
        return rows.take(padded)


def build_encoder(modality: str, size: int, config: Config) -> nn.Module:
    """The encoder of *modality* for features of *size*, called as ``encoder(x, rows)``."""
    if modality == "text" and config.text_encoder == "transformer":
        return TextTransformer(size, config)
    if modality == "text" and config.text_encoder == "lstm":
        return TextLSTM(size, config)
    return UtteranceEncoder(size, config.hidden)
