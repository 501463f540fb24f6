"""The stages of a run: train, refine, weight, evaluate. Each is a function of its arguments and of what is on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from lantern.config.schema import RunConfig, TrainingDefaults, split_backbone
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import Split
from lantern.errors import UserError
from lantern.files import atomic, locked
from lantern.models.module import MONITOR, MultiTaskModule
from lantern.models.registry import backbone_config, init_backbone
from lantern.pipeline.store import StageFolder
from lantern.refine.callback import LLMRefinement, PredictionCollector
from lantern.refine.questions import RefineStats
from lantern.refine.types import Progress
from lantern.tables import PredictionTable

_MEMORY = re.compile(r"memory|overflow", re.IGNORECASE)
log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Where a run tells how far it is; ``experiments/`` draws it."""

    def stage(self, title: str) -> None: ...

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None: ...

    def asking(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...


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


def train_inputs(config: RunConfig, corpus: Corpus, split: Split, in_training: bool = False) -> dict[str, Any]:
    """Everything a vanilla model depends on, as plain JSON: the address of the train stage.

    *in_training*: the LLM is also asked during this training, where ``refine.when`` says so.
    """
    defaults, options = split_backbone(config.backbone)
    trainer = config.trainer
    return {
        "version": 1,
        "corpus": corpus.fingerprint,
        "modalities": sorted(modalities(config, corpus)),
        "train": list(split.train),
        "dev": list(split.dev),
        "backbone": defaults.name,
        "options": dataclasses.asdict(backbone_config(defaults.name, options)),
        "training": {**dataclasses.asdict(defaults), "init_from": _file_digest(defaults.init_from)},
        "model": dataclasses.asdict(config.model),
        "seed": config.seed,
        "trainer": [trainer.precision, trainer.epochs, trainer.patience, trainer.gradient_clip]
        + ([trainer.processes] if trainer.processes > 1 else []),
        "in_training": [config.refine.when, config.refine.every_n, config.llm.name, config.prompt.digest]
        if in_training and config.refine.enabled and config.refine.when != "end"
        else None,
    }


def modalities(config: RunConfig, corpus: Corpus) -> list[str]:
    """Modalities the run uses; one that the corpus lacks is refused."""
    available = list(corpus.features)
    if not available:
        raise UserError(f"corpus {corpus.name!r} has no features; import it without --no-features")
    chosen = config.corpus.modalities or available
    for name in chosen:
        if name not in available:
            raise UserError(f"corpus.modalities: corpus {corpus.name!r} has no {name!r}; it has {', '.join(available)}")
    return [name for name in available if name in chosen]


def _file_digest(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"backbone.init_from={path}: no such file")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cluster() -> ClusterEnvironment | None:
    """srun's or torchrun's environment, where one of them started this process as one of several."""
    for kind in (SLURMEnvironment, TorchElasticEnvironment):
        if kind.detect():
            found = kind()
            return found if found.world_size() > 1 else None
    return None


def follower(config: RunConfig) -> bool:
    """Whether this process only trains along: srun or torchrun started it beside the one that does everything else.

    Raises:
        UserError: as many processes were started as the configuration does not speak of.
    """
    if config.trainer.processes == 1:
        return False
    group = cluster()
    if group is None:
        if config.trainer.nodes > 1:
            raise UserError(f"trainer.nodes={config.trainer.nodes}: start the command with srun or torchrun")
        return False
    if group.world_size() != config.trainer.processes:
        raise UserError(
            f"{group.world_size()} processes were started, and trainer.nodes={config.trainer.nodes} x "
            f"trainer.devices={config.trainer.devices} are {config.trainer.processes}"
        )
    return group.global_rank() > 0


def leave_group() -> None:
    """End the group of the processes that trained together: none of them waits while one asks the LLM."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trainer(config: RunConfig, together: bool = False, **options: Any) -> pl.Trainer:
    """*together*: with all processes of the configuration; else in this one alone."""
    trainer = config.trainer
    where: dict[str, Any] = {"devices": 1, "plugins": [LightningEnvironment()]}
    if together and trainer.processes > 1:
        # Spawned where nobody else starts processes: then only the training is in the group.
        how = "ddp_spawn" if cluster() is None else "ddp"
        where = {"devices": trainer.devices, "num_nodes": trainer.nodes, "use_distributed_sampler": False}
        where["strategy"] = f"{how}_find_unused_parameters_true"
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(
        accelerator=trainer.accelerator,
        precision=trainer.precision,  # type: ignore[arg-type]
        gradient_clip_val=trainer.gradient_clip,
        deterministic="warn" if trainer.deterministic else False,
        **{**quiet, **where, **options},
    )


@contextmanager
def _ctrl_c(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning turns Ctrl-C into ``SystemExit(1)``, which callers cannot tell from a crash: give it back."""
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt(*getattr(stop.__context__, "args", ())) from None
        raise


def train(
    config: RunConfig,
    corpus: Corpus,
    data: CorpusDataModule,
    folder: StageFolder,
    reporter: Reporter | None,
    logger: Any,
    callbacks: list[pl.Callback],
) -> Vanilla:
    """Train the vanilla model, or take it from *folder*; an interrupted training goes on from its last epoch."""
    defaults, options = split_backbone(config.backbone)
    best = folder.path / "best.ckpt"
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
    checkpoint = ModelCheckpoint(
        folder.path, filename="best", monitor=MONITOR, mode="max", save_last=True, enable_version_counter=False
    )
    watched: list[pl.Callback] = [checkpoint, *callbacks]
    if reporter is not None and config.trainer.processes == 1:  # a terminal does not travel to other processes
        watched.append(_EpochReport(reporter, epochs))
    if config.trainer.patience is not None:
        watched.append(EarlyStopping(MONITOR, mode="max", patience=config.trainer.patience))
    trainer = _trainer(config, together=True, max_epochs=epochs, callbacks=watched, logger=logger, log_every_n_steps=1)
    last = folder.path / "last.ckpt"
    if last.is_file():
        try:
            torch.load(last, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001  torch raises what it likes for a file that is not its own
            raise folder.damaged(last) from None
        log.info("training goes on from %s", last)
    with _ctrl_c(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    state = torch.load(best, map_location="cpu", weights_only=True)
    _check_weights(state["state_dict"], defaults.lr)
    epoch, score = int(state["epoch"]), float(state["callbacks"][checkpoint.state_key]["best_model_score"])
    if trainer.is_global_zero:
        folder.finish({"best_epoch": epoch, "best_score": score, "epochs": epochs})
        last.unlink(missing_ok=True)
    return Vanilla(best, folder.path, epoch, score, reused=False)


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


def refine(
    config: RunConfig,
    corpus: Corpus,
    data: CorpusDataModule,
    vanilla: Vanilla,
    split: str,
    asked: Collection[str] | None,
    ask: Callable[[PredictionTable], RefineStats] | None,
) -> tuple[PredictionTable, RefineStats]:
    """Predictions table of *split*, refined by *ask* through :class:`LLMRefinement`.

    ``dev`` are the development dialogues of *data*; any other name stands for its test part: ``test``, or ``oof`` for
    the dialogues that a fold holds out. Only the dialogues *asked* are kept (None: all). The vanilla predictions are
    written before the first call and read back ever after: a prompt holds them to two decimals, and a prompt that
    changed by rounding would be paid for again.
    """
    part = "dev" if split == "dev" else "test"
    stored = vanilla_path(vanilla.folder, split, data.ids[part])

    def act(table: PredictionTable) -> RefineStats:
        keep_dialogues(table, asked)
        return ask(table) if ask is not None else RefineStats()

    def store_and_act(table: PredictionTable) -> RefineStats:
        with locked(vanilla.folder / "lock"):
            if stored.is_file():  # another process was first, maybe on another machine that rounds otherwise
                table.rows = load_vanilla(stored, corpus, data.ids[part]).rows
            else:
                table.save(stored)
        return act(table)

    if stored.is_file():
        table = load_vanilla(stored, corpus, data.ids[part])
        return table, act(table)
    collector = PredictionCollector(corpus.by_id, corpus.label_set, corpus.score_range)
    callback = LLMRefinement(store_and_act, collector, split=split)
    try:
        module = MultiTaskModule.load_from_checkpoint(vanilla.checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  as above
        raise StageFolder(vanilla.folder, {}).damaged(vanilla.checkpoint) from None
    trainer = _trainer(config, callbacks=[callback], logger=False)
    with _ctrl_c(trainer):
        if part == "dev":
            trainer.validate(module, datamodule=data, verbose=False)
        else:
            trainer.test(module, datamodule=data, verbose=False)
    if callback.table is None or callback.stats is None:
        raise RuntimeError(f"the {split} split gave no predictions")
    return callback.table, callback.stats


def vanilla_path(folder: Path, split: str, ids: Sequence[str]) -> Path:
    """Where a stage *folder* keeps its vanilla predictions of the dialogues *ids*."""
    name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]
    return folder / f"vanilla.{split}.{name}.jsonl"


def check_device(config: RunConfig) -> None:
    """Refuse, before anything starts, a device that this machine does not have."""
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu: this machine has no CUDA device that torch can use; take trainer=cpu")


def _check_weights(weights: dict[str, torch.Tensor], lr: float) -> None:
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(
            f"backbone.lr={lr}: the training went astray, weights are no longer finite; lower backbone.lr or set "
            "trainer.gradient_clip=1"
        )


def load_vanilla(path: Path, corpus: Corpus, ids: Sequence[str]) -> PredictionTable:
    """The vanilla predictions of the dialogues *ids* of *corpus* that a stage keeps at *path*."""
    try:
        table = PredictionTable.load(path)
        if {row.utterance for row in table.rows} != {u.id for i in ids for u in corpus.by_id[i].utterances}:
            raise UserError(f"{path}: not the predictions of all {len(ids)} dialogues")
    except UserError as error:
        raise UserError(f"{error}; delete that file, and the command makes it anew") from None
    return table


def keep_dialogues(table: PredictionTable, dialogues: Collection[str] | None) -> None:
    """Keep the rows of *dialogues* in *table* (all if None), in place."""
    if dialogues is not None:
        kept = set(dialogues)
        table.rows = [row for row in table.rows if row.dialogue in kept]


def mean_table(tables: Sequence[PredictionTable]) -> PredictionTable:
    """One table whose vanilla probabilities and scores are the means of those of *tables*, which have equal rows."""
    rows = []
    for same in zip(*(table.rows for table in tables), strict=True):
        if len({row.utterance for row in same}) != 1:
            raise ValueError("tables of different utterances cannot be averaged")
        scores = [row.predicted_scores for row in same if row.predicted_scores is not None]
        rows.append(
            dataclasses.replace(
                same[0],
                vanilla=np.mean([row.vanilla for row in same], axis=0).tolist(),
                predicted_scores=np.mean(scores, axis=0).tolist() if scores else None,
            )
        )
    return PredictionTable(tables[0].classes, rows, tables[0].split)


def keep_checkpoint(vanilla: Vanilla, run_folder: Path) -> None:
    """A copy of the selected checkpoint in the run folder, which then stands on its own."""
    target = run_folder / "checkpoints" / "best.ckpt"
    if not target.is_file() or target.stat().st_size != vanilla.checkpoint.stat().st_size:
        with atomic(target) as partial:
            shutil.copy2(vanilla.checkpoint, partial)
