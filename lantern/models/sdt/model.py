"""SDT: a transformer-based model with self-distillation (arXiv 2310.20494), as a backbone.

Each modality is projected to ``H`` channels and given its position and speaker; ``M * M`` encoders attend within and
across modalities; gates filter their outputs; a gated sum over modalities gives the fused vector, which a teacher
classifies while one student per modality learns from the labels and from the teacher.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.rows import Rows
from lantern.models.sdt.config import Config
from lantern.models.sdt.encoder import CrossModalEncoders, Dropout, StackedLinear
from lantern.models.sdt.loss import distillation, full_precision, student_cross_entropy


class Model(Backbone):
    """SDT on any set of modalities, any number of speakers and dialogues of any length.

    ``hidden`` of the output is the fused vector ``[N, H]``, ``logits`` are the teacher's ``[N, C]``, and
    ``auxiliary_loss`` is ``student_weight * sum of the students' cross-entropies + distill_weight * sum of
    KL(teacher || student)``; the teacher's own cross-entropy is left to the caller. All of it is over the labelled
    utterances: on fully labelled data that is the published loss; a valid utterance without label takes part in
    attention only. A speaker beyond ``sizes.speakers`` gets a zero vector.

    With ``stages=True`` these are named too, all over the ``N`` valid utterances (``m`` a modality, ``s`` and ``t``
    source and target modality of an encoder):

    ==============================  ==============  ==================================================================
    ``projection.m``                ``[N, H]``      projected features
    ``speaker``                     ``[N, H]``      speaker vectors
    ``input.m``                     ``[N, H]``      projection + position + speaker, before dropout
    ``encoder.s_t``                 ``[N, H]``      encoder outputs
    ``gate.s_t``                    ``[N, H]``      gated encoder outputs
    ``reduced.m``                   ``[N, H]``      R_m, the gated outputs of one target reduced to ``H``
    ``modality_weight.m``           ``[N, H]``      weight of R_m in the fused vector, per channel
    ``fused``                       ``[N, H]``      the same as ``hidden``
    ``student_logits.m``            ``[N, C]``
    ``student_log_prob.m``          ``[N, C]``
    ``student_kl_log_prob.m``       ``[N, C]``      log softmax(student logits / temperature)
    ``teacher_log_prob``            ``[N, C]``
    ``teacher_prob``                ``[N, C]``
    ``teacher_kl_log_prob``         ``[N, C]``      log softmax(teacher logits / temperature)
    ``teacher_kl_prob``             ``[N, C]``
    ==============================  ==============  ==================================================================
    """

    positions: Tensor
    class_weights: Tensor | None

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        if not sizes.dims:
            raise UserError("backbone=sdt: the corpus has no modality with features.")
        if sizes.class_weights is not None and len(sizes.class_weights) != sizes.classes:
            raise UserError(
                f"{len(sizes.class_weights)} class weights for {sizes.classes} classes: must be one per class."
            )
        self.config, self.sizes = config, sizes
        self.modalities = sorted(sizes.dims, key=MODALITIES.index)
        hidden, count = config.hidden, len(sizes.dims)
        self.hidden_size = hidden
        self.projections = nn.ModuleDict({m: nn.Linear(sizes.dims[m], hidden, bias=False) for m in self.modalities})
        self.speakers = nn.Embedding(sizes.speakers + 1, hidden, padding_idx=sizes.speakers)
        self.encoders = CrossModalEncoders(count, hidden, config.heads, config.feed_forward or hidden, config.dropout)
        self.gates = StackedLinear(count**2, hidden, hidden, bias=False) if config.gate == "learned" else None
        self.reduce = StackedLinear(count, count * hidden, hidden)
        self.fusion_gate = nn.Linear(hidden, hidden, bias=False)
        self.student_dropout = Dropout(config.dropout)
        self.students = StackedLinear(count, hidden, sizes.classes)
        self.teacher = nn.Linear(hidden, sizes.classes)
        weights = None if sizes.class_weights is None else torch.tensor(sizes.class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("positions", sinusoids(512, hidden), persistent=False)

    @property
    def encoder_names(self) -> list[str]:
        """``source_target`` of each encoder, in stacking order."""
        return [f"{self.modalities[source]}_{self.modalities[target]}" for target, source in self.encoders.pairs]

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """See :class:`Model` for the outputs; shapes of *batch* in :class:`~lantern.models.batch.Batch`."""
        length = batch.mask.shape[1]
        if length > len(self.positions):
            self.positions = sinusoids(length, self.hidden_size).to(self.positions)
        compute, rows = self.computation(batch, stages)
        return compute(rows, batch.features, batch.speakers, batch.labels, stages)

    def compute(
        self, rows: Rows, features: dict[str, Tensor], speakers: Tensor, labels: Tensor, stages: bool
    ) -> BackboneOutput:
        """The output for padded tensors of a batch, whose utterances are *rows*."""
        count = len(self.modalities)
        speaker = self.speakers(rows.take(speakers).clamp_max(self.sizes.speakers))
        context = speaker + self.positions[rows.position]
        projected = [self._project(name, rows.take(features[name])) for name in self.modalities]
        inputs = torch.stack([x + context for x in projected])  # [M, N, H]

        # One encoder at a time where nothing is kept for a backward pass: that takes a ninth of the memory.
        together = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling()
        parts = [slice(None)] if together else [slice(e, e + 1) for e in range(count**2)]
        encoded, gated = [], []
        for part in parts:
            x = self.encoders(inputs, rows, part)  # [E, N, H]
            gated.append(F.silu(x) if self.gates is None else x * torch.sigmoid(self.gates(x, part)))
            if stages:
                encoded += x
        sides = torch.cat(gated) if len(gated) > 1 else gated[0]
        reduced = self.reduce(sides.unflatten(0, (count, count)).transpose(1, 2).flatten(2))  # [M, N, H]
        modality_weights = torch.softmax(self.fusion_gate(reduced), dim=0)
        fused = (modality_weights * reduced).sum(dim=0)

        teacher = self.teacher(fused)
        students = self.students(self.student_dropout(F.relu(reduced)))  # [M, N, C]
        output = BackboneOutput(fused, teacher, self._auxiliary_loss(teacher, students, rows.take(labels)))
        if stages:
            output.stages = {
                "speaker": speaker,
                "fused": fused,
                **self._named("projection", projected),
                **self._named("input", inputs),
                **{f"encoder.{name}": x for name, x in zip(self.encoder_names, encoded)},
                **{f"gate.{name}": x for name, x in zip(self.encoder_names, sides)},
                **self._named("reduced", reduced),
                **self._named("modality_weight", modality_weights),
                **self._head_stages(teacher, students),
            }
        return output

    def _project(self, name: str, features: Tensor) -> Tensor:
        projection = self.projections[name]
        assert isinstance(projection, nn.Linear)
        return projection(features.to(projection.weight.dtype))

    def _auxiliary_loss(self, teacher: Tensor, students: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        hard = student_cross_entropy(students, labels, self.class_weights)
        soft = distillation(teacher, students, config.temperature, config.detach_teacher, labels >= 0)
        return config.student_weight * hard + config.distill_weight * soft

    def _head_stages(self, teacher: Tensor, students: Tensor) -> dict[str, Tensor]:
        log_teacher = F.log_softmax(full_precision(teacher), dim=-1)
        log_teacher_kl = F.log_softmax(full_precision(teacher) / self.config.temperature, dim=-1)
        return {
            **self._named("student_logits", students),
            **self._named("student_log_prob", F.log_softmax(full_precision(students), dim=-1)),
            **self._named(
                "student_kl_log_prob", F.log_softmax(full_precision(students) / self.config.temperature, dim=-1)
            ),
            "teacher_log_prob": log_teacher,
            "teacher_prob": log_teacher.exp(),
            "teacher_kl_log_prob": log_teacher_kl,
            "teacher_kl_prob": log_teacher_kl.exp(),
        }

    def _named(self, stage: str, values: Tensor | list[Tensor]) -> dict[str, Tensor]:
        return {f"{stage}.{name}": value for name, value in zip(self.modalities, values)}


def sinusoids(length: int, size: int) -> Tensor:
    """Fixed position vectors ``[length, size]``: sine on even, cosine on odd channels, base 10000."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * (-math.log(10000.0) / size))
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
