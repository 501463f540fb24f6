"""Makes a bundle and its page from finished run folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lantern.config.compose import read_config
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.overlaps import training_texts
from lantern.corpora.protocols.splits import resolve_split
from lantern.errors import UserError
from lantern.files import atomic, write_json
from lantern.metrics.slices import slice_parts
from lantern.pipeline.replay.bundle import FILE, RUNS, portable, published, seal
from lantern.pipeline.replay.page import PAGE, page_of
from lantern.results.comparison import Comparison
from lantern.results.folds import run_table
from lantern.results.load import Run
from lantern.results.texts import corpus_of
from lantern.tables import PredictionTable, columns

COMPUTED = ("test", "oof", "dev", "weighting", "folder")
"""Keys of a result that a replay computes anew; all others are facts."""
_OF_FOLDS = ("models", "test_model")
"""Facts among what a result says of its weighting."""
_PARTS = ("oof", "dev", "test")


def make_bundle(tables: Sequence[Comparison], folder: Path) -> None:
    """Write the bundle of the runs in *tables*, and the page beside it, into *folder*.

    What a page that is there says outside of its generated part stays. The corpora are read for their licence, and for
    the slices of the test utterances.

    Raises:
        UserError: a run is incomplete, a corpus is not there or not that of its run, or its licence forbids it.
    """
    runs = [run for table in tables for run in table.folders]
    corpora: dict[str, Corpus] = {}
    for run in runs:
        if run.result.get("incomplete") is not None:
            raise UserError(f"{run.folder} is incomplete; repeat its command before you publish it")
        key = str(run.result["corpus"].get("fingerprint"))
        corpora[key] = corpora.get(key) or _publishable(run)
    partial = folder.with_name(f"{folder.name}.partial{os.getpid()}")
    try:
        names = [_write_run(run, corpora[str(run.result["corpus"].get("fingerprint"))], partial / RUNS) for run in runs]
        seal(partial, names, published(tables))
        folder.mkdir(parents=True, exist_ok=True)
        page = page_of(tables, folder)
        shutil.rmtree(folder / RUNS, ignore_errors=True)
        for name in (RUNS, FILE):
            (partial / name).replace(folder / name)
        with atomic(folder / PAGE) as file:
            file.write_text(page, encoding="utf-8")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publishable(run: Run) -> Corpus:
    corpus = corpus_of(run)
    if corpus.redistribution == "forbidden":
        raise UserError(
            f"{run.folder}: the licence of {corpus.name} forbids passing it on, and a bundle would hold its labels and "
            "utterance ids; publish the table that compare --out writes. Your own corpus: import it with "
            "--redistribution allowed"
        )
    if corpus.fingerprint != run.result["corpus"].get("fingerprint"):
        where = run.config["corpus"].get("path") or "the generator's corpus"
        raise UserError(f"{run.folder}: {where} is not the corpus of the run any more; import it again as it was")
    return corpus


def _write_run(run: Run, corpus: Corpus, runs: Path) -> str:
    """Write what a replay of *run* needs into a folder in *runs*; returns its name."""
    config = read_config(run.folder / "config.yaml")
    numbers = {speaker: f"speaker {n:03}" for n, speaker in enumerate(_speakers(corpus), 1)}
    folder = runs / run.folder.name
    while folder.exists():
        folder = folder.with_name(f"{folder.name}-again")
    folder.mkdir(parents=True)
    splits = [split for split in _PARTS if (run.folder / f"predictions.{split}.parquet").is_file()]
    tables = {split: run_table(run.folder, split) for split in splits}
    if run.llm != "none" and config.weighting.fit_on not in tables:
        run_table(run.folder, config.weighting.fit_on)
    for split, table in tables.items():
        _without_names(table, numbers).save(folder / f"{split}.parquet")
    known = training_texts(corpus, resolve_split(corpus, config.protocol, config.seed))
    parts = slice_parts(tables["test"], corpus.by_id, known)
    if "speaker" in parts:
        parts["speaker"] = np.array([numbers.get(name, "") for name in parts["speaker"]], dtype=object)
    columns.write(folder / "slices.parquet", parts, {})
    write_json(folder / "facts.json", {**_facts(run, numbers), "score_range": corpus.score_range})
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(run.config), sort_keys=False), encoding="utf-8")
    curve = run.folder / "training" / "metrics.csv"
    if curve.is_file():
        shutil.copyfile(curve, folder / "training.csv")
    return folder.name


def _speakers(corpus: Corpus) -> list[str]:
    return list(dict.fromkeys(turn.speaker for turn in corpus.utterances))


def _without_names(table: PredictionTable, numbers: Mapping[str, str]) -> PredictionTable:
    """*table* with numbers for its speakers, and without what a replay computes anew."""
    speakers = np.array([numbers.get(name, "speaker") for name in table.speakers], dtype=object)
    return replace(table, speakers=speakers, weights=None, merged=None)


def _facts(run: Run, numbers: Mapping[str, str]) -> dict[str, Any]:
    facts = {key: value for key, value in run.result.items() if key not in COMPUTED}
    weighting = run.result.get("weighting")
    facts["weighting"] = None if weighting is None else {k: weighting[k] for k in _OF_FOLDS if k in weighting}
    protocol = dict(facts["protocol"])
    shared = protocol.get("same_speakers") or {}
    protocol["same_speakers"] = {part: [numbers.get(n, "speaker") for n in names] for part, names in shared.items()}
    if run.config.get("protocol", {}).get("dev_list") is not None:
        protocol["held_out"] = "the dialogues of a list"
    facts["protocol"] = protocol
    if facts.get("llm"):
        facts["llm"] = {**facts["llm"], "reason": ""}  # what a provider wrote may quote a turn
    return facts


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """*config*, that of a run, without folders, files and servers of the machine it was made on."""
    found: dict[str, Any] = portable(config)
    found["runs"] = "runs"
    found["corpus"] = {**found["corpus"], "path": None}
    elsewhere: dict[str, dict[str, Any]] = {
        "refine": {"ledger": None},
        "llm": {"api_base": None, "headers": {}, "trusted_hosts": []},
        "tracking": {"name": "none", "project": None, "group": None},
    }
    for section, gone in elsewhere.items():
        if section in found:
            found[section] = {**found[section], **gone}
    return found
