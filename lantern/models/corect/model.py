"""CORECT: unimodal encoders, relational temporal graph, pairwise cross-modal attention, classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.crossmodal import CrossModal
from lantern.models.corect.encoders import build_encoder
from lantern.models.corect.graph import EdgeRule, Graph, slot_major
from lantern.models.dropout import dropout
from lantern.models.rows import Rows


class Highway(nn.Module):
    """``g * relu(W x) + (1 - g) * x`` with a learned gate ``g`` (Srivastava et al., 2015), width kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.gate(x)) * (F.relu(self.transform(x)) - x)


class Model(Backbone):
    """CORECT (Nguyen et al., EMNLP 2023, arXiv 2311.04507).

    Modalities keep the order of :data:`~lantern.corpora.types.MODALITIES` everywhere. ``hidden`` of the output,
    ``[N, config.hidden]``, is the vector before the last linear layer; there is no auxiliary loss.

    With ``stages=True`` the output's ``stages`` hold, for ``M`` modalities, ``N`` valid utterances, ``h`` hidden units
    and ``H`` graph heads:

    * ``encoder.<modality>`` ``[B, L, h]``, ``encoder.<modality>_flat`` ``[N, h]``: before the speaker vector
    * ``nodes`` ``[M * N, h]``: after it, modality after modality
    * ``edge_index`` ``[2, E]``, ``edge_type`` ``[E]``: the graph, sorted by (source, target)
    * ``rgcn`` ``[M * N, h]``, ``tconv`` ``[M * N, h * H]`` (before batch norm), ``graph`` ``[N, M * h * H]``
    * ``cross.<query>_<source>`` ``[B, L, h]``, ``cross.mem_<modality>`` ``[B, L, (M - 1) * h]``, ``cross``
      ``[N, M * (M - 1) * h]``
    * ``features`` (what the classifier gets), ``logits``, ``log_probs`` ``[N, C]``

    Padded stages hold zeros at padding, unless ``exact_published`` computes it.

    Raises:
        UserError: the options do not fit the corpus.
    """

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.modalities = _choose(config, sizes)
        self.stage_aliases: dict[str, str] = {}
        count = len(self.modalities)
        self.encoders = nn.ModuleDict({name: build_encoder(name, sizes.dims[name], config) for name in self.modalities})
        self.speaker = nn.Embedding(sizes.speakers, config.hidden) if config.use_speaker else None
        self.graph = Graph(EdgeRule.of(config, count), config) if config.graph else None
        self.crossmodal = CrossModal(self.modalities, config) if config.crossmodal and count > 1 else None
        branches = [branch.output_size for branch in (self.graph, self.crossmodal) if branch is not None]
        width = sum(branches) or count * config.hidden
        self.highway = Highway(width) if config.highway else None
        self.project = nn.Linear(width, config.hidden)
        self.classify = nn.Linear(config.hidden, sizes.classes)
        self.hidden_size = config.hidden

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """Hidden vectors and logits of the valid utterances of *batch*, with the named stages on request."""
        named: dict[str, Tensor] | None = {} if stages else None
        shape, device = batch.mask.shape, batch.mask.device
        valid = Rows.of(batch.sizes, shape[1], device)
        computed = Rows.everything(shape[0], shape[1], device) if self.config.exact_published else valid
        encoded = self._encode(batch, computed, valid, named)
        features = self._fuse(encoded, batch.lengths, computed, valid, named)
        if self.highway is not None:
            features = self.highway(features)
        hidden = dropout(F.relu(self.project(features)), self.config.dropout, self.training)
        logits = self.classify(hidden)
        if named is not None:
            named |= {"features": features, "logits": logits, "log_probs": logits.log_softmax(-1)}
            named |= {alias: named[name] for alias, name in self.stage_aliases.items() if name in named}
        return BackboneOutput(hidden=hidden, logits=logits, stages=named or {})

    def _encode(self, batch: Batch, computed: Rows, valid: Rows, stages: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Per modality the encoding with the speaker vector, ``[R, hidden]``."""
        speaker = None
        if self.speaker is not None:
            speaker = self.speaker(computed.take(batch.speakers.masked_fill(~batch.mask, 0)))
        encoded = {}
        for name, encoder in self.encoders.items():
            features = batch.features[name]
            if computed is not valid:
                features = features.masked_fill(~batch.mask[..., None], 0.0)
            x = encoder(computed.take(features), computed, batch.lengths)
            if stages is not None:
                stages[f"encoder.{name}"] = computed.pad(x)
                stages[f"encoder.{name}_flat"] = valid.take(computed.pad(x))
            encoded[name] = x if speaker is None else x + speaker
        return encoded

    def _fuse(
        self,
        encoded: dict[str, Tensor],
        lengths: Tensor,
        computed: Rows,
        valid: Rows,
        stages: dict[str, Tensor] | None,
    ) -> Tensor:
        """The vector per valid utterance that the classifier gets, ``[N, width]``."""

        def only_valid(x: Tensor) -> Tensor:
            return x if computed is valid else valid.take(computed.pad(x))

        nodes = torch.stack([only_valid(x) for x in encoded.values()], dim=1)
        if stages is not None:
            stages["nodes"] = slot_major(nodes)
        branches = {}
        if self.graph is not None:
            branches["graph"] = self.graph(nodes, valid, lengths, stages)
            if stages is not None:
                stages["edge_index"], stages["edge_type"] = self.graph.rule.edges(lengths)
        if self.crossmodal is not None:
            branches["cross"] = only_valid(self.crossmodal(encoded, computed, stages))
        if stages is not None:
            stages.update(branches)
        return torch.cat(list(branches.values()), dim=-1) if branches else nodes.flatten(1)


def _choose(config: Config, sizes: Sizes) -> list[str]:
    """The modalities to use, in the order of :data:`~lantern.corpora.types.MODALITIES`."""
    wanted = sorted(sizes.dims if config.modalities is None else config.modalities, key=MODALITIES.index)
    lacking = [name for name in wanted if name not in sizes.dims]
    if lacking:
        raise UserError(
            f"backbone.modalities=[{','.join(wanted)}]: the corpus has no {lacking[0]} features, "
            f"only {', '.join(sizes.dims) or 'none'}."
        )
    if not wanted:
        raise UserError("backbone=corect: the corpus has no modality with features.")
    return wanted
