"""Weights & Biases: offline by default; online only where its server answers. Ids of turns, never their text."""

from __future__ import annotations

import csv
import logging
import netrc
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.metrics.methods import WEIGHTED
from lantern.report.terminal import sweep_lines
from lantern.results.columns import data
from lantern.results.summary import flat_summary
from lantern.tables import PredictionTable

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig, TrackingConfig

log = logging.getLogger(__name__)

PROBE_SECONDS = 5.0
STAGES = {"train": "training", "weighting": "weighting"}
"""Prefixes of metrics, and the folders in a run's where their curves stand."""
LATER = "written offline, send it later with: wandb sync"


def send_run(config: RunConfig, result: dict[str, Any], folder: Path) -> list[str]:
    """One W&B run: summary, training curves, tables. Returns notes for the user."""
    live = _live(folder)
    session, notes = (live, []) if live is not None else open_run(config, result["corpus"], folder)
    _curves(session, folder, [stage for stage in STAGES if live is None or stage != "train"])
    session.log(_tables(result, PredictionTable.load(folder / "predictions.test.parquet")))
    for key, value in flat_summary(result).items():
        session.summary[key] = value
    session.finish()
    return notes


def open_run(config: RunConfig, corpus: dict[str, Any], folder: Path) -> tuple[Any, list[str]]:
    """Start the W&B run of the run in *folder*; it goes on until :func:`send_run` ends it. Also what to tell the user.

    *corpus* holds ``name`` and ``label_set``.
    """
    import wandb

    from lantern.config.compose import to_plain

    if wandb.run is not None:
        wandb.run.finish(exit_code=1)  # of an earlier run in this process, which failed
    llm = config.llm.name if config.refine.enabled else "none"
    return _start(
        config,
        corpus,
        folder,
        config=to_plain(config),
        name=folder.name,
        job_type="evaluate",
        tags=[config.backbone["name"], llm, config.prompt.name],
    )


def _live(folder: Path) -> Any:
    """The W&B run that :func:`open_run` started in this process for *folder*; None if there is none."""
    import wandb

    run = wandb.run
    return run if run is not None and Path(run.settings.root_dir).resolve() == folder.resolve() else None


def send_sweep(
    config: RunConfig, results: Sequence[tuple[Sequence[str], dict[str, Any]]], folder: Path, name: str
) -> list[str]:
    """One W&B run for a whole sweep: a backbone × LLM table, a row per setting over its seeds.

    Args:
        config: of any run of the sweep; its project and group are taken.
        results: overrides and result of every run.
        folder: where offline files are put.
        name: of the sweep.
    """
    import wandb

    session, notes = _start(config, results[0][1]["corpus"], folder, config={}, name=name, job_type="sweep", tags=[])
    rows = [data(line) for line in sweep_lines(results)]
    table = wandb.Table(columns=list(rows[0]))
    for row in rows:
        table.add_data(*row.values())
    session.log({"sweep/backbone_by_llm": table})
    session.summary["sweep/runs"] = len(results)
    session.finish()
    return notes


def _start(run: RunConfig, corpus: dict[str, Any], folder: Path, **more: Any) -> tuple[Any, list[str]]:
    """A W&B session for *run*, and notes for the user; offline where the server does not let it in."""
    import wandb

    llm = run.llm.name if run.refine.enabled else "none"
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        init_timeout=30,
    )
    given = {
        "project": run.tracking.project or f"lantern-{corpus['name']}-{corpus['label_set']}",
        "group": run.tracking.group or f"{run.backbone['name']}__{llm}",
        "dir": folder,
        "settings": settings,
        **more,
    }
    online, notes = _mode(run.tracking)
    try:
        session = wandb.init(mode="online" if online else "offline", **given)
    except wandb.errors.Error as error:
        if not online:
            raise
        notes = [f"W&B: {str(error).splitlines()[0]}; {LATER}"]
        session = wandb.init(mode="offline", **given)
    for stage in STAGES:
        session.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
    return session, notes


def _curves(session: Any, folder: Path, stages: Iterable[str]) -> None:
    """What the *stages* logged, each over its own epochs."""
    for stage in stages:
        path = folder / STAGES[stage] / "metrics.csv"
        if not path.is_file():
            continue  # the vanilla model was trained by another run, or nothing was fitted
        epochs: dict[int, dict[str, float]] = {}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found = {key: float(value) for key, value in row.items() if value and key not in ("epoch", "step")}
                epochs.setdefault(int(row["epoch"]), {}).update(found)
        for epoch, values in sorted(epochs.items()):
            session.log(curve(stage, epoch, values))


def curve(stage: str, epoch: int, values: Mapping[str, float]) -> dict[str, float]:
    """A point of the curves of *stage*; the dev metrics of training become ``train/dev/*``."""
    return {f"{stage}/epoch": epoch, **{k.replace("val/", "train/dev/", 1): v for k, v in values.items()}}


def _tables(result: dict[str, Any], table: PredictionTable) -> dict[str, Any]:
    """Changed turns by id, confusion matrices, weights by source, reliability curves."""
    import wandb

    classes, methods = list(table.classes), result["test"]["methods"]
    changed = wandb.Table(columns=["dialogue", "utterance", "gold", "vanilla", "weighted", "effect"])
    if table.merged is not None:
        before, after = table.vanilla.argmax(axis=1), table.merged.argmax(axis=1)
        for n in np.flatnonzero(before != after):
            gold = table.labels[n]
            effect = "helped" if after[n] == gold else "harmed" if before[n] == gold else "changed"
            names = (None if gold < 0 else classes[gold], classes[before[n]], classes[after[n]])
            changed.add_data(table.dialogues[n], table.utterances[n], *names, effect)
    found = {"tables/changed": changed}
    for name in ("vanilla", WEIGHTED):
        if name not in methods:
            continue
        confusion = wandb.Table(columns=["gold", "predicted", "count"])
        for gold, counts in zip(classes, methods[name]["confusion"], strict=True):
            for predicted, count in zip(classes, counts, strict=True):
                confusion.add_data(gold, predicted, count)
        curve = wandb.Table(columns=["low", "high", "count", "confidence", "accuracy"])
        for one in methods[name]["reliability"]:
            curve.add_data(*(one[key] for key in curve.columns))
        found |= {f"tables/confusion_{name}": confusion, f"tables/reliability_{name}": curve}
    sources = ((result["weighting"] or {}).get("weights") or {}).get("sources", [])
    weights = wandb.Table(columns=["source", "mean"])
    for source in sources:
        weights.add_data(source["source"], source["mean"])
    return {**found, "tables/weights_by_band": weights}


def _mode(tracking: TrackingConfig) -> tuple[bool, list[str]]:
    """Whether to go online, and a note where the configuration says so and it cannot be."""
    if not tracking.online:
        return False, []
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    host = urllib.parse.urlsplit(url).hostname or url
    reason = None
    if not _has_key(host):
        reason = f"there is no key for {host} (wandb login)"
    elif not reachable(url):
        reason = f"{host} does not answer within {PROBE_SECONDS:.0f} s"
    if reason is None:
        return True, []
    return False, [f"W&B: {reason}; {LATER}"]


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether anything answers at *url* by HTTP within *seconds*, name look-up included; sends no key."""
    done, answers = threading.Event(), []

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # an answer all the same
        except (OSError, ValueError):
            pass
        done.set()

    threading.Thread(target=ask, daemon=True).start()  # a name look-up knows no time-out
    done.wait(seconds)
    return bool(answers)
