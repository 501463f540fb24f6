"""CORECT (arXiv 2311.04507) computed as the published implementation computes it: what the backbone is timed against.

All layers run on all ``[B, L]`` positions and none masks padding; the cross-modal stacks are time-major, project query,
key and value apart and average their attention weights over the heads; the graph is built edge by edge for every batch
and PyG's two convolutions run on it. Parameters are named as in the backbone, whose ``exact_published`` form it equals.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv, TransformerConv

from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.model import Model

MODALITIES = ("text", "audio", "visual")
RELATIONS = 15  # earlier, later, same utterance per modality; then one per ordered pair of modalities


class TextEncoder(nn.Module):
    """Post-norm transformer over the dialogue."""

    def __init__(self, size: int, config: Config) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(size, 8, config.text_feedforward, config.dropout, batch_first=True)
            for _ in range(config.text_layers)
        )
        self.output = nn.Linear(size, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.output(x)
        return out


class UtteranceEncoder(nn.Module):
    """Two linear layers with ReLU."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Attention(nn.Module):
    """Scaled dot-product attention of time-major ``[L, B, width]``, and its weights averaged over the heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        length, batch, width = query.shape
        size = width // self.heads
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))
        q, k, v = (x.contiguous().view(-1, batch * self.heads, size).transpose(0, 1) for x in (q * size**-0.5, k, v))
        attention = F.softmax(torch.bmm(q, k.transpose(1, 2)).float(), dim=-1)
        mixed = torch.bmm(attention, v).transpose(0, 1).contiguous().view(length, batch, width)
        return self.out_proj(mixed), attention.view(batch, self.heads, length, -1).sum(dim=1) / self.heads


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor, source: Tensor | None) -> Tensor:
        residual, query = x, self.layer_norms[0](x)
        if source is None:
            mixed, _ = self.self_attn(query, query, query)
        else:
            mixed, _ = self.self_attn(query, self.layer_norms[0](source), self.layer_norms[0](source))
        x = residual + mixed
        out: Tensor = x + self.fc2(F.relu(self.fc1(self.layer_norms[1](x))))
        return out


class Stack(nn.Module):
    """Layers that attend to a fixed source, or to themselves, and a final norm."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, source: Tensor | None) -> Tensor:
        x, source = x * self.scale, None if source is None else source * self.scale
        for layer in self.layers:
            x = layer(x, source)
        out: Tensor = self.layer_norm(x)
        return out


class CrossModal(nn.Module):
    """A stack per ordered pair of modalities, then one per modality."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        pair = (config.hidden, config.crossmodal_heads, config.crossmodal_layers)
        memory = (2 * config.hidden, config.self_attention_heads, config.self_attention_layers)
        self.pairs = nn.ModuleDict({f"{q}_{s}": Stack(*pair) for q in MODALITIES for s in MODALITIES if s != q})
        self.memories = nn.ModuleDict({name: Stack(*memory) for name in MODALITIES})

    def forward(self, encoded: dict[str, Tensor]) -> Tensor:
        """``[B, L, hidden]`` per modality to ``[B, L, 6 * hidden]``."""
        encoded = {name: x.transpose(0, 1) for name, x in encoded.items()}
        outputs = []
        for q in MODALITIES:
            pairs = [self.pairs[f"{q}_{s}"](encoded[q], encoded[s]) for s in MODALITIES if s != q]
            outputs.append(self.memories[q](torch.cat(pairs, dim=-1), None))
        return torch.cat(outputs, dim=-1).transpose(0, 1)


class Graph(nn.Module):
    """The two graph convolutions, on edges."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, heads = config.hidden, config.graph_heads
        self.past, self.future = config.past_window, config.future_window
        self.relational = RGCNConv(hidden, hidden, RELATIONS)
        self.attention = TransformerConv(hidden, hidden, heads=heads)
        self.norm = nn.BatchNorm1d(hidden * heads)

    def forward(self, nodes: Tensor, lengths: list[int]) -> Tensor:
        """``[3 * N, hidden]``, modality after modality, to ``[N, 3 * heads * hidden]``."""
        edges, kinds = (x.to(nodes.device) for x in self.edges(lengths))
        x = self.attention(self.relational(nodes, edges, kinds), edges)
        x = F.leaky_relu(self.norm(x))
        return torch.cat(x.chunk(len(MODALITIES)), dim=-1)

    def edges(self, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """``[2, E]`` (source, target) and the relation ``[E]`` of each edge."""
        total, count, start = sum(lengths), len(MODALITIES), 0
        edges, kinds = [], []
        for length in lengths:
            window: set[tuple[int, int]] = set()
            for i in range(length):
                reach = range(max(0, i - self.past), min(length, i + self.future))
                window = window.union({(i, j) for j in reach})
            for m in range(count):
                for i, j in window:
                    edges.append(torch.tensor([m * total + start + i, m * total + start + j]))
                    kinds.append((2 if i == j else int(i > j)) * count + m)
                for n in range(count):
                    for i in range(length if m != n else 0):
                        edges.append(torch.tensor([m * total + start + i, n * total + start + i]))
                        kinds.append(3 * count + m * (count - 1) + n - int(n > m))
            start += length
        return torch.stack(edges).t().contiguous(), torch.tensor(kinds)


class OfficialCorect(Backbone):
    """CORECT on text, audio and visual features, everything on."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        hidden = self.hidden_size = config.hidden
        self.dropout = config.dropout
        self.encoders = nn.ModuleDict({"text": TextEncoder(sizes.dims["text"], config)})
        for name in ("audio", "visual"):
            self.encoders[name] = UtteranceEncoder(sizes.dims[name], hidden)
        self.speaker = nn.Embedding(sizes.speakers, hidden)
        self.graph = Graph(config)
        self.crossmodal = CrossModal(config)
        self.project = nn.Linear(3 * config.graph_heads * hidden + 6 * hidden, hidden)
        self.classify = nn.Linear(hidden, sizes.classes)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """As the backbone's, without stages."""
        mask = batch.mask
        speaker = self.speaker(batch.speakers)
        encoded = {name: self.encoders[name](batch.features[name]) + speaker for name in MODALITIES}
        nodes = torch.cat([x[mask] for x in encoded.values()])
        graph = self.graph(nodes, batch.lengths.tolist())
        features = torch.cat([graph, self.crossmodal(encoded)[mask]], dim=-1)
        hidden = F.dropout(F.relu(self.project(features)), self.dropout, self.training)
        return BackboneOutput(hidden, self.classify(hidden))

    def copy_weights(self, model: Model) -> None:
        """Take the parameters of the backbone."""
        self.load_state_dict(model.state_dict())
