"""The seam between data and backbones: one typed batch in, one typed output out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Batch:
    """``B`` dialogues padded to ``L`` utterances.

    Padding rows may hold anything; a backbone must not let them reach a valid row.
    """

    features: dict[str, Tensor]
    """Per modality (``text``, ``audio``, ``visual``) a float tensor ``[B, L, D_m]``."""
    speakers: Tensor
    """Speaker index, int64 ``[B, L]``: the corpus's own number of the speaker, else by first appearance in the dialogue
    (:attr:`lantern.corpora.folder.Corpus.speaker_numbers`)."""
    mask: Tensor
    """True where there is an utterance, bool ``[B, L]``; valid positions come first in each row."""
    labels: Tensor
    """Class index, int64 ``[B, L]``; -1 where the utterance has no label or is padding."""
    scores: Tensor
    """Valence, arousal, dominance mapped to [-1, 1], float ``[B, L, 3]``; NaN where nobody rated it."""
    present: dict[str, Tensor] = field(default_factory=dict)
    """Per modality, bool ``[B, L]``: False where the utterance lacks that modality (its row is zeros)."""
    ids: list[list[str]] = field(default_factory=list)
    """Turn ids per dialogue, without padding."""
    dialogue_ids: list[str] = field(default_factory=list)
    _sizes: list[int] | None = field(default=None, init=False, repr=False)

    @property
    def lengths(self) -> Tensor:
        """Utterances per dialogue, int64 ``[B]``."""
        return self.mask.sum(dim=1)

    @property
    def sizes(self) -> list[int]:
        """Utterances per dialogue on the host; kept by :meth:`to`, so that no backbone waits for the device to tell."""
        if self._sizes is None:
            self._sizes = self.lengths.tolist()
        return self._sizes

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on *device* (Lightning calls this)."""
        moved = replace(
            self,
            features={k: v.to(device) for k, v in self.features.items()},
            speakers=self.speakers.to(device),
            mask=self.mask.to(device),
            labels=self.labels.to(device),
            scores=self.scores.to(device),
            present={k: v.to(device) for k, v in self.present.items()},
        )
        moved._sizes = self.sizes
        return moved


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a backbone must know of the corpus."""

    dims: dict[str, int]
    """Feature size per available modality, e.g. ``{"text": 768, "audio": 100}``."""
    classes: int
    speakers: int
    """Speaker indices run below this: the most speakers of one dialogue, or of the corpus's own numbers."""
    class_weights: tuple[float, ...] | None = None
    """Weight per class for cross-entropies, from the training split; None for unweighted."""


@dataclass(slots=True)
class BackboneOutput:
    """What a backbone gives back, for the ``N`` valid utterances of a batch, row-major (dialogue after dialogue)."""

    hidden: Tensor
    """Hidden vectors ``[N, H]``: the input of the dimension head."""
    logits: Tensor
    """Class logits ``[N, C]`` of the head that predicts."""
    auxiliary_loss: Tensor | None = None
    """The backbone's own extra loss (SDT: students and distillation), a scalar; None when it has none or no row is
    labelled."""
    stages: dict[str, Tensor] = field(default_factory=dict)
    """Named intermediate results, filled only on request (``backbone(batch, stages=True)``)."""


class Backbone(nn.Module):
    """Base of every backbone; a new one is one file ``lantern/models/<name>`` with ``Config`` and ``Model``.

    ``Config`` is a dataclass of the options (validated against ``configs/backbone/<name>.yaml``), ``Model`` a subclass
    of this built as ``Model(config, sizes)``. It knows nothing of Lightning, corpora, configuration files or LLMs.
    """

    hidden_size: int
    """Width ``H`` of :attr:`BackboneOutput.hidden`."""

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """Hidden vectors, logits and auxiliary loss of *batch*; with *stages* the named intermediate results too."""
        raise NotImplementedError

    if TYPE_CHECKING:

        def __call__(self, batch: Batch, stages: bool = False) -> BackboneOutput: ...
