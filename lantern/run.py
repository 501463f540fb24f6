"""One run from corpus to result: composes the stages and writes the run folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from lantern import stages
from lantern.config import RunConfig, dump, split_backbone, to_plain
from lantern.corpora.card import CorpusCard
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.sample import generate_sample
from lantern.corpora.splits import Split, resolve_split
from lantern.errors import UserError
from lantern.predictions import PredictionTable
from lantern.refine.backend import LiteLLMBackend
from lantern.refine.callback import LLMRefinement, PredictionCollector
from lantern.refine.engine import Engine
from lantern.refine.ledger import Ledger
from lantern.refine.prompt import Prompt
from lantern.refine.refiner import Refiner, RefineStats, summary
from lantern.refine.simulate import SimulatedBackend
from lantern.report.results import methods, split_result
from lantern.report.tracking import track
from lantern.store import StageStore, digest, write_json
from lantern.weighting.stage import apply_weighting, compare_baselines, fit_weighting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose inputs have all been looked at; nothing has been started."""

    config: RunConfig
    corpus: Corpus
    split: Split
    inputs: dict[str, Any]
    """What the vanilla model depends on: the address of its stage."""
    backend: Any
    folder: Path

    @property
    def asked(self) -> dict[str, tuple[str, ...]]:
        """Ids of the dialogues that the LLM is asked about, by split; empty when nobody is asked."""
        if self.backend is None:
            return {}
        limit = self.config.refine.limit_dialogues
        return {name: getattr(self.split, name)[:limit] for name in ("dev", "test")}


def preflight(config: RunConfig) -> Prepared:
    """Load the corpus and check everything that can be checked before training starts.

    Raises:
        UserError: a missing corpus, backbone option, key, modality or consent.
    """
    defaults, _ = split_backbone(config.backbone)
    corpus = read_corpus(config)
    split = resolve_split(corpus, config.protocol.name, config.seed, config.protocol.dev_share)
    inputs = stages.train_inputs(config, corpus, split)
    backend = None
    if config.refine.enabled:
        backend = SimulatedBackend(config.llm) if config.llm.simulated else LiteLLMBackend(config.llm)
        if config.llm.remote and corpus.redistribution == "forbidden" and not config.corpus.allow_external_llm:
            raise UserError(
                f"corpus {corpus.name!r} may not be passed on and llm={config.llm.name} is a remote service; "
                "set corpus.allow_external_llm=true if your licence allows it, or take a local LLM"
            )
        backend.check_ready()
    llm = config.llm.name if config.refine.enabled else "none"
    identity = to_plain(config)
    for key in ("runs", "tracking"):
        identity.pop(key)
    name = f"{corpus.name}-{defaults.name}-{llm}-seed{config.seed}-{digest(identity)[:8]}"
    return Prepared(config, corpus, split, inputs, backend, Path(config.runs) / name)


def read_corpus(config: RunConfig) -> Corpus:
    """The corpus of a configuration, limited as it says."""
    wanted = config.corpus
    if wanted.path is None:
        if wanted.name != "sample":
            raise UserError(f"corpus={wanted.name} needs corpus.path=<folder written by experiments.import_corpus>")
        corpus = generate_sample(seed=wanted.seed, dialogues=wanted.dialogues)
    else:
        corpus = load_corpus(Path(wanted.path))
    return corpus if wanted.limit_dialogues is None else corpus.limit(wanted.limit_dialogues)


def run(ready: Prepared, reporter: stages.Reporter) -> dict[str, Any]:
    """Do what is missing of a run and return its result, which also stands in ``metrics.json``."""
    config, folder = ready.config, ready.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    CorpusCard.of(ready.corpus).save(folder / "corpus.json")
    with _logged(folder / "run.log"):
        result = _run(ready, reporter)
    write_json(folder / "metrics.json", result)
    track(config, result, folder)
    return result


def _run(ready: Prepared, reporter: stages.Reporter) -> dict[str, Any]:
    config, corpus, split, folder = ready.config, ready.corpus, ready.split, ready.folder
    defaults, _ = split_backbone(config.backbone)
    data = CorpusDataModule(
        corpus,
        train_ids=split.train,
        dev_ids=split.dev,
        test_ids=split.test,
        batch_size=defaults.batch_size,
        seed=config.seed,
        modalities=stages.modalities(config, corpus),
    )
    asker = _Asker(ready, reporter) if ready.backend is not None else None
    store = StageStore(Path(config.runs) / "stages")
    with contextlib.closing(asker) if asker is not None else contextlib.nullcontext():
        reporter.stage(f"train {defaults.name} on {corpus.name} ({len(split.train)} dialogues, seed {config.seed})")
        with store.open("train", ready.inputs) as stage:
            vanilla = stages.train(
                config,
                corpus,
                data,
                stage,
                reporter,
                CSVLogger(folder, name="", version="training"),
                _in_training(config, corpus, asker),
            )
        state = "reused" if vanilla.reused else "trained"
        reporter.note(f"{state}; best epoch {vanilla.best_epoch + 1}, dev weighted F1 {vanilla.best_score:.3f}")
        stages.keep_checkpoint(vanilla, folder)
        tables: dict[str, PredictionTable] = {}
        stats = RefineStats()
        for name in ready.asked or ("dev", "test"):
            reporter.stage(f"refine {name} with {config.llm.name}" if asker else f"predict {name}")
            if name == "test":
                _audit(Path(config.runs), folder.name, digest(to_plain(config)))
            tables[name], part = stages.refine(config, corpus, data, vanilla, name, asker.ask if asker else None)
            if part is not None:
                stats.add(part)
    reporter.stage("weight and evaluate")
    result = _evaluate(ready, tables, stats, asker is not None)
    for name, table in tables.items():
        table.save(folder / f"predictions.{name}.jsonl")
    result["vanilla"] = {"best_epoch": vanilla.best_epoch, "dev_weighted_f1": vanilla.best_score}
    return result


def _evaluate(ready: Prepared, tables: dict[str, PredictionTable], stats: RefineStats, refined: bool) -> dict[str, Any]:
    """Fit the weighting on dev, merge both splits in place, compute every number."""
    config, corpus = ready.config, ready.corpus
    weighting: dict[str, Any] | None = None
    baselines: dict[str, Any] = {}
    if refined:
        range_ = corpus.score_range
        fitted = fit_weighting(
            config.weighting, tables["dev"], seed=config.seed, score_range=range_, folder=ready.folder / "checkpoints"
        )
        baselines = compare_baselines(
            tables["dev"],
            tables["test"],
            config=config.weighting,
            seed=config.seed,
            score_range=range_,
            fitted=fitted,
        )
        weights: dict[str, Any] = {}
        for name in tables:
            tables[name], weights = apply_weighting(fitted, tables[name])
        weighting = {"name": config.weighting.name, "fit_on": "dev", **fitted.report, "weights": weights}
    test = tables["test"]
    if not test.labelled.any():
        raise UserError(
            f"no utterance of the test dialogues of corpus {corpus.name!r} is labelled: nothing to evaluate"
        )
    return {
        "title": f"{corpus.name}, {config.backbone['name']}, {config.llm.name if refined else 'no LLM'}",
        "folder": str(ready.folder),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": config.seed,
        "corpus": {
            "name": corpus.name,
            "label_set": corpus.label_set.name,
            "fingerprint": corpus.fingerprint,
            "made_up": corpus.made_up,
        },
        "protocol": {
            "name": config.protocol.name,
            "train": len(ready.split.train),
            "dev": len(ready.split.dev),
            "test": len(ready.split.test),
        },
        "prompt": {"name": config.prompt.name, "version": config.prompt.version, "digest": config.prompt.digest},
        "llm": {"name": config.llm.name, "model": config.llm.model, **summary(stats)} if refined else None,
        "weighting": weighting,
        "test": split_result(test, methods(test, baselines), config.seed),
        # The weighting was fitted on dev: only the vanilla numbers mean anything there.
        "dev": split_result(tables["dev"], {"vanilla": tables["dev"].vanilla}, config.seed)
        if tables["dev"].labelled.any()
        else None,
        "notes": notes(config, corpus, stats),
    }


def notes(config: RunConfig, corpus: Corpus, stats: RefineStats) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    if corpus.made_up:
        found.append("the corpus is made up by a generator: these numbers say nothing about people")
    if corpus.contaminated:
        found.append(corpus.contaminated)
    if config.refine.enabled and config.llm.simulated is not None:
        found.append("the LLM is simulated from the gold labels: these numbers say nothing about any LLM")
    labelled_on = [name for name, card in corpus.cards.items() if card.fitted_on == "train-labels"]
    if labelled_on:
        found.append(
            f"{', '.join(labelled_on)} features were fitted on training labels: predictions on training dialogues "
            "are over-confident"
        )
    if config.refine.limit_dialogues is not None:
        found.append(
            f"only the first {config.refine.limit_dialogues} dialogues of dev and test were refined and scored"
        )
    budget = stats.failures.get("budget", 0)
    if budget:
        found.append(f"refine.max_cost stopped the LLM: {budget} of {stats.fields} fields were not asked")
    return found


class _Asker:
    """The engine and the refiner of one run, opened at the first question."""

    def __init__(self, ready: Prepared, reporter: stages.Reporter) -> None:
        config, corpus = ready.config, ready.corpus
        prompt = Prompt(config.prompt, corpus.label_set, corpus.score_range if config.model.dimensions else None)
        self.refiner = Refiner(corpus.by_id, prompt, config.refine, config.llm, config.llm.simulated, config.seed)
        self.ledger = Ledger(Path(config.refine.ledger))
        self.engine = Engine(
            ready.backend,
            self.ledger,
            judge=self.refiner.judge,
            progress=reporter.asking,
            max_cost=config.refine.max_cost,
        )

    def ask(self, table: PredictionTable) -> RefineStats:
        return self.refiner.refine(table, self.engine)

    def close(self) -> None:
        self.ledger.close()


def _in_training(config: RunConfig, corpus: Corpus, asker: _Asker | None) -> list[Any]:
    """The refinement callback for ``refine.when=best|every_n``."""
    if asker is None or config.refine.when == "end":
        return []
    collector = PredictionCollector(corpus.by_id, corpus.label_set, corpus.score_range)

    def act(table: PredictionTable) -> RefineStats:
        stages.limit_table(table, config.refine.limit_dialogues)
        return asker.ask(table)

    return [LLMRefinement(act, collector, when=config.refine.when, every_n=config.refine.every_n)]


def _audit(runs: Path, run_name: str, config_hash: str) -> None:
    """Append to the record of every time the test split was read."""
    path = runs / "test_reads.jsonl"
    before = sum(1 for _ in path.open(encoding="utf-8")) if path.is_file() else 0
    entry = {"time": time.time(), "run": run_name, "config": config_hash, "reads_before": before}
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(entry) + "\n")
        out.flush()
        os.fsync(out.fileno())


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
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers
        logging.captureWarnings(False)
        handler.close()


def loaded(folder: Path) -> dict[str, Any]:
    """The result of a finished run."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a finished run: it has no metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))
