"""Weights & Biases: offline by default; online only where its server answers. Ids of turns, never their text."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import netrc
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.errors import UserError
from lantern.files import digest
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
FLUSH_SECONDS = 0.5
"""W&B holds data back so long before it is in a file; a killed process loses what is held back."""
SENT, ONLINE, OFFLINE = "wandb/sent", "online", "offline"
"""A file in the run folder that says where its result has been sent."""
LATER = "written offline, send it later with: wandb sync"


class WandbRun:
    """The W&B run of a run folder, open until :meth:`send` or :meth:`end`. A W&B that breaks off stops nothing.

    Its id follows from the folder's name. What is written again replaces what was there, and what an interrupted
    process had written is continued.
    """

    def __init__(self, config: RunConfig, corpus: Mapping[str, Any], folder: Path, note: Callable[[str], None]) -> None:
        """Open it; *corpus* holds ``name`` and ``label_set``, *note* gets what the user should know."""
        from lantern.config.compose import to_plain

        self._folder, self._note = folder, note
        llm = config.llm.name if config.refine.enabled else "none"
        tags = [config.backbone["name"], llm, config.prompt.name]
        given = {"config": to_plain(config), "job_type": "evaluate", "tags": tags}
        self._run, notes = _start(config, corpus, folder, **given)
        for line in notes:
            note(line)
        # Online the run may be there already.
        self._last = {stage: int(self._run.summary.get(f"{stage}/epoch", -1)) for stage in STAGES}
        self._goes_on = False

    def point(self, stage: str, epoch: int, values: Mapping[str, float], whole: bool = True) -> None:
        """Add to the curves of *stage*, unless they have this epoch; *whole*: no more values of it will come.

        The dev metrics of training become ``train/dev/*``.
        """
        if self._run is not None:
            with self._harmless():
                if not self._goes_on:  # what an interrupted process had trained, and is not trained again
                    self._replay(stage, before=epoch)
                    _forget_others(self._run)
                    self._goes_on = True
                self._point(stage, epoch, values, whole)

    def send(self, result: dict[str, Any]) -> None:
        """Complete it: curves, charts, tables, summary, and the page and the predictions as an artifact."""
        if self._run is None:
            return
        with self._harmless():
            for stage in STAGES:
                self._replay(stage)
            table = PredictionTable.load(self._folder / "predictions.test.parquet")
            self._run.log({**_charts(result), **_tables(result, table)})
            for key, value in flat_summary(result).items():
                self._run.summary[key] = value
            self._run.log_artifact(_artifact(self._folder))
            self._run.finish()
            _forget_others(self._run)
            state = OFFLINE if self._run.settings.mode == "offline" else ONLINE
            (self._folder / SENT).write_text(state, encoding="utf-8")
            self._run = None

    def end(self) -> None:
        """Close it as failed, unless it is complete."""
        if self._run is not None:
            with self._harmless():
                self._replay("train")
                self._run.finish(exit_code=1)
                _forget_others(self._run)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # W&B raises what it likes where its own process has ended
            self._run = None
            log.warning("W&B broke off", exc_info=error)
            self._note(f"W&B broke off ({type(error).__name__}); repeat the command to write its run again")

    def _replay(self, stage: str, before: float = math.inf) -> None:
        """The epochs *before* one that the run folder holds of *stage*, those that are missing here."""
        path = self._folder / STAGES[stage] / "metrics.csv"
        if not path.is_file():
            return  # the vanilla model was trained by another run, or nothing was fitted
        epochs: dict[int, dict[str, float]] = {}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found = {key: float(value) for key, value in row.items() if value and key not in ("epoch", "step")}
                epochs.setdefault(int(row["epoch"]), {}).update(found)
        for epoch, values in sorted(epochs.items()):
            if epoch < before:
                self._point(stage, epoch, values)

    def _point(self, stage: str, epoch: int, values: Mapping[str, float], whole: bool = True) -> None:
        if epoch > self._last[stage]:
            named = {k.replace("val/", "train/dev/", 1): v for k, v in values.items()}
            self._run.log({f"{stage}/epoch": epoch, **named}, commit=whole)
            if whole:
                self._last[stage] = epoch


def is_sent(tracking: TrackingConfig, folder: Path) -> bool:
    """Whether W&B has the result in *folder*, on its server if *tracking* wants that."""
    try:
        newer = (folder / SENT).stat().st_mtime >= (folder / "metrics.json").stat().st_mtime
        return newer and (folder / SENT).read_text(encoding="utf-8") in (ONLINE, ONLINE if tracking.online else OFFLINE)
    except OSError:
        return False


def send_sweep(config: RunConfig, results: Sequence[tuple[Sequence[str], dict[str, Any]]], folder: Path) -> list[str]:
    """One W&B run for a whole sweep: a backbone × LLM table, a row per setting over its seeds.

    Args:
        config: of any run of the sweep; its project and group are taken.
        results: overrides and result of every run.
        folder: the sweep's; its name is that of the W&B run.
    """
    import wandb

    session, notes = _start(config, results[0][1]["corpus"], folder, config={}, job_type="sweep", tags=[])
    _forget_others(session)
    rows = [data(line) for line in sweep_lines(results)]
    table = wandb.Table(columns=list(rows[0]))
    for row in rows:
        table.add_data(*row.values())
    session.log({"sweep/backbone_by_llm": table})
    session.summary["sweep/runs"] = len(results)
    session.finish()
    return notes


def _start(run: RunConfig, corpus: Mapping[str, Any], folder: Path, **more: Any) -> tuple[Any, list[str]]:
    """A W&B session named after *folder*, and notes for the user; offline where the server does not let it in."""
    import wandb

    llm = run.llm.name if run.refine.enabled else "none"
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,  # it would record the remote, whose address may hold a password
        git_commit=_commit(),
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=not run.tracking.system,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
        init_timeout=30,
        reinit="create_new",  # a run of the user's own in this process stays open
    )
    given = {
        "project": run.tracking.project or f"lantern-{corpus['name']}-{corpus['label_set']}",
        "group": run.tracking.group or f"{run.backbone['name']}__{llm}",
        "id": digest(folder.name),
        "name": folder.name,
        "dir": folder,
        "settings": settings,
        **more,
    }
    online, notes = _mode(run.tracking)
    try:
        # Offline nothing can be resumed: all is written again.
        session = wandb.init(mode="online" if online else "offline", resume="allow" if online else None, **given)
    except Exception as error:  # noqa: BLE001  W&B raises what it likes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if not online:
            raise UserError(f"tracking=wandb: W&B does not start ({reason}); take tracking=none") from None
        notes = [f"W&B: {reason}; {LATER}"]
        wandb.teardown()  # its process holds the id of a run that it could not open
        os.environ.pop("WANDB_SERVICE", None)  # so does one that a parent process has started
        session = wandb.init(mode="offline", **given)
    for stage in STAGES:
        session.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
    return session, notes


def _forget_others(session: Any) -> None:
    """Remove what earlier processes left of the same W&B run: `wandb sync` is to find it once.

    To be called when *session* has what they had.
    """
    own = Path(session.dir).parent
    for other in own.parent.glob(f"*run-*-{session.id}*"):
        if other.name != own.name:
            shutil.rmtree(other, ignore_errors=True)


def _commit() -> str | None:
    """The git commit of the working directory, if there is one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _artifact(folder: Path) -> Any:
    """The page of the run in *folder*, with no more text than its licence allows, and the predictions."""
    import wandb

    from lantern.report.html import write_report
    from lantern.results.comparison import compare_runs
    from lantern.results.load import read_run

    write_report(compare_runs([read_run(folder)]), folder / "report.html")
    artifact = wandb.Artifact(f"run-{digest(folder.name)}", type="result")
    for path in (folder / "report.html", *sorted(folder.glob("predictions.*.parquet"))):
        artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)  # not copied to the home folder
    return artifact


def _charts(result: dict[str, Any]) -> dict[str, Any]:
    """W&B's own charts of the vanilla and the weighted predictions: confusion, reliability and F1 by class."""
    import wandb

    found: dict[str, Any] = {}
    methods = {name: report for name, report in result["test"]["methods"].items() if name in ("vanilla", WEIGHTED)}
    curves = wandb.Table(columns=["method", "confidence", "accuracy", "count"])
    for confidence in (0.0, 1.0):
        curves.add_data("calibrated", confidence, confidence, None)
    for name, report in methods.items():
        confusion = wandb.Table(columns=["Actual", "Predicted", "nPredictions"])
        for gold, counts in zip(report["per_class"], report["confusion"], strict=True):
            for predicted, count in zip(report["per_class"], counts, strict=True):
                confusion.add_data(gold, predicted, count)
        fields = {str(column): column for column in confusion.columns}
        texts = {"title": f"{name}: confusion"}
        found[f"charts/confusion_{name}"] = wandb.plot_table("wandb/confusion_matrix/v1", confusion, fields, texts)
        scores = wandb.Table(columns=["class", "F1"], data=[[c, one["f1"]] for c, one in report["per_class"].items()])
        found[f"charts/f1_{name}"] = wandb.plot.bar(scores, "class", "F1", title=f"{name}: F1 by class")
        for one in report["reliability"]:
            if one["count"]:
                curves.add_data(name, one["confidence"], one["accuracy"], one["count"])
    title = "reliability: accuracy by confidence"
    found["charts/reliability"] = wandb.plot.line(curves, "confidence", "accuracy", stroke="method", title=title)
    return found


def _tables(result: dict[str, Any], table: PredictionTable) -> dict[str, Any]:
    """Changed turns by id, and the mean weight of each source."""
    import wandb

    classes = list(table.classes)
    changed = wandb.Table(columns=["dialogue", "utterance", "gold", "vanilla", "weighted", "effect"])
    if table.merged is not None:
        before, after = table.vanilla.argmax(axis=1), table.merged.argmax(axis=1)
        for n in np.flatnonzero(before != after):
            gold = table.labels[n]
            effect = "helped" if after[n] == gold else "harmed" if before[n] == gold else "changed"
            names = (None if gold < 0 else classes[gold], classes[before[n]], classes[after[n]])
            changed.add_data(table.dialogues[n], table.utterances[n], *names, effect)
    sources = ((result["weighting"] or {}).get("weights") or {}).get("sources", [])
    weights = wandb.Table(columns=["source", "mean"])
    for source in sources:
        weights.add_data(source["source"], source["mean"])
    return {"tables/changed": changed, "tables/weights_by_band": weights}


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
