"""The train stage: a vanilla model, trained once for whatever run needs it first."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lantern.config.schema import FinetuneConfig, RunConfig, TrainingDefaults, split_backbone
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.folder import Corpus
from lantern.errors import UserError
from lantern.files import atomic
from lantern.models.module import MultiTaskModule
from lantern.models.registry import backbone_config, init_backbone
from lantern.models.selection import SELECTION
from lantern.pipeline.store import PACE, StageFolder
from lantern.pipeline.trainer import Compile, build_trainer, running
from lantern.results.progress import Reporter

BEST = "best.ckpt"
"""The selected checkpoint in a stage folder."""
LAST = "last.ckpt"
"""Where an interrupted training goes on."""
_MEMORY = re.compile(r"memory|overflow", re.IGNORECASE)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vanilla:
    """A trained vanilla model."""

    checkpoint: Path
    folder: Path
    """Its stage folder; vanilla predictions are kept there so that prompts never change between runs."""
    best_epoch: int
    best_score: float
    reused: bool


class _EpochReport(pl.Callback):
    def __init__(self, reporter: Reporter, epochs: int) -> None:
        self.reporter, self.epochs = reporter, epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.reporter.training(trainer.current_epoch + 1, self.epochs, metrics)


class _RandomState(pl.Callback):
    """Makes a resumed training draw what it would have drawn: dropout continues where the checkpoint was saved."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._state:
            torch.set_rng_state(self._state["cpu"])
            # A data loader draws a seed of its own: in a resumed training before this, in an undisturbed one after it.
            torch.empty((), dtype=torch.int64).random_()
            if len(self._state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(self._state["cuda"])
        self._state = {}


def train(
    config: RunConfig,
    corpus: Corpus,
    data: CorpusDataModule,
    folder: StageFolder,
    reporter: Reporter | None,
    logger: Any,
    callbacks: Sequence[pl.Callback],
) -> Vanilla:
    """Train the vanilla model, or take it from *folder*; an interrupted training goes on from its last epoch."""
    defaults, options = split_backbone(config.backbone)
    best = folder.path / BEST
    record = folder.record
    if record is not None and best.is_file():
        if not {"best_epoch", "best_score"} <= set(record):
            raise folder.damaged(folder.path / "done.json")
        return Vanilla(best, folder.path, record["best_epoch"], record["best_score"], reused=True)
    epochs = config.trainer.epochs or defaults.epochs
    pl.seed_everything(config.seed, verbose=False)
    try:
        module = build_module(config, corpus, data, defaults, options)
    except RuntimeError as error:
        if not _MEMORY.search(str(error)):
            raise
        raise UserError(
            f"backbone={defaults.name}: a model of this size does not fit into memory; lower backbone.hidden"
        ) from None
    fitted = fit(config, module, data, folder, epochs, reporter, logger, callbacks)
    advice = "lower backbone.lr or set trainer.gradient_clip=1"
    check_weights(fitted.state, f"backbone.lr={defaults.lr}", advice)
    if fitted.main:
        pace = fitted.seconds / max(1, fitted.epochs) / max(1, len(data.ids["train"]))
        folder.finish({"best_epoch": fitted.best_epoch, "best_score": fitted.best_score, "epochs": epochs, PACE: pace})
        (folder.path / LAST).unlink(missing_ok=True)
    return Vanilla(best, folder.path, fitted.best_epoch, fitted.best_score, reused=False)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training came to."""

    best_epoch: int
    best_score: float
    state: dict[str, torch.Tensor]
    """The weights of the best epoch."""
    epochs: int
    """That were done now, after those of an interrupted training."""
    seconds: float
    main: bool
    """This process records the result."""


def fit(
    config: RunConfig | FinetuneConfig,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: StageFolder,
    epochs: int,
    reporter: Reporter | None,
    logger: Any = False,
    callbacks: Sequence[pl.Callback] = (),
) -> Fitted:
    """Train *module*, from the last epoch of an interrupted training on; the best epoch is kept as :data:`BEST`.

    :data:`LAST` stays until the caller has recorded the result.
    """
    best, last = folder.path / BEST, folder.path / LAST
    checkpoint = ModelCheckpoint(
        folder.path,
        filename="best",
        monitor=SELECTION.monitor,
        mode=SELECTION.mode,
        enable_version_counter=False,
    )
    latest = ModelCheckpoint(folder.path, filename="last", every_n_epochs=1, enable_version_counter=False)
    watched: list[pl.Callback] = [checkpoint, latest, *callbacks]
    if config.trainer.processes == 1:  # several have a state each, and a checkpoint holds one
        watched.append(_RandomState())
    if reporter is not None and config.trainer.processes == 1:  # a terminal does not travel to other processes
        watched.append(_EpochReport(reporter, epochs))
    if config.trainer.patience is not None:
        watched.append(EarlyStopping(SELECTION.monitor, mode=SELECTION.mode, patience=config.trainer.patience))
    if config.trainer.compile:
        watched.append(Compile())
    trainer = build_trainer(
        config,
        together=True,
        max_epochs=epochs,
        callbacks=watched,
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder.path,
    )
    before = 0
    if last.is_file():
        try:
            before = int(torch.load(last, map_location="cpu", weights_only=True)["epoch"]) + 1
        except Exception:  # noqa: BLE001  torch raises what it likes for a file that is not its own
            raise folder.damaged(last) from None
        log.info("training goes on from %s", last)
    began = time.monotonic()
    with running(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    seconds = time.monotonic() - began
    if not best.is_file():
        raise UserError("trainer.extra: no epoch of the training was validated, so that none can be selected")
    state = torch.load(best, map_location="cpu", weights_only=True)
    epoch, score = int(state["epoch"]), float(state["callbacks"][checkpoint.state_key]["best_model_score"])
    done = trainer.current_epoch - before
    return Fitted(epoch, score, state["state_dict"], done, seconds, trainer.is_global_zero)


def build_module(
    config: RunConfig, corpus: Corpus, data: CorpusDataModule, defaults: TrainingDefaults, options: dict[str, Any]
) -> MultiTaskModule:
    """A fresh multi-task module for the corpus's sizes."""
    sizes = dataclasses.asdict(data.sizes(class_weights=config.model.class_weights))
    module = MultiTaskModule(
        backbone=defaults.name,
        options=dataclasses.asdict(backbone_config(defaults.name, options)),
        sizes=sizes,
        dimensions=config.model.dimensions and corpus.score_range is not None,
        dimension_loss=config.model.dimension_loss,
        dimension_weight=config.model.dimension_weight,
        optimizer={"lr": defaults.lr, "weight_decay": defaults.weight_decay, "scheduler": defaults.scheduler},
        modality_dropout=config.model.modality_dropout,
    )
    if defaults.init_from is not None:
        init_backbone(module.backbone, defaults.name, Path(defaults.init_from))
    return module


def load_module(folder: Path) -> MultiTaskModule:
    """The trained model of a stage *folder*, on the CPU."""
    best = folder / BEST
    try:
        return MultiTaskModule.load_from_checkpoint(best, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  torch and Lightning raise what they like for a file that is not theirs
        raise StageFolder(folder, {}).damaged(best) from None


def check_weights(weights: dict[str, torch.Tensor], rate: str, advice: str) -> None:
    """Refuse *weights* that are not finite; *rate* is the setting to blame, as it is written on the command line."""
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise UserError(f"{rate}: the training went astray, weights are no longer finite; {advice}")


def keep_checkpoint(vanilla: Vanilla, run_folder: Path) -> None:
    """Copy the selected checkpoint to the run folder, which then needs no other."""
    target = run_folder / "checkpoints" / "best.ckpt"
    if not target.is_file() or target.stat().st_size != vanilla.checkpoint.stat().st_size:
        with atomic(target) as partial:
            shutil.copy2(vanilla.checkpoint, partial)
