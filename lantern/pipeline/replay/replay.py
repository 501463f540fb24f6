"""Computes the results of a bundle anew: weighting, merges, every number; without a corpus, an LLM or a network."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from lantern.config.compose import read_config
from lantern.environment import SPAWN, cores, serve_parent
from lantern.errors import UserError
from lantern.files import NUMBER, OrNull, misfit, read_json, write_json
from lantern.pipeline.evaluate import measure
from lantern.pipeline.replay.bundle import Bundle, Check, check, published
from lantern.pipeline.replay.page import PAGE, table_text
from lantern.results.comparison import Comparison, compare_runs
from lantern.results.load import find_runs
from lantern.tables import PredictionTable, columns

MARK = "replayed.json"
"""In a folder of replayed runs: such a folder may be written again, another one not."""

RUNS_EACH = 4
"""Runs that a process does at least: its start takes seconds."""


def replay(bundle: Bundle, out: Path, progress: Callable[[str], None] | None = None) -> list[Comparison]:
    """Write a run folder into *out* for every run of *bundle*, and return their tables.

    *progress* is called with a line for every run. Many runs are shared among the cores of this process.

    Raises:
        UserError: *out* holds something else, or a run of the bundle cannot be read by this Lantern.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file())):
        raise UserError(f"--out={out} holds something else than replayed runs; name another folder")
    write_json(out / MARK, {"bundle": bundle.digest})
    folders = [out / source.name for source in bundle.runs]
    workers = min(cores(), len(folders) // RUNS_EACH)
    with contextlib.ExitStack() as stack:
        done: Iterable[None] = map(_replay_run, bundle.runs, folders)
        if workers > 1:
            pool = ProcessPoolExecutor(workers, SPAWN, serve_parent)
            done = stack.enter_context(pool).map(_replay_run, bundle.runs, folders)
        for number, (source, _) in enumerate(zip(bundle.runs, done, strict=True), 1):
            if progress is not None:
                progress(f"{number}/{len(folders)}  {source.name}")
    return compare_runs(find_runs(folders).runs)


def checked(bundle: Bundle, tables: list[Comparison]) -> Check:
    """Replayed *tables* against the numbers and the page that are published."""
    found = check(bundle.tables, published(tables))
    page = bundle.folder / PAGE
    if not found.differing and page.is_file() and table_text(tables) not in page.read_text(encoding="utf-8"):
        found.differing.append(f"{page} shows another table than {bundle.folder / 'bundle.json'}")
    return found


def _replay_run(source: Path, folder: Path) -> None:
    logging.getLogger("lantern.weighting").setLevel(logging.ERROR)  # the results say what the guard chose
    facts: dict[str, Any] = read_json(source / "facts.json")
    wrong = misfit(facts, {"score_range": OrNull([NUMBER]), "corpus": {}, "protocol": {}})
    if wrong is not None:
        raise UserError(f"{source / 'facts.json'}: {wrong}")
    config = read_config(source / "config.yaml")
    ends = facts.pop("score_range")
    tables = {
        path.stem: PredictionTable.load(path)
        for split in ("oof", "dev", "test")
        if (path := source / f"{split}.parquet").is_file()
    }
    parts, _ = columns.read(source / "slices.parquet", lambda name: True)
    tables, numbers = measure(config, tables, parts, None if ends is None else (ends[0], ends[1]), folder)
    if numbers["weighting"] is not None:
        numbers["weighting"] |= facts.get("weighting") or {}
    for split, table in tables.items():
        table.save(folder / f"predictions.{split}.parquet")
    shutil.copyfile(source / "config.yaml", folder / "config.yaml")
    if (source / "training.csv").is_file():
        (folder / "training").mkdir(exist_ok=True)
        shutil.copyfile(source / "training.csv", folder / "training" / "metrics.csv")
    write_json(folder / "metrics.json", {**facts, **numbers, "folder": str(folder)})
