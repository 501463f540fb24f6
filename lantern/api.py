"""What a script or a notebook calls: experiments and finished runs. Each function imports what it needs when called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lantern.config.compose import compose
from lantern.config.schema import RunConfig
from lantern.environment import prepare
from lantern.errors import UserError
from lantern.results.load import Run, find_runs, read_run

if TYPE_CHECKING:
    from lantern.pipeline.plan import Plan
    from lantern.pipeline.predict import LoadedRun
    from lantern.refine.types import Progress

log = logging.getLogger(__name__)


def run_experiment(settings: Sequence[str] | RunConfig, tell: Callable[[str], object] | None = None) -> Run:
    """Train, refine, weight and evaluate; finished work is reused and no prompt is sent twice.

    Args:
        settings: as on the command line, ``["backbone=sdt_small", "llm=simulated"]``, or what
            :func:`~lantern.config.compose` made of them.
        tell: called with each line of progress, for instance ``print``.

    Returns:
        The finished run: ``run.folder``, every number in ``run.result``, its predictions from ``run.table()``.

    Raises:
        UserError: a setting, corpus, key or file is wrong; or the settings are those of several runs.
    """
    config = _config(settings)
    # Another process would run a script from its first line; it may start one only where that was asked for.
    config = replace(config, trainer=replace(config.trainer, workers=config.trainer.workers or 1))
    prepare(config.trainer.model_threads)
    from lantern.pipeline.preflight import preflight
    from lantern.pipeline.run import run

    return read_run(Path(run(preflight(config), _Lines(tell))["folder"]))


def plan_experiment(settings: Sequence[str] | RunConfig) -> Plan:
    """What :func:`run_experiment` would train, send and cost: ``plan.asking.calls``, ``plan.asking.cost`` in dollars.

    Starts nothing and needs no key.

    Raises:
        UserError: as :func:`run_experiment`; or a price or a tokenizer cannot be had.
    """
    config = _config(settings)
    prepare(config.trainer.model_threads)
    from lantern.pipeline.plan import plan
    from lantern.pipeline.preflight import preflight

    return plan([preflight(config, check_backend=False)])


def load_runs(*folders: str | Path) -> list[Run]:
    """The finished runs in *folders*: run folders, or folders of run folders. Unfinished ones among these are left out.

    Raises:
        UserError: a folder is missing or holds no finished run.
    """
    found = find_runs([Path(folder) for folder in folders])
    for line in found.skipped:
        log.warning(line)
    return found.runs


def load(folder: str | Path) -> LoadedRun:
    """The run in *folder*, ready for ``predict(dialogues)``; needs neither its corpus nor its LLM.

    Raises:
        UserError: not a finished run, or one of another version.
    """
    prepare()
    from lantern.pipeline import predict

    return predict.load(folder)


def _config(settings: Sequence[str] | RunConfig) -> RunConfig:
    if isinstance(settings, str):
        raise UserError(f"settings={settings!r} is one text; give a list of them, [{settings!r}]")
    config = settings if isinstance(settings, RunConfig) else compose(list(settings))
    if config.variants or config.study is not None:
        raise UserError("these settings are a study of several runs: start it with python -m experiments.run")
    return config


class _Lines:
    """Implements :class:`lantern.pipeline.train.Reporter` with lines of text."""

    def __init__(self, tell: Callable[[str], object] | None) -> None:
        self._tell: Callable[[str], object] = tell or (lambda line: None)
        self._tenths = 0

    def stage(self, title: str) -> None:
        self._tenths = 0
        self._tell(title)

    def note(self, text: str) -> None:
        self._tell(f"  {text}")

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Epochs are many and short: the line at their end says what came of them."""

    def asking(self, progress: Progress) -> None:
        tenth = 10 * progress.done // max(progress.total, 1)
        if tenth > self._tenths:
            self._tenths = tenth
            self._tell(f"  {progress.done}/{progress.total} fields, {progress.failed} failed, ${progress.cost:.2f}")
