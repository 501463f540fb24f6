"""One run from corpus to result: composes the stages and writes the run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lantern.config.compose import dump, to_plain
from lantern.corpora.card import CorpusCard
from lantern.corpora.protocols.overlaps import protocol_lines
from lantern.errors import UserError
from lantern.files import atomic, digest, is_locked, locked, naming, write_json
from lantern.models.selection import SELECTION
from lantern.pipeline import train as stages
from lantern.pipeline import vanilla
from lantern.pipeline.evaluate import evaluate, incomplete
from lantern.pipeline.loggers import fold_loggers, log_result, run_loggers
from lantern.pipeline.preflight import ReadyRun, VanillaStage, too_wide
from lantern.pipeline.refinement import Refinement
from lantern.pipeline.store import StageFolder, record_test_read
from lantern.pipeline.trainer import leave_group
from lantern.refine.questions import RefineStats
from lantern.report.sinks.escaping import printable
from lantern.report.sinks.tracking import track, tracked
from lantern.report.terminal import log_table
from lantern.results.progress import LOCK, Reporter, read_state, record_done, record_failure, recorded
from lantern.results.texts import examples_of
from lantern.tables import PredictionTable

log = logging.getLogger(__name__)


def run(ready: ReadyRun, reporter: Reporter | None = None, reuse: bool = False, helped: bool = False) -> dict[str, Any]:
    """Do what is missing of a run and return its result, the content of its ``metrics.json``.

    Waits for another process that works on the same run. With *reuse* a finished result is returned unchanged, unless
    some of its fields failed and may succeed now. *helped*: the caller has started the workers that train its models.
    """
    config, folder = ready.config, ready.folder

    def waiting() -> None:
        if reporter is not None:
            reporter.note("another process works on this run: waiting for it")

    with locked(folder / LOCK, waiting):
        finished = ready.finished() if reuse else None
        if finished is not None:
            track(config, finished, folder, log.info if reporter is None else reporter.note)
            record_done(folder)
            return finished
        named = {"name": ready.corpus.name, "label_set": ready.corpus.label_set.name}
        with (
            recorded(folder, reporter) as recorder,
            naming(folder),
            _logged(folder / "run.log"),
            tracked(config, named, folder, recorder.note) as live,
        ):
            with atomic(folder / "config.yaml") as partial:
                partial.write_text(dump(config), encoding="utf-8")
            CorpusCard.of(ready.corpus).save(folder / "corpus.json")
            loggers = run_loggers(config, ready.corpus, folder, live)
            result = _run(ready, recorder, loggers, helped)
            write_json(folder / "metrics.json", result)
            if result["incomplete"] is not None:
                recorder.outcome = "incomplete"
            log_result(loggers, result)
            track(config, result, folder, recorder.note, live)
            log_table(result)
        return result


def follow(ready: ReadyRun) -> None:
    """Train together with the first process, in one that srun or torchrun started; that one does everything else."""
    for stage in ready.vanilla_stages:
        place = StageFolder(ready.store.folder("train", stage.inputs), stage.inputs)
        data = stages.data_of(ready.config, stage.corpus, stage.split)
        stages.train(ready.config, stage.corpus, data, place, None, False, [])
    leave_group()


def attempt(ready: ReadyRun, helped: bool = False) -> None:
    """:func:`run` one of many: an error is recorded in its folder and does not stop the others; Ctrl-C does."""
    try:
        run(ready, reuse=True, helped=helped)
    except Exception as error:  # noqa: BLE001  the traceback is in run.log
        if read_state(ready.folder).state != "failed":
            record_failure(ready.folder, error)


def _run(ready: ReadyRun, reporter: Reporter, loggers: list[Logger], helped: bool) -> dict[str, Any]:
    config, folder = ready.config, ready.folder
    for line in (*protocol_lines(ready.protocol), *too_wide(ready)):
        reporter.note(line)
    with _refinement(ready, reporter) as llm:
        with contextlib.nullcontext() if helped else stages.workers([ready]):
            models = _train_all(ready, reporter, llm, loggers)
        leave_group()
        stages.keep_checkpoint(models[0], folder)
        tables: dict[str, PredictionTable] = {}
        stats, counts, reads = RefineStats(), RefineStats(), 0
        for split in ("oof" if "oof" in ready.refined else "dev", "test"):
            reporter.stage(f"predict {split}" if llm is None else f"refine {split} with {config.llm.name}")
            if split == "test":
                reads = record_test_read(Path(config.runs), folder.name, digest(to_plain(config)))
            tables[split] = vanilla.predict(ready, split)
            if llm is not None:
                tables[split], counts = llm.refine(tables[split])
                stats.add(counts)
    reporter.stage("weight and evaluate")
    # The last counts are those of the test split.
    tables, result = evaluate(ready, tables, stats, incomplete(counts, config.refine.min_answered))
    for name, table in tables.items():
        table.save(folder / f"predictions.{name}.parquet")
    result["vanilla"] = {"best_epoch": models[0].best_epoch, SELECTION.key: models[0].best_score}
    result["protocol"]["test_reads_before"] = reads
    return result


def _train_all(
    ready: ReadyRun, reporter: Reporter, llm: Refinement | None, loggers: list[Logger]
) -> dict[int, stages.Vanilla]:
    """The vanilla models of the run, by number; those that another process is training are waited for last."""
    models: dict[int, stages.Vanilla] = {}
    places = [ready.store.folder("train", stage.inputs) / "lock" for stage in ready.vanilla_stages]
    while left := [number for number in range(len(places)) if number not in models]:
        number = left[0]
        if ready.config.trainer.processes == 1:  # several go through the models in one order
            number = next((n for n in left if not is_locked(places[n])), number)
        models[number] = _vanilla(ready, ready.vanilla_stages[number], reporter, llm, loggers)
    return models


def _vanilla(
    ready: ReadyRun, stage: VanillaStage, reporter: Reporter, llm: Refinement | None, loggers: list[Logger]
) -> stages.Vanilla:
    """Train the model of *stage*, wait for the process that trains it, or reuse it; *llm* may refine in training."""
    config, main = ready.config, stage is ready.vanilla_stages[0]
    reporter.stage(f"{stage.title}, seed {config.seed}")
    callbacks = []
    if main and llm is not None and config.refine.when != "end":
        refined = ready.split.dev[: config.refine.limit_dialogues]
        callbacks = [llm.callback("dev", refined, config.refine.when, config.refine.every_n)]
    waiting = partial(reporter.note, "another process trains this model: waiting for it")
    with ready.store.open("train", stage.inputs, waiting) as place:
        curves = loggers if main else fold_loggers(place.path)
        data = stages.data_of(config, stage.corpus, stage.split)
        model = stages.train(config, stage.corpus, data, place, reporter, curves, callbacks)
    state = "reused" if model.reused else "trained"
    reporter.note(f"{state}; best epoch {model.best_epoch + 1}, dev weighted F1 {model.best_score:.3f}")
    return model


@contextlib.contextmanager
def _refinement(ready: ReadyRun, reporter: Reporter) -> Iterator[Refinement | None]:
    if ready.backend is None:
        yield None
        return
    examples = examples_of(ready.config, ready.corpus, Path(ready.config.runs), keep=True)
    with Refinement(ready.config, ready.backend, vanilla.transcripts(ready.corpus), reporter.asking, examples) as llm:
        llm.ledger.notice = reporter.note
        yield llm


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))  # what data hold cannot steer the terminal that shows the log


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send the log records of Lantern and Lightning to *path* only."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    names = ("lantern", "lightning.pytorch", "py.warnings")
    logging.captureWarnings(True)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            log.exception("the run failed")
            vars(error)["run_log"] = path  # for the one line that the command prints
        raise
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers
        logging.captureWarnings(False)
        with contextlib.suppress(OSError):  # on a full disk the first error counts
            handler.close()
