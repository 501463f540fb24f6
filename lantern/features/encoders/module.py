"""The text encoder with its heads as a LightningModule."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.features.encoders.build import load_encoder
from lantern.features.encoders.config import EncoderConfig
from lantern.features.encoders.data import OUTSIDE, TextBatch
from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.module import MultiTaskModule


class TextEncoder(Backbone):
    """An encoder that reads a window of turns at once; each turn's vector is the mean over its own tokens."""

    def __init__(self, config: EncoderConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.loaded = config, load_encoder(config)
        self.encoder = self.loaded.model
        self.hidden_size = self.loaded.hidden
        self.head = nn.Linear(self.hidden_size, sizes.classes)

    def forward(self, batch: Batch, stages: bool = False) -> BackboneOutput:
        """With *stages* also ``features`` ``[N, D]``, the pooled layers that the settings name."""
        assert isinstance(batch, TextBatch)
        turns = batch.turns
        seen = (turns != OUTSIDE)[:, None, :]
        if self.config.causal:
            seen = seen & (turns[:, None, :] <= turns[:, :, None])
        outputs = self.encoder(batch.tokens, seen)
        numbers = torch.arange(batch.mask.shape[1], device=turns.device)
        share = (turns[:, None, :] == numbers[None, :, None]).float()
        share = share / share.sum(dim=-1, keepdim=True).clamp_min(1)

        def pooled(layer: int) -> Tensor:
            with torch.autocast(turns.device.type, enabled=False):
                return (share @ outputs[layer].float())[batch.mask]

        hidden = F.dropout(pooled(-1), self.config.dropout, self.training)
        made = {"features": torch.cat([pooled(layer) for layer in self.config.layers], dim=-1)} if stages else {}
        return BackboneOutput(hidden, self.head(hidden), stages=made)


class EncoderModule(MultiTaskModule):
    """Fine-tunes a text encoder on classes and, where there are scores, on valence, arousal and dominance.

    Args:
        config: fields of :class:`EncoderConfig` as a dict.
        sizes: fields of :class:`Sizes` as a dict.
        dimensions: whether there is a dimension head.
    """

    def __init__(self, config: dict[str, Any], sizes: dict[str, Any], dimensions: bool) -> None:
        self.settings = EncoderConfig(**config)
        super().__init__("text", config, sizes, dimensions, dimension_weight=self.settings.dimension_weight)
        self.save_hyperparameters("config", "sizes", "dimensions")

    def build_backbone(self, name: str, options: dict[str, Any], sizes: Sizes) -> Backbone:
        return TextEncoder(EncoderConfig(**options), sizes)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Rows ``[N]`` of the corpus and their features ``[N, D]``."""
        assert isinstance(batch, TextBatch)
        return {"rows": batch.rows[batch.mask], "features": self.backbone(batch, stages=True).stages["features"]}

    def configure_optimizers(self) -> Any:
        """AdamW; the lower a layer, the slower it learns. Rates rise during the warm-up, then fall to 0 in a line."""
        settings = self.settings
        assert isinstance(self.backbone, TextEncoder)
        depths = list(enumerate(reversed(self.backbone.loaded.groups)))
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": settings.lr * settings.layer_decay**depth} for depth, parameters in depths
        ]
        known = {id(p) for group in groups for p in group["params"]}
        heads = [*self.backbone.head.parameters()]
        heads += [] if self.dimension_head is None else [*self.dimension_head.parameters()]
        known |= {id(p) for p in heads}
        groups.append({"params": heads, "lr": settings.head_lr})
        # Whatever else the encoder has, such as a norm above its layers, learns as its top layer does.
        rest = [p for p in self.backbone.parameters() if id(p) not in known]
        groups += [{"params": rest, "lr": settings.lr}] if rest else []
        # The fused one would undo the scale of 16-bit gradients after they are clipped.
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=fused)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warm = int(settings.warmup * steps)

        def share(step: int) -> float:
            return (step + 1) / warm if step < warm else max(0.0, (steps - step) / (steps - warm))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm. Lightning's own way refuses fused optimisers under any mixed precision."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
