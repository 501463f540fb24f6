"""The text encoder with its heads, or with a backbone, as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.features.encoders.build import load_encoder
from lantern.features.encoders.config import EncoderConfig
from lantern.features.encoders.data import OUTSIDE, DialogueBatch, TextBatch
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.module import MultiTaskModule
from lantern.models.registry import build_backbone


class TextEncoder(Backbone):
    """An encoder that reads a window of turns at once; each turn's vector is the mean over its own tokens.

    ``head`` is a linear layer over the last layer's vector, or a backbone named *backbone* with *options* over the
    layers that the settings name, as features of the text of whole dialogues; then a batch is a
    :class:`~lantern.features.encoders.data.DialogueBatch`.
    """

    def __init__(
        self, config: EncoderConfig, sizes: Sizes, backbone: str | None = None, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.loaded = config, load_encoder(config)
        self.encoder, self.frozen = self.loaded.model, False
        self.head: nn.Linear | Backbone
        if backbone is None:
            self.hidden_size = self.loaded.hidden
            self.head = nn.Linear(self.hidden_size, sizes.classes)
        else:
            self.head = build_backbone(backbone, options or {}, sizes)
            self.hidden_size = self.head.hidden_size

    def freeze(self, frozen: bool) -> None:
        """Whether the encoder stays as it is: no gradient and no dropout."""
        self.frozen = frozen
        self.encoder.train(self.training and not frozen)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """With *stages* also ``features`` ``[N, D]``, the pooled layers that the settings name."""
        layers = self.config.layers
        if isinstance(self.head, Backbone):
            assert isinstance(batch, DialogueBatch)
            vectors = torch.cat(self._pooled(batch.windows, layers), dim=-1)
            text = vectors.new_zeros(batch.mask.numel(), vectors.shape[1]).index_copy(0, batch.places, vectors)
            text = text.view(*batch.mask.shape, -1)
            features, present = {"text": text, **batch.features}, {"text": batch.mask, **batch.present}
            output = self.head(replace(batch, features=features, present=present))
            return replace(output, stages={"features": text[batch.mask]} if stages else {})
        assert isinstance(batch, TextBatch)
        last, *named = self._pooled(batch, [-1, *(layers if stages else ())])
        hidden = F.dropout(last, self.config.dropout, self.training)
        return BackboneOutput(
            hidden, self.head(hidden), stages={"features": torch.cat(named, dim=-1)} if stages else {}
        )

    def _pooled(self, batch: TextBatch, layers: Sequence[int]) -> list[Tensor]:
        """Mean ``[N, H]`` over the tokens of each own turn, of each of *layers*."""
        turns = batch.turns
        seen = (turns != OUTSIDE)[:, None, :]
        if self.config.causal:
            seen = seen & (turns[:, None, :] <= turns[:, :, None])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            outputs = self.encoder(batch.tokens, seen)
        numbers = torch.arange(batch.mask.shape[1], device=turns.device)
        share = (turns[:, None, :] == numbers[None, :, None]).float()
        share = share / share.sum(dim=-1, keepdim=True).clamp_min(1)

        def pooled(layer: int) -> Tensor:
            with torch.autocast(turns.device.type, enabled=False):
                return (share @ outputs[layer].float())[batch.mask]

        return [pooled(layer) for layer in layers]


class EncoderModule(MultiTaskModule):
    """Fine-tunes a text encoder on classes and, where there are scores, on valence, arousal and dominance.

    With a backbone the two are trained together; in the first epochs the encoder is frozen.

    Args:
        config: fields of :class:`EncoderConfig` as a dict.
        sizes: fields of :class:`Sizes` as a dict.
        dimensions: whether there is a dimension head.
        joint: ``backbone``, its name, its ``options``, ``lr`` and ``weight_decay``; None without one.
    """

    def __init__(
        self, config: dict[str, Any], sizes: dict[str, Any], dimensions: bool, joint: dict[str, Any] | None = None
    ) -> None:
        self.settings, self.joint = EncoderConfig(**config), joint
        super().__init__("text", config, sizes, dimensions, dimension_weight=self.settings.dimension_weight)
        self.save_hyperparameters("config", "sizes", "dimensions", "joint")

    def build_backbone(self, name: str, options: dict[str, Any], sizes: Sizes) -> Backbone:
        joint = self.joint or {}
        return TextEncoder(EncoderConfig(**options), sizes, joint.get("backbone"), joint.get("options"))

    @property
    def frozen_epochs(self) -> int:
        """Epochs in which the backbone learns alone."""
        return 0 if self.joint is None else self.settings.frozen_epochs

    def on_train_epoch_start(self) -> None:
        """Freeze the encoder, or let it learn."""
        assert isinstance(self.backbone, TextEncoder)
        self.backbone.freeze(self.current_epoch < self.frozen_epochs)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Rows ``[N]`` of the corpus, their features ``[N, D]`` and class probabilities ``[N, C]``."""
        assert isinstance(batch, TextBatch | DialogueBatch)
        output = self.backbone(batch, stages=True)
        probabilities = output.logits.float().softmax(dim=-1)
        return {"rows": batch.rows[batch.mask], "features": output.stages["features"], "probabilities": probabilities}

    def configure_optimizers(self) -> Any:
        """AdamW; the lower a layer, the slower it learns. Rates rise during the warm-up, then fall to 0 in a line.

        A backbone has its own rate from the first step on; it falls when that of the encoder does, which begins with
        its warm-up after the frozen epochs.
        """
        settings, joint = self.settings, self.joint or {}
        assert isinstance(self.backbone, TextEncoder)
        depths = list(enumerate(reversed(self.backbone.loaded.groups)))
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": settings.lr * settings.layer_decay**depth} for depth, parameters in depths
        ]
        known = {id(p) for group in groups for p in group["params"]}
        heads = [*self.backbone.head.parameters()]
        heads += [] if self.dimension_head is None else [*self.dimension_head.parameters()]
        known |= {id(p) for p in heads}
        own = {key: joint[key] for key in ("lr", "weight_decay") if joint}
        groups.append({"params": heads, "lr": settings.head_lr, **own})
        # Whatever else the encoder has, such as a norm above its layers, learns as its top layer does.
        rest = [p for p in self.backbone.parameters() if id(p) not in known]
        groups += [{"params": rest, "lr": settings.lr}] if rest else []
        # The fused one would undo the scale of 16-bit gradients after they are clipped.
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=fused)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        alone = steps * self.frozen_epochs // (self.trainer.max_epochs or 1)
        warm = alone + int(settings.warmup * (steps - alone))

        def falling(step: int) -> float:
            return min(1.0, max(0.0, (steps - step) / max(1, steps - warm)))

        def share(step: int) -> float:
            return max(0, step + 1 - alone) / max(1, warm - alone) if step < warm else falling(step)

        rates: list[Any] = [falling if joint and group["params"] is heads else share for group in groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm. Lightning's own way refuses fused optimisers under any mixed precision."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
