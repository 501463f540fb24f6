"""A bidirectional GRU over the concatenated modalities: the plain baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lantern.errors import UserError
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.gru.config import Config


class Model(Backbone):
    """Concatenated features -> linear, ReLU -> GRU -> class layer; speakers are not used and there is no extra loss.

    ``hidden`` is ``[N, H]`` with ``H = hidden`` per direction. With ``stages=True``: ``projected`` ``[N, hidden]``.
    """

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        if not sizes.dims:
            raise UserError("backbone=gru: the corpus has no modality with features.")
        self.modalities = sorted(sizes.dims)
        self.hidden_size = config.hidden * (2 if config.bidirectional else 1)
        self.project = nn.Linear(sum(sizes.dims.values()), config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(
            config.hidden,
            config.hidden,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
            bidirectional=config.bidirectional,
        )
        self.classify = nn.Linear(self.hidden_size, sizes.classes)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """See :class:`Model` for the outputs; shapes of *batch* in :class:`~lantern.models.batch.Batch`."""
        features = torch.cat([batch.features[name][batch.mask] for name in self.modalities], dim=-1)
        projected = torch.relu(self.project(features.to(self.project.weight.dtype)))
        hidden = self._read(self.dropout(projected), batch.mask)
        output = BackboneOutput(hidden, self.classify(self.dropout(hidden)))
        if stages:
            output.stages = {"projected": projected}
        return output

    def _read(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden vectors ``[N, H]`` of utterances ``[N, hidden]``."""
        mask = mask[mask.any(dim=1)]  # a dialogue without utterances cannot be packed
        if not len(mask):
            return x.new_zeros(0, self.hidden_size)
        padded = x.new_zeros(*mask.shape, x.shape[-1]).masked_scatter(mask.unsqueeze(-1), x)
        packed = pack_padded_sequence(padded, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=mask.shape[1])
        return hidden[mask]
