"""SDT (arXiv 2310.20494) computed as the published implementation computes it: what the backbone is timed against.

Everything runs on all ``[B, L]`` positions of the padded batch, one module and one product at a time: a module per
encoder and gate, kernel-1 convolutions as projections, positions and speakers added anew in each of the nine encoders,
query, key and value apart, a comparison of target and source to see whether they are the same modality, GELU by its
formula, torch's own dropout, and losses over masked log-probabilities.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.sdt.config import Config
from lantern.models.sdt.model import Model, sinusoids
from lantern.models.sdt.published import export_published

LETTERS = {"text": "t", "audio": "a", "visual": "v"}
RENAMED = {
    "transformer_inter.0.self_attn.linear_q.": "query.",
    "transformer_inter.0.self_attn.linear_k.": "key.",
    "transformer_inter.0.self_attn.linear_v.": "value.",
    "transformer_inter.0.self_attn.linear.": "output.",
    "transformer_inter.0.feed_forward.layer_norm.": "norm.",
    "transformer_inter.0.feed_forward.w_1.": "inner.",
    "transformer_inter.0.feed_forward.w_2.": "outer.",
    "_gate.fc.": ".gate.",
    "textf_input.": "projections.t.",
    "acouf_input.": "projections.a.",
    "visuf_input.": "projections.v.",
    "features_reduce_": "reduce.",
    "all_output_layer.": "teacher.",
    "_output_layer.2.": ".student.",
    "speaker_embeddings.": "speakers.",
    "last.gate.": "fusion.",
}


class Encoder(nn.Module):
    """One-layer transformer from a source to a target modality, with the gate on its output."""

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads = config.heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, hidden, bias=False)
        self.drop = nn.Dropout(config.dropout)
        self.register_buffer("positions", sinusoids(512, hidden), persistent=False)

    def forward(self, target: Tensor, source: Tensor, speakers: Tensor, padding: Tensor) -> Tensor:
        """Gated output ``[B, L, H]`` for projections ``[B, L, H]``."""
        intra = torch.equal(target, source)
        target = self._input(target, speakers)
        source = target if intra else self._input(source, speakers)
        query, key, value = (
            self._split(self.query(target)),
            self._split(self.key(source)),
            self._split(self.value(source)),
        )
        query = query / math.sqrt(query.shape[-1])
        scores = torch.matmul(query, key.transpose(2, 3)).masked_fill(padding[:, None, None, :], -1e10)
        weights = self.drop(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, value).transpose(1, 2).contiguous().flatten(2)
        x = self.drop(self.output(mixed)) + target
        x = self.drop(self.outer(self.drop(_gelu(self.inner(self.norm(x)))))) + x
        return x * torch.sigmoid(self.gate(x))

    def _input(self, x: Tensor, speakers: Tensor) -> Tensor:
        return self.drop(x + self.positions[: x.shape[1]] + speakers)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class OfficialSdt(Backbone):
    """SDT on text, audio and visual features with learned gates."""

    class_weights: Tensor | None

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        hidden = self.hidden_size = config.hidden
        self.temperature = config.temperature
        letters = list(LETTERS.values())
        self.projections = nn.ModuleDict(
            {LETTERS[m]: nn.Conv1d(d, hidden, 1, bias=False) for m, d in sizes.dims.items()}
        )
        self.speakers = nn.Embedding(sizes.speakers + 1, hidden, padding_idx=sizes.speakers)
        self.encoders = nn.ModuleDict({f"{s}_{t}": Encoder(config) for t in letters for s in letters})
        self.reduce = nn.ModuleDict({t: nn.Linear(3 * hidden, hidden) for t in letters})
        self.fusion = nn.Linear(hidden, hidden, bias=False)
        self.students = nn.ModuleDict(
            {t: nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(hidden, sizes.classes)) for t in letters}
        )
        self.teacher = nn.Linear(hidden, sizes.classes)
        weights = None if sizes.class_weights is None else torch.tensor(sizes.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """As the backbone's, without stages."""
        mask = batch.mask
        speakers = self.speakers(batch.speakers.masked_fill(~mask, self.speakers.num_embeddings - 1))
        inputs = {t: self.projections[t](batch.features[m].transpose(1, 2)).transpose(1, 2) for m, t in LETTERS.items()}
        sides = {name: e(inputs[name[2]], inputs[name[0]], speakers, ~mask) for name, e in self.encoders.items()}
        reduced = {}
        for t in inputs:
            sources = [t, *(s for s in inputs if s != t)]
            reduced[t] = self.reduce[t](torch.cat([sides[f"{s}_{t}"] for s in sources], dim=-1))
        stacked = torch.cat([x.unsqueeze(-2) for x in reduced.values()], dim=-2)
        fused = (torch.softmax(self.fusion(stacked), dim=-2) * stacked).sum(-2)
        teacher = self.teacher(fused)
        students = [self.students[t](x) for t, x in reduced.items()]
        return BackboneOutput(fused[mask], teacher[mask], self._loss(teacher, students, batch))

    def _loss(self, teacher: Tensor, students: list[Tensor], batch: Batch) -> Tensor:
        mask = batch.mask.flatten().float().unsqueeze(1)
        labels = batch.labels.clamp_min(0).flatten()
        weights = teacher.new_ones(teacher.shape[-1]) if self.class_weights is None else self.class_weights
        total = (weights[labels] * mask[:, 0]).sum()
        probability = F.softmax(teacher / self.temperature, dim=-1).flatten(0, 1)
        loss = teacher.new_zeros(())
        for student in students:
            hard = F.log_softmax(student, dim=-1).flatten(0, 1)
            loss = loss + F.nll_loss(hard * mask, labels, weights, reduction="sum") / total
            soft = F.log_softmax(student / self.temperature, dim=-1).flatten(0, 1)
            loss = loss + (probability * (probability.log() - soft) * mask).sum() / mask.sum()
        return loss

    def copy_weights(self, model: Model) -> None:
        """Take the parameters of the backbone."""
        state = {}
        for name, value in export_published(model).items():
            for published, own in RENAMED.items():
                name = name.replace(published, own)
            group, _, rest = name.partition(".")
            if "_" in group:
                name = f"encoders.{name}"
            elif rest.startswith("student."):
                name = f"students.{group}.{rest.replace('student.', '2.')}"
            state[name] = value
        self.load_state_dict(state)
