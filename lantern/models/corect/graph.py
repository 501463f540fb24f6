"""Relational temporal graph, RT-GCN (arXiv 2311.04507): edges, relations and the two graph convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv, TransformerConv

from lantern.models.corect.config import Config
from lantern.models.rows import Rows, send

_TILE = 32  # target utterances per tile; smaller tiles waste fewer keys but make smaller matrix products


@dataclass(frozen=True, slots=True)
class EdgeRule:
    """Which edges a conversation graph has; nodes are utterances per modality.

    ``first`` and ``last`` bound the offset ``target - source`` of temporal edges, inclusive; None for no bound. Within
    the bounds offset 0, the self-loop, comes along; without temporal edges there are self-loops only.
    """

    modalities: int
    temporal: bool
    multimodal: bool
    first: int | None
    last: int | None

    @classmethod
    def of(cls, config: Config, modalities: int) -> EdgeRule:
        """The rule *config* asks for; ``exact_published`` counts the utterance itself in ``future_window``."""
        future = config.future_window
        if future >= 0 and config.exact_published:
            future -= 1
        unlimited = config.future_window < 0
        return cls(
            modalities=modalities,
            temporal=config.edges != "multimodal",
            multimodal=config.edges != "temporal",
            first=None if config.past_window < 0 else -config.past_window,
            last=None if unlimited else future,
        )

    @property
    def self_loops(self) -> bool:
        """Whether every node has an edge to itself."""
        return not self.temporal or self.last is None or self.last >= 0

    @property
    def relations(self) -> int:
        """Number of relations: earlier, later and same per modality, then one per ordered pair of modalities."""
        m = self.modalities
        return m * (3 if self.temporal else 1) + (m * (m - 1) if self.multimodal else 0)

    def relation(self, source: int, target: int, direction: int = 0) -> int:
        """Id of the relation from modality *source* to modality *target*.

        *direction* is -1 where the source utterance is the earlier one, 1 where it is the later one, 0 for the same
        utterance. Ids are those of the published implementation: (-1, m, m), (1, m, m), (0, m, m), then the pairs in
        lexicographic order.
        """
        m = self.modalities
        if source == target:
            block = {-1: 0, 1: 1, 0: 2}[direction] if self.temporal else 0
            return block * m + source
        return m * (3 if self.temporal else 1) + source * (m - 1) + target - (target > source)

    def allows(self, offset: Tensor) -> Tensor:
        """Whether there is an edge within a modality at ``target - source`` = *offset*, bool of the same shape."""
        if not self.temporal:
            return offset == 0
        allowed = torch.ones_like(offset, dtype=torch.bool)
        if self.first is not None:
            allowed &= offset >= self.first
        if self.last is not None:
            allowed &= offset <= self.last
        return allowed

    def band(self, length: int, device: torch.device) -> Tensor:
        """Edges within one modality among *length* utterances, bool ``[target, source]``."""
        return self.allows(torch.arange(length, device=device)[:, None] - torch.arange(length, device=device))

    def edges(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """All edges of a batch, sorted by (source, target), for PyG's convolutions.

        *lengths* is int64 ``[B]``. Node ids are ``slot * N + offset of the dialogue + position``. Gives
        ``edge_index`` ``[2, E]`` (row 0 sources, row 1 targets) and ``edge_type`` ``[E]``; ``E`` is 0 where the rule
        leaves no edge, e.g. for a lone utterance without self-loop.
        """
        device, total = lengths.device, int(lengths.sum())
        starts = lengths.cumsum(0) - lengths
        longest = int(lengths.max()) if lengths.numel() else 0
        inside = torch.arange(longest, device=device) < lengths[:, None]
        allowed = self.band(longest, device) & inside[:, :, None] & inside[:, None, :]
        dialogue, target, source = allowed.nonzero(as_tuple=True)
        direction = (source - target).sign()
        source, target = source + starts[dialogue], target + starts[dialogue]
        every = torch.arange(total, device=device)
        parts = []
        for m in range(self.modalities):
            ids = torch.tensor([self.relation(m, m, d) for d in (0, 1, -1)], device=device)
            parts.append(torch.stack([source + m * total, target + m * total, ids[direction]]))
            for n in range(self.modalities):
                if self.multimodal and n != m:
                    kind = torch.full_like(every, self.relation(m, n))
                    parts.append(torch.stack([every + m * total, every + n * total, kind]))
        joined = torch.cat(parts, dim=1)
        order = (joined[0] * (self.modalities * total) + joined[1]).argsort()
        joined = joined[:, order]
        return joined[:2], joined[2]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Groups of target utterances with all the utterances their temporal edges can come from.

    Attention runs per tile, over all modalities: either a tile is a padded dialogue, or, for narrow windows, a run of
    consecutive utterances of the whole batch with the window on both sides, which needs less padding.
    """

    targets: Tensor
    """Utterance in each target place, int64 ``[T, S]``, clamped to existing ones."""
    sources: Tensor
    """Utterance in each source place, int64 ``[T, K]``, clamped to existing ones."""
    places: Tensor
    """Flat place among the targets of each utterance, int64 ``[N]``."""
    mask: Tensor
    """Edges, bool ``[T, 1, S * M, K * M]``; rows without edge are all True, so that no softmax is empty."""
    connected: Tensor | None
    """Rows of ``mask`` with an edge, bool ``[T, 1, S * M, 1]``; None where all utterances have one."""

    @classmethod
    def of(cls, rule: EdgeRule, sizes: Sequence[int], device: torch.device, compiled: bool = False) -> Tiles:
        """The cheaper tiling for dialogues of *sizes*, made on the host for *device*.

        For a *compiled* model the rule alone decides which, and there are two tiles or more.
        """
        lengths, total, longest = torch.tensor(sizes), sum(sizes), max(sizes)
        every = torch.arange(total)
        dialogue = torch.arange(len(sizes)).repeat_interleave(lengths)
        behind, ahead = (0, 0) if not rule.temporal else (rule.last, None if rule.first is None else -rule.first)
        starts = (lengths.cumsum(0) - lengths)[:, None]
        tiles = None
        if behind is not None and ahead is not None:
            behind = max(behind, 0)
            count, width = max(-(-total // _TILE), 1 + compiled), _TILE + behind + ahead
            if compiled or count * _TILE * width < len(sizes) * longest**2:
                starts = torch.arange(count)[:, None] * _TILE
                targets = starts + torch.arange(_TILE)
                tiles = cls._build(rule, dialogue, targets, starts - behind + torch.arange(width), every)
        if tiles is None:
            places = torch.arange(longest)
            padded = torch.where(places < lengths[:, None], starts + places, total)
            tiles = cls._build(rule, dialogue, padded, padded, dialogue * longest + every - starts[dialogue, 0])
        return tiles.to(device)

    def to(self, device: torch.device) -> Tiles:
        """The same, made on the host, on *device*."""
        connected = None if self.connected is None else send(self.connected, device)
        targets, sources, places, mask = (send(x, device) for x in (self.targets, self.sources, self.places, self.mask))
        return Tiles(targets, sources, places, mask, connected)

    @classmethod
    def _build(cls, rule: EdgeRule, dialogue: Tensor, targets: Tensor, sources: Tensor, places: Tensor) -> Tiles:
        """Tiles from utterance numbers, those outside ``0 .. N - 1`` being padding."""
        total, m = len(dialogue), rule.modalities
        exists = (sources >= 0) & (sources < total)
        real = exists[:, None, :] & (targets < total)[:, :, None]
        offset = targets[:, :, None] - sources[:, None, :]
        targets, sources = targets.clamp(max=total - 1), sources.clamp(0, total - 1)
        real &= dialogue[targets][:, :, None] == dialogue[sources][:, None, :]
        own = torch.eye(m, dtype=torch.bool, device=dialogue.device)[:, None, :]
        mask = (rule.allows(offset) & real)[:, :, None, :, None] & own
        if rule.multimodal:
            mask |= ((offset == 0) & real)[:, :, None, :, None] & ~own
        mask = mask.view(len(targets), 1, targets.shape[1] * m, sources.shape[1] * m)
        connected = mask.any(-1, keepdim=True)
        return cls(targets, sources, places, mask | ~connected, None if rule.self_loops else connected)


class Graph(nn.Module):
    """Relational convolution, then optionally graph attention, batch norm and leaky ReLU.

    Parameters live in PyG's :class:`RGCNConv` and :class:`TransformerConv`, which would sum over the list of
    :meth:`EdgeRule.edges`. The forward pass computes the same sums from the structure of the graph, four times faster:
    temporal neighbours are a band around the diagonal of each dialogue, so aggregation is a banded matrix product and
    graph attention is masked dot-product attention over :class:`Tiles`.
    """

    def __init__(self, rule: EdgeRule, config: Config) -> None:
        super().__init__()
        self.rule, self.hidden, self.heads = rule, config.hidden, config.graph_heads
        self.relational = RGCNConv(config.hidden, config.hidden, rule.relations)
        self.attention: TransformerConv | None = None
        width = config.hidden
        if config.graph_transformer:
            self.attention = TransformerConv(config.hidden, config.hidden, heads=config.graph_heads)
            width *= config.graph_heads
            self.norm = nn.BatchNorm1d(width)
        self.output_size = rule.modalities * width

    def tiles(self, sizes: Sequence[int], device: torch.device, compiled: bool) -> Tiles | None:
        """What :meth:`forward` needs to know of a batch of dialogues of *sizes*; None without graph attention."""
        return None if self.attention is None else Tiles.of(self.rule, sizes, device, compiled)

    def forward(
        self, nodes: Tensor, rows: Rows, tiles: Tiles | None, stages: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Node features ``[N, M, hidden]`` to ``[N, output_size]``, the modalities of an utterance side by side.

        *rows* are the ``N`` valid utterances.
        """
        x = self.convolve(nodes, rows)
        if stages is not None:
            stages["rgcn"] = slot_major(x)
        if tiles is not None:
            x = self.attend(x, tiles)
            if stages is not None:
                stages["tconv"] = slot_major(x)
            x = F.leaky_relu(self._normalise(x.flatten(0, 1))).view_as(x)
        return x.flatten(1)

    def convolve(self, nodes: Tensor, rows: Rows) -> Tensor:
        """The relational convolution: ``[N, M, hidden]`` to ``[N, M, hidden]``, mean over sources per relation."""
        rule, weight = self.rule, self.relational.weight
        by_modality = nodes.unbind(1)
        past, future = self._temporal_means(nodes, rows) if rule.temporal else ((), ())
        outputs = []
        for m in range(rule.modalities):
            own = self.relational.root
            if rule.self_loops:
                own = own + weight[rule.relation(m, m)]
            inputs, weights = [by_modality[m]], [own]
            if rule.temporal:
                inputs += [past[m], future[m]]
                weights += [weight[rule.relation(m, m, -1)], weight[rule.relation(m, m, 1)]]
            for n in range(rule.modalities):
                if rule.multimodal and n != m:
                    inputs.append(by_modality[n])
                    weights.append(weight[rule.relation(n, m)])
            outputs.append(torch.addmm(self.relational.bias, torch.cat(inputs, dim=1), torch.cat(weights)))
        return torch.stack(outputs, dim=1)

    def attend(self, nodes: Tensor, tiles: Tiles) -> Tensor:
        """The graph attention: ``[N, M, hidden]`` to ``[N, M, heads * hidden]``."""
        conv = self.attention
        assert conv is not None

        def heads(projected: Tensor, index: Tensor) -> Tensor:
            tiled = projected.index_select(0, index.flatten()).view(*index.shape, -1, self.heads, self.hidden)
            return tiled.flatten(1, 2).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(conv.lin_query(nodes), tiles.targets),
            heads(conv.lin_key(nodes), tiles.sources),
            heads(conv.lin_value(nodes), tiles.sources),
            attn_mask=tiles.mask,
        )
        if tiles.connected is not None:
            mixed = mixed.masked_fill(~tiles.connected, 0.0)
        by_place = mixed.transpose(1, 2).reshape(-1, nodes.shape[1], self.heads * self.hidden)
        out: Tensor = by_place.index_select(0, tiles.places) + conv.lin_skip(nodes)
        return out

    def _temporal_means(self, nodes: Tensor, rows: Rows) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Mean over earlier and over later sources in the window, ``M`` times ``[N, hidden]``; zeros without any."""
        band = self.rule.band(rows.length, nodes.device)
        inside = torch.arange(rows.length, device=nodes.device) < rows.lengths[:, None]
        both = torch.stack([band.tril(-1), band.triu(1)]) & inside[:, None, None, :]
        weights = both / both.sum(-1, keepdim=True).clamp(min=1)
        padded = rows.pad(nodes.flatten(1))
        means = torch.bmm(weights.flatten(1, 2).to(padded.dtype), padded)
        means = means.view(rows.batch, 2, rows.length, -1).transpose(1, 2)
        past, future = rows.take(means).unflatten(-1, (-1, self.hidden)).unbind(1)
        return past.unbind(1), future.unbind(1)

    def _normalise(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:  # batch statistics of one node are undefined
            return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        out: Tensor = self.norm(x)
        return out


def slot_major(nodes: Tensor) -> Tensor:
    """``[N, M, width]`` to the node order of edge lists, ``[M * N, width]``."""
    return nodes.transpose(0, 1).flatten(0, 1)
