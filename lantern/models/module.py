"""The vanilla model as one LightningModule: backbone + class head + dimension head, trained multi-task."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lantern.models.batch import Backbone, BackboneOutput, Batch, Sizes
from lantern.models.losses import ccc_loss, class_loss, mse_loss
from lantern.models.registry import build_backbone
from lantern.models.rows import send
from lantern.models.selection import SELECTION

LOSSES = ("loss", "class_loss", "dimension_loss", "auxiliary_loss")


class WeightedMean(Metric):
    """A weighted mean over an epoch. Unlike torchmetrics' own it does not wait for the device, to look for NaN."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Count *value* *weight* times."""
        self.total = self.total + value.to(self.total.dtype) * weight
        self.weight = self.weight + weight

    def compute(self) -> Tensor:
        """The mean so far; NaN where nothing counted."""
        return self.total / self.weight


def loss_means() -> nn.ModuleDict:
    """A mean for each of :data:`LOSSES`, in double precision where the machine has it (MPS does not)."""
    dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
    return nn.ModuleDict({name: WeightedMean().set_dtype(dtype) for name in LOSSES})


def drop_modalities(batch: Batch, probability: float) -> Batch:
    """*batch* in which each dialogue has lost each modality with *probability*; each dialogue keeps at least one."""
    names = list(batch.features)
    dropped = torch.rand(len(batch.mask), len(names)) < probability
    spared = torch.randint(len(names), (len(dropped),))
    whole = dropped.all(dim=1)
    dropped[whole, spared[whole]] = False
    gone = send(dropped, batch.mask.device)
    left = copy(batch)
    left.features = {m: x.masked_fill(gone[:, k, None, None], 0.0) for k, (m, x) in enumerate(batch.features.items())}
    left.present = {m: p & ~gone[:, names.index(m), None] for m, p in batch.present.items()}
    return left


class MultiTaskModule(pl.LightningModule):
    """Loss = class loss + ``dimension_weight`` * dimension loss + the backbone's auxiliary loss.

    Every argument is a plain container, so that a checkpoint loads with ``weights_only=True``.

    Args:
        backbone: name of a backbone under ``lantern/models``.
        options: its options.
        sizes: fields of :class:`~lantern.models.batch.Sizes` as a dict.
        dimensions: whether there is a dimension head (valence, arousal, dominance in [-1, 1]).
        dimension_loss: ``ccc`` or ``mse``.
        dimension_weight: lambda; 0 trains no dimension head although it is there.
        optimizer: ``lr``, ``weight_decay`` (coupled L2, as both published codes use Adam) and
            ``scheduler`` (``none`` or ``plateau``).
        modality_dropout: probability with which a training dialogue loses each modality (one always stays), so that
            the model also works where a modality is missing altogether.
    """

    def __init__(
        self,
        backbone: str,
        options: dict[str, Any],
        sizes: dict[str, Any],
        dimensions: bool = True,
        dimension_loss: str = "ccc",
        dimension_weight: float = 1.0,
        optimizer: dict[str, Any] | None = None,
        modality_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        shape = Sizes(**sizes)
        self.backbone = self.build_backbone(backbone, options, shape)
        self.dimension_head = nn.Linear(self.backbone.hidden_size, 3) if dimensions else None
        weights = None if shape.class_weights is None else torch.tensor(shape.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(shape.classes, average="micro"),
                "weighted_f1": MulticlassF1Score(shape.classes, average="weighted"),
                "macro_f1": MulticlassF1Score(shape.classes, average="macro"),
            },
            prefix="val/",
        )
        self.train_losses, self.val_losses = loss_means(), loss_means()
        options = {"lr": 1e-4, "weight_decay": 0.0, "scheduler": "none", **(optimizer or {})}
        self.lr: float = options["lr"]
        """Kept here, where ``LearningRateFinder`` looks for it."""
        self.weight_decay, self.scheduler = options["weight_decay"], options["scheduler"]

    @classmethod
    def load(cls, checkpoint: Path) -> MultiTaskModule:
        """The trained model in *checkpoint*, on the CPU.

        Lightning's own ``load_from_checkpoint`` first reads the source of every caller, which takes five times as long.
        """
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module = cls(**state["hyper_parameters"])
        module.load_state_dict(state["state_dict"])
        return module

    def build_backbone(self, name: str, options: dict[str, Any], sizes: Sizes) -> Backbone:
        """A fresh backbone; called once, by the constructor."""
        return build_backbone(name, options, sizes)

    def forward(self, batch: Batch) -> tuple[BackboneOutput, Tensor | None]:
        """Backbone output and dimension scores ``[N, 3]`` in [-1, 1] (None without the head)."""
        output = self.backbone(batch)
        scores = None if self.dimension_head is None else self.dimension_head(output.hidden)
        return output, scores

    def model_step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Losses by name (``loss`` is their total), class probabilities ``[N, C]`` and scores ``[N, 3]``."""
        output, scores = self(batch)
        labels = batch.pick(batch.labels)
        weights = self.class_weights if isinstance(self.class_weights, Tensor) else None
        losses = {"class_loss": class_loss(output.logits, labels, weights)}
        if scores is not None and self.hparams["dimension_weight"] > 0:
            compare = ccc_loss if self.hparams["dimension_loss"] == "ccc" else mse_loss
            losses["dimension_loss"] = compare(scores, batch.pick(batch.scores))
        if output.auxiliary_loss is not None:
            losses["auxiliary_loss"] = output.auxiliary_loss
        total = losses["class_loss"]
        if "dimension_loss" in losses:
            total = total + self.hparams["dimension_weight"] * losses["dimension_loss"]
        if "auxiliary_loss" in losses:
            total = total + losses["auxiliary_loss"]
        return {"loss": total, **losses}, output.logits.float().softmax(dim=-1), scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.hparams["modality_dropout"] > 0:
            batch = drop_modalities(batch, self.hparams["modality_dropout"])
        losses, _, _ = self.model_step(batch)
        self._update(self.train_losses, losses, batch)
        return losses["loss"]

    def on_train_epoch_end(self) -> None:
        self._log_losses("train", self.train_losses)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        losses, probabilities, scores = self.model_step(batch)
        labels = batch.pick(batch.labels)
        scored = labels >= 0
        if bool(scored.any()):
            self._update(self.val_losses, losses, batch)
            self.metrics.update(probabilities[scored], labels[scored])
        return {"probabilities": probabilities, "scores": scores}

    def on_validation_epoch_end(self) -> None:
        if self.metrics["accuracy"].update_called:
            self.log_dict(self.metrics, batch_size=1)
        self._log_losses("val", self.val_losses)

    def selection_score(self) -> float:
        """The metric that selects the epoch, over the validation steps so far."""
        losses = {f"val/{name}": mean.compute() for name, mean in self.val_losses.items() if mean.update_called}  # type: ignore[operator]
        return float({**losses, **self.metrics.compute()}[SELECTION.monitor])

    def _update(self, means: nn.ModuleDict, losses: dict[str, Tensor], batch: Batch) -> None:
        """Count *losses* in their *means* over an epoch, weighted by the labelled utterances of *batch*."""
        weight = (batch.labels >= 0).sum()
        for name, value in losses.items():
            means[name].update(value.detach(), weight)  # type: ignore[operator]

    def _log_losses(self, prefix: str, means: nn.ModuleDict) -> None:
        # Metric objects once an epoch: Lightning computes, synchronises and resets them. Logging every step costs more
        # than a step of a small model.
        self.log_dict({f"{prefix}/{n}": m for n, m in means.items() if m.update_called}, batch_size=1)  # type: ignore[misc]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        _, probabilities, scores = self.model_step(batch)
        return {"probabilities": probabilities, "scores": scores}

    test_step = predict_step

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.scheduler == "none":
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
