"""Where the curves of a training go: ``training/metrics.csv``, and the loggers of the configuration."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lantern.errors import UserError
from lantern.files import atomic
from lantern.pipeline.store import named
from lantern.pipeline.trainer import build, check_entry
from lantern.results.summary import flat_summary

if TYPE_CHECKING:
    from lantern.config.schema import FinetuneConfig, RunConfig
    from lantern.corpora.folder import Corpus
    from lantern.report.sinks.wandb_sink import WandbRun

LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "mlflow": MLFlowLogger}
"""What ``trainer.loggers`` may name; each is also the module that it needs and the extra that installs it."""


class Curves(CSVLogger):
    """``training/metrics.csv`` in *folder*; where an interrupted training goes on, the epochs before stay."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="training")
        self._path, self._earlier = Path(self.log_dir) / "metrics.csv", []
        if self._path.is_file():
            with self._path.open(encoding="utf-8", newline="") as file:
                self._earlier = list(csv.DictReader(file))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        begins = self._experiment is None
        writer = super().experiment
        if begins:  # and has removed the file
            writer.metrics += self._earlier
            writer.save()
        return writer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self._earlier:
            fields = self.experiment.metrics_keys
            with atomic(self._path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, fields)
                writer.writeheader()
                # The epochs since the last checkpoint are trained again.
                writer.writerows(row for row in self._earlier if int(row["epoch"]) < metrics["epoch"])
            self._earlier = []
        super().log_metrics(dict(metrics), step)


class LiveCurves(Logger):
    """Sends the curves of a training to the W&B *run* of the whole run."""

    name, version = "wandb", None

    def __init__(self, run: WandbRun) -> None:
        super().__init__()
        self._run = run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point an epoch; Lightning logs the dev metrics of an epoch before its training losses."""
        values = dict(metrics)
        self._run.point("train", int(values.pop("epoch", 0)), values, whole="train/loss" in values)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The W&B run has the whole configuration already."""


def check_loggers(config: RunConfig | FinetuneConfig) -> None:
    """Refuse, before anything starts, a logger that is unknown or whose library is missing."""
    for name, options in named(config.trainer.loggers):
        check_entry("trainer.loggers", LOGGERS, name, options, ("save_dir", "version"))
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trainer.loggers: {name} needs a library: pip install 'lantern-erc[{name}]'")


def run_loggers(config: RunConfig, corpus: Corpus, folder: Path, live: WandbRun | None) -> list[Logger]:
    """The loggers of the training in the run *folder*, and of its result; *live* is its W&B run."""
    experiment = f"lantern-{corpus.name}-{corpus.label_set.name}"
    loggers: list[Logger] = [*fold_loggers(folder)]
    loggers += [_build(name, options, folder, experiment) for name, options in named(config.trainer.loggers)]
    if live is not None and config.trainer.processes == 1:  # a session does not travel to other processes
        loggers.append(LiveCurves(live))
    return loggers


def fold_loggers(folder: Path) -> list[Logger]:
    """The logger of a training whose curves stay in *folder*."""
    return [Curves(folder)]


def log_result(loggers: Sequence[Logger], result: dict[str, Any]) -> None:
    """The final numbers of a run, for the *loggers* that its configuration names."""
    numbers = {key: value for key, value in flat_summary(result).items() if value is not None}
    for logger in loggers:
        if isinstance(logger, tuple(LOGGERS.values())):
            logger.log_metrics(numbers, step=0)
            logger.finalize("success")


def _build(name: str, options: dict[str, Any], folder: Path, experiment: str) -> Any:
    if name == "tensorboard":
        own = {"save_dir": folder, "version": name}
        return build("trainer.loggers", LOGGERS, name, {"name": "", **options}, own)
    # MLflow 3 writes files only where they are allowed, and calls home unless that is off.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{folder / 'mlruns'}"
    options = {"experiment_name": experiment, "run_name": folder.name, "tracking_uri": place, **options}
    if earlier := _earlier_mlflow_run(options):
        options = {"run_id": earlier, **options}
    return build("trainer.loggers", LOGGERS, name, options, {"save_dir": str(folder / "mlruns")})


def _earlier_mlflow_run(options: dict[str, Any]) -> str | None:
    """The id of MLflow's run of an interrupted or repeated command, which is continued."""
    from mlflow import MlflowClient

    client = MlflowClient(options["tracking_uri"])
    experiment = client.get_experiment_by_name(options["experiment_name"])
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{options['run_name']}'")
    return found[0].info.run_id if found else None
