"""The train stage: a vanilla model, trained once for whatever run needs it first, and the workers that train ahead."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lantern.config.schema import FinetuneConfig, RunConfig, TrainerConfig, TrainingDefaults, split_backbone
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.fitted import fitted_for
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import Split
from lantern.environment import SPAWN, cores, quiet, serve_parent
from lantern.errors import UserError
from lantern.files import atomic
from lantern.models.module import MultiTaskModule
from lantern.models.registry import backbone_config, init_backbone
from lantern.models.selection import SELECTION
from lantern.pipeline.loggers import fold_loggers, run_loggers
from lantern.pipeline.preflight import ReadyRun, finetune_command, read_corpus
from lantern.pipeline.store import PACE, StageFolder, StageStore, modalities
from lantern.pipeline.trainer import Compile, build_trainer, running
from lantern.results.progress import Reporter

BEST = "best.ckpt"
"""The selected checkpoint in a stage folder."""
LAST = "last.ckpt"
"""Where an interrupted training goes on."""
MEMORY = re.compile(r"memory|overflow", re.IGNORECASE)
"""What torch says where memory is short."""
WORTH_IT = 10.0
"""Seconds of training after which the start of further processes, a few seconds each, pays."""
AT_ONCE = 4
"""Models trained at the same time where nobody has said how many: each needs from half a gigabyte to three."""
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


class Latest(ModelCheckpoint):
    """Saves the epoch that has ended, at most every :attr:`PAUSE` seconds: a small model trains many in one."""

    PAUSE = 1.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)
        self._due = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.broadcast(time.monotonic() >= self._due):  # all processes save, or none
            super().on_train_epoch_end(trainer, pl_module)
            self._due = time.monotonic() + self.PAUSE


class _LaterStopping(EarlyStopping):
    """Early stopping that does not look at the epochs before *begin*."""

    def __init__(self, begin: int, **options: Any) -> None:
        super().__init__(**options)
        self.begin = begin

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.begin:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.begin:
            super().on_validation_end(trainer, pl_module)


@dataclass(frozen=True, slots=True)
class _Job:
    """A model for a worker, which reads the corpus itself."""

    config: RunConfig
    split: Split
    inputs: dict[str, Any]
    folder: Path | None
    """The run folder that gets the curves; None: they stay with the model, which is that of a fold."""


@contextmanager
def workers(runs: Sequence[ReadyRun]) -> Iterator[None]:
    """Within the block ``trainer.workers`` processes train the models of *runs*, this one among them.

    Each of the others goes through the models in order and trains those that nobody has trained or is training. A model
    is a stage under its lock, so that none is trained twice; one that a worker fails to train is left to this process,
    which says why. Workers end with the block, and with this process, however it ends: a training that this interrupts
    goes on from its last epoch. Where ``trainer.workers`` is null, they start when training has taken a while.
    """
    jobs: dict[Path, _Job] = {}
    for ready in runs:
        for number, stage in enumerate(ready.vanilla_stages):
            if not stage.done and stage.inputs["in_training"] is None:  # else the LLM of this process takes part
                folder = ready.folder if number == 0 else None
                job = _Job(ready.config, stage.split, stage.inputs, folder)
                jobs.setdefault(ready.store.folder("train", stage.inputs), job)
    trainer = runs[0].config.trainer
    most, threads, others = _at_once(trainer), trainer.model_threads, []

    def start() -> None:
        left = sum(not (place / "done.json").is_file() for place in jobs)
        for _ in range(min(most, left) - 1):
            process = SPAWN.Process(target=_work, args=(list(jobs.values()), threads), daemon=True)
            process.start()
            others.append(process)  # only a process that has started can be killed

    timer = threading.Timer(WORTH_IT if trainer.workers is None else 0, start)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if min(most, len(jobs)) > 1:
            timer.start()
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        for process in others:
            process.kill()
            process.join()
        torch.set_num_threads(before)


def _at_once(trainer: TrainerConfig) -> int:
    """How many models may be trained at the same time."""
    if trainer.workers is not None:
        return trainer.workers
    return min(cores(), AT_ONCE) if trainer.accelerator == "cpu" and trainer.processes == 1 else 1


class _Taken(Exception):
    """Another process trains this model."""


def _work(jobs: Sequence[_Job], threads: int) -> None:
    """Train those of *jobs* that are free."""
    serve_parent()
    quiet()
    logging.disable()  # what fails is done again, and said, by the parent
    torch.set_num_threads(threads)
    corpora: dict[str, Corpus] = {}

    def taken() -> None:
        raise _Taken

    for job in jobs:
        config = job.config
        with suppress(Exception):
            name = repr(config.corpus)
            if name not in corpora:
                corpora[name] = read_corpus(config)
            whole = corpora[name]
            chosen, store = modalities(config, whole), StageStore(Path(config.runs) / "stages")
            corpus = fitted_for(whole, job.split.train, job.split.dev, chosen, finetune_command(config))
            if corpus.fingerprint == job.inputs["corpus"] and not store.done("train", job.inputs):
                with store.open("train", job.inputs, taken) as place:
                    curves = fold_loggers(place.path)
                    if job.folder is not None:
                        curves = run_loggers(config, corpus, job.folder, None)
                    train(config, corpus, data_of(config, corpus, job.split), place, None, curves, [])


def data_of(config: RunConfig, corpus: Corpus, split: Split) -> CorpusDataModule:
    """What a vanilla model of the run is trained on."""
    return CorpusDataModule(
        corpus,
        train_ids=split.train,
        dev_ids=split.dev,
        test_ids=split.test,
        batch_size=split_backbone(config.backbone)[0].batch_size,
        seed=config.seed,
        modalities=modalities(config, corpus),
    )


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
        if not MEMORY.search(str(error)):
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
    patient: int = 0,
) -> Fitted:
    """Train *module*, from the last epoch of an interrupted training on; the best epoch is kept as :data:`BEST`.

    :data:`LAST` stays until the caller has recorded the result. The first *patient* epochs do not count for
    ``trainer.patience``.
    """
    best, last = folder.path / BEST, folder.path / LAST
    checkpoint = ModelCheckpoint(
        folder.path,
        filename="best",
        monitor=SELECTION.monitor,
        mode=SELECTION.mode,
        enable_version_counter=False,
    )
    watched: list[pl.Callback] = [checkpoint, Latest(folder.path), *callbacks]
    if config.trainer.processes == 1:  # several have a state each, and a checkpoint holds one
        watched.append(_RandomState())
    if reporter is not None and config.trainer.processes == 1:  # a terminal does not travel to other processes
        watched.append(_EpochReport(reporter, epochs))
    if config.trainer.patience is not None:
        rule: dict[str, Any] = {**dataclasses.asdict(SELECTION), "patience": config.trainer.patience}
        watched.append(_LaterStopping(patient, **rule) if patient else EarlyStopping(**rule))
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
        return MultiTaskModule.load(best)
    except Exception:  # noqa: BLE001  torch raises what it likes for a file that is not its own
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
