"""CORECT: unimodal encoders, relational temporal graph, pairwise cross-modal attention, classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.crossmodal import CrossModal
from lantern.models.corect.encoders import build_encoder
from lantern.models.corect.graph import EdgeRule, Graph, Tiles, slot_major
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
        compute, valid = self.computation(batch, stages)
        device, computed = batch.mask.device, None
        if self.config.exact_published:
            computed = Rows.everything(len(batch.mask), batch.mask.shape[1], device, valid.compiled)
        tiles = None if self.graph is None else self.graph.tiles(batch.sizes, device, valid.compiled)
        return compute(valid, computed, tiles, batch.features, batch.speakers, batch.mask, stages)

    def compile(self, *args: Any, **options: Any) -> None:
        """As of :class:`~lantern.models.batch.Backbone`; an LSTM is refused."""
        if self.config.text_encoder == "lstm" and "text" in self.modalities:
            raise UserError("trainer.compile=true: backbone.text_encoder=lstm cannot be compiled")
        super().compile(*args, **options)

    def compute(
        self,
        valid: Rows,
        computed: Rows | None,
        tiles: Tiles | None,
        features: dict[str, Tensor],
        speakers: Tensor,
        mask: Tensor,
        stages: bool,
    ) -> BackboneOutput:
        """The output for padded tensors of a batch, whose utterances are *valid*; *computed* where that is more."""
        named: dict[str, Tensor] | None = {} if stages else None
        if computed is not None:  # zeros and the first speaker at padding
            features = {name: x.masked_fill(~mask[..., None], 0.0) for name, x in features.items()}
            speakers = speakers.masked_fill(~mask, 0)
        encoded = self._encode(features, speakers, computed or valid, valid, named)
        fused = self._fuse(encoded, computed or valid, valid, tiles, named)
        if self.highway is not None:
            fused = self.highway(fused)
        hidden = dropout(F.relu(self.project(fused)), self.config.dropout, self.training)
        logits = self.classify(hidden)
        if named is not None:
            named |= {"features": fused, "logits": logits, "log_probs": logits.log_softmax(-1)}
            named |= {alias: named[name] for alias, name in self.stage_aliases.items() if name in named}
        return BackboneOutput(hidden=hidden, logits=logits, stages=named or {})

    def _encode(
        self,
        features: dict[str, Tensor],
        speakers: Tensor,
        computed: Rows,
        valid: Rows,
        stages: dict[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Per modality the encoding with the speaker vector, ``[R, hidden]``."""
        speaker = None if self.speaker is None else self.speaker(computed.take(speakers))
        encoded = {}
        for name, encoder in self.encoders.items():
            x = encoder(computed.take(features[name]), computed)
            if stages is not None:
                stages[f"encoder.{name}"] = computed.pad(x)
                stages[f"encoder.{name}_flat"] = valid.take(computed.pad(x))
            encoded[name] = x if speaker is None else x + speaker
        return encoded

    def _fuse(
        self,
        encoded: dict[str, Tensor],
        computed: Rows,
        valid: Rows,
        tiles: Tiles | None,
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
            branches["graph"] = self.graph(nodes, valid, tiles, stages)
            if stages is not None:
                stages["edge_index"], stages["edge_type"] = self.graph.rule.edges(valid.lengths)
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
