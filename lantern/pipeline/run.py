"""One run from corpus to result: composes the stages and writes the run folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from lantern.config.compose import dump, to_plain
from lantern.config.schema import RunConfig, split_backbone
from lantern.corpora.card import CorpusCard
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.protocols.overlaps import protocol_lines
from lantern.corpora.protocols.splits import Split
from lantern.errors import UserError
from lantern.files import append_line, digest, locked, write_json
from lantern.pipeline import train as stages
from lantern.pipeline.evaluate import evaluate
from lantern.pipeline.preflight import Prepared, VanillaStage
from lantern.pipeline.refinement import Asker
from lantern.pipeline.store import StageFolder
from lantern.refine.callback import LLMRefinement, PredictionCollector
from lantern.refine.questions import RefineStats
from lantern.report.tracking import track
from lantern.results.progress import LOCK, read_state, record_failure, recorded
from lantern.tables import PredictionTable, concatenate

log = logging.getLogger(__name__)

Join = Callable[[list[PredictionTable]], PredictionTable]


def run(ready: Prepared, reporter: stages.Reporter | None = None, reuse: bool = False) -> dict[str, Any]:
    """Do what is missing of a run and return its result, which also stands in ``metrics.json``.

    Another process that is at the same run is waited for. With *reuse* a finished result is taken as it is, unless
    fields of it failed that may succeed now.
    """
    config, folder = ready.config, ready.folder

    def waiting() -> None:
        if reporter is not None:
            reporter.note("another process is at this run: waiting for it")

    with locked(folder / LOCK, waiting):
        found = ready.finished() if reuse else None
        if found is not None:
            if not (folder / "wandb").is_dir():
                track(config, found, folder)
            return found
        with recorded(folder, reporter) as recorder, _logged(folder / "run.log"):
            (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
            CorpusCard.of(ready.corpus).save(folder / "corpus.json")
            result = _run(ready, recorder)
            write_json(folder / "metrics.json", result)
            for line in track(config, result, folder):
                recorder.note(line)
        return result


def follow(ready: Prepared) -> None:
    """Train along in a process that srun or torchrun started; everything else is done by the first process."""
    for stage in ready.vanilla_stages:
        place = StageFolder(ready.store.folder("train", stage.inputs), stage.inputs)
        stages.train(ready.config, ready.corpus, _data(ready, stage.split), place, None, False, [])
    stages.leave_group()


def attempt(ready: Prepared) -> None:
    """Run one of many: what stops it is kept in its folder, and nothing but Ctrl-C comes out of here."""
    try:
        run(ready, reuse=True)
    except Exception as error:  # noqa: BLE001  a bug in one run is in its run.log and does not cost the others
        if read_state(ready.folder).state != "failed":
            record_failure(ready.folder, error)


def _run(ready: Prepared, reporter: stages.Reporter) -> dict[str, Any]:
    config, corpus, folder = ready.config, ready.corpus, ready.folder
    for line in protocol_lines(ready.protocol):
        reporter.note(line)
    with _asker(ready, reporter) as asker:
        ask = None if asker is None else asker.ask
        models: list[stages.Vanilla] = []
        datas: list[CorpusDataModule] = []
        for stage in ready.vanilla_stages:
            data = _data(ready, stage.split)
            models.append(_vanilla(ready, stage, data, reporter, None if models else asker))
            datas.append(data)
        stages.leave_group()
        stages.keep_checkpoint(models[0], folder)
        tables: dict[str, PredictionTable] = {}
        stats = RefineStats()

        def refine(name: str, parts: list[tuple[CorpusDataModule, stages.Vanilla]], join: Join) -> None:
            """Fill ``tables[name]`` with the predictions of *parts*, joined and refined."""
            reporter.stage(f"refine {name} with {config.llm.name}" if ask else f"predict {name}")
            now = ask if len(parts) == 1 else None  # of several models the LLM is shown what joins them
            made = [stages.refine(config, corpus, *part, name, ready.asked.get(name), now) for part in parts]
            tables[name] = join([table for table, _ in made])
            stats.add(ask(tables[name]) if ask is not None and now is None else made[0][1])

        oof = "oof" in ready.asked
        refine(
            "oof" if oof else "dev",
            list(zip(datas[1:], models[1:])) if oof else [(datas[0], models[0])],
            lambda found: concatenate(found, "oof" if oof else "dev"),
        )
        reads = record_test_read(Path(config.runs), folder.name, digest(to_plain(config)))
        if oof and config.oof.test_model == "mean":
            splits = [Split(stage.split.train, ready.split.dev, ready.split.test) for stage in ready.vanilla_stages[1:]]
            refine("test", list(zip([_data(ready, split) for split in splits], models[1:])), stages.mean_table)
        else:
            refine("test", [(datas[0], models[0])], lambda found: found[0])
    reporter.stage("weight and evaluate")
    result = evaluate(ready, tables, stats)
    for name, table in tables.items():
        table.save(folder / f"predictions.{name}.jsonl")
    result["vanilla"] = {"best_epoch": models[0].best_epoch, "dev_weighted_f1": models[0].best_score}
    result["protocol"]["test_reads_before"] = reads
    return result


def _data(ready: Prepared, split: Split) -> CorpusDataModule:
    defaults, _ = split_backbone(ready.config.backbone)
    return CorpusDataModule(
        ready.corpus,
        train_ids=split.train,
        dev_ids=split.dev,
        test_ids=split.test,
        batch_size=defaults.batch_size,
        seed=ready.config.seed,
        modalities=stages.modalities(ready.config, ready.corpus),
    )


def _vanilla(
    ready: Prepared, stage: VanillaStage, data: CorpusDataModule, reporter: stages.Reporter, asker: Asker | None
) -> stages.Vanilla:
    """Train the model of *stage*, or wait for whoever is training it, or take it; *asker* is asked in training."""
    config, main = ready.config, stage is ready.vanilla_stages[0]
    reporter.stage(f"{stage.title}, seed {config.seed}")
    logger = CSVLogger(ready.folder, name="", version="training") if main else False
    waiting = partial(reporter.note, "another process is at this model: waiting for it")
    with ready.store.open("train", stage.inputs, waiting) as place:
        vanilla = stages.train(
            config, ready.corpus, data, place, reporter, logger, _in_training(config, ready, asker) if main else []
        )
    state = "reused" if vanilla.reused else "trained"
    reporter.note(f"{state}; best epoch {vanilla.best_epoch + 1}, dev weighted F1 {vanilla.best_score:.3f}")
    return vanilla


@contextlib.contextmanager
def _asker(ready: Prepared, reporter: stages.Reporter) -> Iterator[Asker | None]:
    if ready.backend is None:
        yield None
        return
    corpus = ready.corpus
    with Asker(
        ready.config, ready.backend, corpus.by_id, corpus.label_set, corpus.score_range, reporter.asking
    ) as asker:
        yield asker


def _in_training(config: RunConfig, ready: Prepared, asker: Asker | None) -> list[Any]:
    """The refinement callback for ``refine.when=best|every_n``."""
    if asker is None or config.refine.when == "end":
        return []
    corpus, dev = ready.corpus, ready.split.dev[: config.refine.limit_dialogues]
    collector = PredictionCollector(corpus.by_id, corpus.label_set, corpus.score_range)

    def act(table: PredictionTable) -> RefineStats:
        stages.keep_dialogues(table, dev)
        return asker.ask(table)

    return [LLMRefinement(act, collector, when=config.refine.when, every_n=config.refine.every_n)]


def record_test_read(runs: Path, run_name: str, config_hash: str) -> int:
    """Append to the record of every time the test split was read; how often it had been read before, by any run."""
    entry = {"time": time.time(), "run": run_name, "config": config_hash}
    return append_line(runs / "test_reads.jsonl", entry, number="reads_before")


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Lantern's and Lightning's log records go to *path*, and nowhere else."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
        raise
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers
        logging.captureWarnings(False)
        handler.close()
