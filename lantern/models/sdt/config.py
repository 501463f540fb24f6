"""The options of the SDT backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lantern.errors import UserError
from lantern.settings import Amount, Count, OneOf, Positive, Rate, check


@dataclass
class Config:
    """Options of the SDT backbone; the defaults are those of the published IEMOCAP run."""

    hidden: Count = 1024
    """Width of all vectors, even and divisible by ``heads``."""
    heads: Count = 8
    """Attention heads per encoder."""
    feed_forward: Count | None = None
    """Inner width of the feed-forward part; None for ``hidden``."""
    dropout: Rate = 0.5
    """At the encoder inputs, attention weights, attention output, both feed-forward layers, and the student heads."""
    gate: Annotated[str, OneOf("learned", "identity")] = "learned"
    """Unimodal gates: ``learned`` (published for IEMOCAP) or ``identity``, y = x * sigmoid(x) (published for MELD)."""
    temperature: Positive = 1.0
    """Divides the logits in the distillation loss; published: 1 for IEMOCAP, 8 for MELD."""
    detach_teacher: bool = False
    """Keep the gradient of the distillation loss out of the teacher; published: it flows."""
    student_weight: Amount = 1.0
    """Weight of the students' cross-entropies in the auxiliary loss (gamma 2)."""
    distill_weight: Amount = 1.0
    """Weight of the distillation loss in the auxiliary loss (gamma 3)."""

    def __post_init__(self) -> None:
        check(self, "backbone")
        if self.hidden % 2:
            raise UserError(f"backbone.hidden={self.hidden}: must be even, for sines and cosines of the position.")
        if self.hidden % self.heads:
            raise UserError(f"backbone.heads={self.heads}: must divide backbone.hidden={self.hidden}.")
