"""Where the curves of a training go: ``training/metrics.csv``, and the loggers of the configuration."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lantern.errors import UserError
from lantern.pipeline.store import named
from lantern.pipeline.trainer import build, check_entry

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig
    from lantern.corpora.folder import Corpus

LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "mlflow": MLFlowLogger}
"""What ``trainer.loggers`` may name; each is also the module that it needs and the extra that installs it."""


class LiveCurves(WandbLogger):
    """Sends the curves of a training to the W&B run of the whole run, which *start* opens when the training begins."""

    def __init__(self, start: Callable[[], Any], folder: Path) -> None:
        super().__init__(save_dir=folder)
        self._start = start

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Under the names and over the axis of :func:`lantern.report.sinks.wandb_sink.curve`, one point an epoch.

        Lightning logs the dev metrics of an epoch before its training losses.
        """
        from lantern.report.sinks.wandb_sink import curve

        values = dict(metrics)
        self.experiment.log(curve("train", int(values.pop("epoch", 0)), values), commit="train/loss" in values)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The W&B run has the whole configuration already."""


def check_loggers(config: RunConfig) -> None:
    """Refuse, before anything starts, a logger that is unknown or whose library is missing."""
    for name, options in named(config.trainer.loggers):
        check_entry("trainer.loggers", LOGGERS, name, options, ("save_dir", "version"))
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trainer.loggers: {name} needs a library: pip install 'lantern-erc[{name}]'")


def run_loggers(config: RunConfig, corpus: Corpus, folder: Path, note: Callable[[str], None]) -> list[Logger]:
    """The loggers of the training in the run *folder*; *note* gets what the user should know."""
    loggers: list[Logger] = [CSVLogger(folder, name="", version="training")]
    experiment = f"lantern-{corpus.name}-{corpus.label_set.name}"
    loggers += [_build(name, options, folder, experiment) for name, options in named(config.trainer.loggers)]
    if config.tracking.name == "wandb" and config.trainer.processes == 1:  # a session does not travel to others
        loggers.append(LiveCurves(partial(_start, config, corpus, folder, note), folder))
    return loggers


def fold_loggers(folder: Path) -> list[Logger]:
    """The logger of a fold's training, whose curves stay in its stage *folder*."""
    return [CSVLogger(folder, name="", version="training")]


def _start(config: RunConfig, corpus: Corpus, folder: Path, note: Callable[[str], None]) -> Any:
    from lantern.report.sinks.wandb_sink import open_run

    session, notes = open_run(config, {"name": corpus.name, "label_set": corpus.label_set.name}, folder)
    for line in notes:
        note(line)
    return session


def _build(name: str, options: dict[str, Any], folder: Path, experiment: str) -> Any:
    if name == "tensorboard":
        own = {"save_dir": folder, "version": name}
        return build("trainer.loggers", LOGGERS, name, {"name": "", **options}, own)
    # MLflow 3 writes files only where they are allowed, and calls home unless that is off.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    options = {"experiment_name": experiment, "run_name": folder.name, **options}
    return build("trainer.loggers", LOGGERS, name, options, {"save_dir": str(folder / "mlruns")})
