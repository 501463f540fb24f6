"""The seam between data and backbones: one typed batch in, one typed output out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lantern.errors import UserError
from lantern.models.rows import Rows, send


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
    _index: Tensor | None = field(default=None, init=False, repr=False)

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

    def pick(self, padded: Tensor) -> Tensor:
        """Of *padded* ``[B, L, ...]`` the utterances ``[N, ...]``; after :meth:`to` without a wait for the device."""
        if self._index is None:
            self._index = self.mask.flatten().nonzero().squeeze(1)
        return padded.flatten(0, 1)[self._index]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on *device* (Lightning calls this)."""
        device = torch.device(device)
        moved = replace(
            self,
            features={k: send(v, device) for k, v in self.features.items()},
            speakers=send(self.speakers, device),
            mask=send(self.mask, device),
            labels=send(self.labels, device),
            scores=send(self.scores, device),
            present={k: send(v, device) for k, v in self.present.items()},
        )
        moved._sizes, moved._index = self.sizes, send(self.mask.flatten().nonzero().squeeze(1), device)
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
    """The backbone's own extra loss (SDT: students and distillation), a scalar over the labelled utterances;
    None when it has none."""
    stages: dict[str, Tensor] = field(default_factory=dict)
    """Named intermediate results, filled only on request (``backbone(batch, stages=True)``)."""


class Backbone(nn.Module):
    """Base of every backbone; a new one is one file ``lantern/models/<name>`` with ``Config`` and ``Model``.

    ``Config`` is a dataclass of the options (validated against ``configs/backbone/<name>.yaml``), ``Model`` a subclass
    of this built as ``Model(config, sizes)``. It knows nothing of Lightning, corpora, configuration files or LLMs.

    One that can be compiled leaves all but the layout of the batch to a method ``compute(self, rows, ...)``, which it
    gets from :meth:`computation`: its arguments differ between batches in the sizes and contents of tensors only.
    """

    hidden_size: int
    """Width ``H`` of :attr:`BackboneOutput.hidden`."""
    compute: Callable[..., BackboneOutput]
    compiled: Callable[..., BackboneOutput] | None = None
    """``compute`` of the class in compiled form, once :meth:`compile` was called."""

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """Hidden vectors, logits and auxiliary loss of *batch*; with *stages* the named intermediate results too."""
        raise NotImplementedError

    def compile(self, *args: Any, **options: Any) -> None:
        """Have ``compute`` compiled when it is next called, once for all models of this kind in the process.

        *options* are those of :func:`torch.compile`.

        Raises:
            UserError: the backbone cannot be compiled.
        """
        if not hasattr(self, "compute"):
            raise UserError("trainer.compile=true: only backbone=corect and backbone=sdt can be compiled")
        self.compiled = torch.compile(type(self).compute, fullgraph=True, dynamic=True, **options)

    def computation(self, batch: Batch, stages: bool) -> tuple[Callable[..., BackboneOutput], Rows]:
        """What computes *batch*, and the first argument for it; the other arguments of ``compute`` follow.

        Stages, a single dialogue and a single utterance are left to the code that is not compiled.
        """
        compiled = self.compiled is not None and not stages and min(batch.mask.shape) > 1
        rows = Rows.of(batch.sizes, batch.mask.shape[1], batch.mask.device, compiled)
        return (partial(self.compiled, self) if self.compiled is not None and compiled else self.compute), rows

    if TYPE_CHECKING:

        def __call__(self, batch: Batch, stages: bool = False) -> BackboneOutput: ...
