"""SDT (arXiv 2310.20494) written down plainly, on dialogues padded to the longest: what the backbone is timed against.

One module per encoder and gate, every layer on all ``[B, L]`` positions, padding masked in attention and selected away
before the losses; torch's own dropout.
"""

from __future__ import annotations

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

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, hidden, bias=False)

    def forward(self, target: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        """Gated output ``[B, L, H]``; *source* None is the target itself."""
        target = self._drop(target)
        source = target if source is None else self._drop(source)
        query, key, value = (
            self._split(self.query(target)),
            self._split(self.key(source)),
            self._split(self.value(source)),
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
        mixed = (self._drop(weights) @ value).transpose(1, 2).flatten(2)
        x = self._drop(self.output(mixed)) + target
        x = x + self._drop(self.outer(self._drop(F.gelu(self.inner(self.norm(x)), approximate="tanh"))))
        return x * torch.sigmoid(self.gate(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class PaddedSdt(Backbone):
    """SDT on text, audio and visual features with learned gates."""

    positions: Tensor
    class_weights: Tensor | None

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        hidden = self.hidden_size = config.hidden
        self.config = config
        letters = list(LETTERS.values())
        self.projections = nn.ModuleDict({LETTERS[m]: nn.Linear(d, hidden, bias=False) for m, d in sizes.dims.items()})
        self.speakers = nn.Embedding(sizes.speakers + 1, hidden, padding_idx=sizes.speakers)
        self.encoders = nn.ModuleDict({f"{s}_{t}": Encoder(config) for t in letters for s in letters})
        self.reduce = nn.ModuleDict({t: nn.Linear(3 * hidden, hidden) for t in letters})
        self.fusion = nn.Linear(hidden, hidden, bias=False)
        self.students = nn.ModuleDict({t: nn.Linear(hidden, sizes.classes) for t in letters})
        self.teacher = nn.Linear(hidden, sizes.classes)
        weights = None if sizes.class_weights is None else torch.tensor(sizes.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("positions", sinusoids(512, hidden), persistent=False)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """As the backbone's, without stages."""
        mask, labels = batch.mask, batch.labels[batch.mask]
        context = self.speakers(batch.speakers) + self.positions[: mask.shape[1]]
        inputs = {short: self.projections[short](batch.features[m]) + context for m, short in LETTERS.items()}
        reduced = {}
        for t in inputs:
            sources = [t, *(s for s in inputs if s != t)]
            sides = [self.encoders[f"{s}_{t}"](inputs[t], None if s == t else inputs[s], mask) for s in sources]
            reduced[t] = self.reduce[t](torch.cat(sides, dim=-1))
        stacked = torch.stack(list(reduced.values()))
        fused = (self.fusion(stacked).softmax(0) * stacked).sum(0)
        logits = self.teacher(fused)[mask]
        log_teacher = F.log_softmax(logits / self.config.temperature, dim=-1)
        loss = logits.new_zeros(())
        for t, x in reduced.items():
            dropped = F.dropout(F.relu(x), self.config.dropout, self.training)
            student = self.students[t](dropped)[mask]
            log_student = F.log_softmax(student / self.config.temperature, dim=-1)
            loss = loss + F.cross_entropy(student, labels, self.class_weights)
            loss = loss + F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        return BackboneOutput(fused[mask], logits, loss)

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
                name = f"students.{group}.{rest.removeprefix('student.')}"
            state[name] = value.squeeze(-1) if group == "projections" else value
        self.load_state_dict(state)
