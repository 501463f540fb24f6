"""Finished runs read from their folders. Neither torch nor the corpus is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lantern.errors import UserError
from lantern.files import COUNT, NUMBER, TEXT, Absent, Each, Maybe, OrNull, misfit, read_json
from lantern.results.folds import run_table
from lantern.results.sweep import MANIFEST, read_sweep
from lantern.tables import PredictionTable, concatenate

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, repr=False)
class Run:
    """One finished run."""

    folder: Path
    result: dict[str, Any]
    """What ``metrics.json`` holds; its ``folder`` is where the run lies now, not where it was made."""
    config: dict[str, Any]
    """What ``config.yaml`` holds; of pooled folds, that of the first."""
    parts: tuple[Run, ...] = ()
    """The runs of the folds that were pooled into this one; empty for a run as it is."""

    def __repr__(self) -> str:
        return f"Run({self.result['title']}, seed {self.seed}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        from lantern.results.columns import METRICS, SHORT, as_html
        from lantern.results.verdict import run_verdict

        answer, reports = run_verdict(self.result), self.result["test"]["methods"]
        shown = [metric for metric in METRICS if metric in reports["vanilla"]]
        rows = [[name, *(f"{report[metric]:.3f}" for metric in shown)] for name, report in reports.items()]
        heads = ["test split", *(SHORT.get(metric, metric) for metric in shown)]
        return as_html(repr(self), [] if answer is None else [answer], heads, rows)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.result["seed"])

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.config["backbone"]["name"])

    @property
    def llm(self) -> str:
        """Name of the LLM, ``none`` for a run without one."""
        return str(self.result["llm"]["name"]) if self.result.get("llm") else "none"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings that distinguish runs, flat. Excludes the seed, paths and speed settings."""
        found = dict(_leaves({k: v for k, v in self.config.items() if k not in _IGNORED}))
        for key in _IGNORED_LEAVES:
            found.pop(key, None)
        found["prompt.digest"] = (self.result.get("prompt") or {}).get("digest")
        if self.llm == "none":
            found = {k: v for k, v in found.items() if not k.startswith(("llm.", "prompt.", "refine.", "weighting."))}
        return {k: _short(v) for k, v in found.items()}

    def table(self, split: str = "test") -> PredictionTable:
        """The table of *split* (also ``oof`` or ``dev``), read anew at each call: many would fill the memory."""
        return concatenate([run_table(run.folder, split) for run in self.parts or (self,)], split)


_NUMBERS = ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "brier", "ece")
_METHOD = {
    **dict.fromkeys(_NUMBERS, NUMBER),
    "per_class": Absent(Each({"f1": NUMBER, "support": COUNT})),
    "confusion": Absent([[COUNT]]),
    "reliability": Absent([{"count": COUNT, "confidence": OrNull(NUMBER), "accuracy": OrNull(NUMBER)}]),
}
_ENDS = {"difference": NUMBER, "low": NUMBER, "high": NUMBER, "p_value": NUMBER}
_EFFECT = {
    "replies": Maybe(COUNT),
    "scored": Maybe(COUNT),
    "helpful": COUNT,
    "harmful": COUNT,
    "neutral": COUNT,
    "copy_rate": Maybe(NUMBER),
}
_PART_ACCURACY = {"vanilla": NUMBER, "weighted": OrNull(NUMBER), "difference": OrNull(NUMBER)}
_SLICE = {
    "slice": TEXT,
    "parts": [
        {
            "part": TEXT,
            "labelled": COUNT,
            "accuracy": {**_PART_ACCURACY, "low": OrNull(NUMBER), "high": OrNull(NUMBER)},
        }
    ],
}
_SHAPE = {
    "title": TEXT,
    "seed": COUNT,
    "backbone": TEXT,
    "time": Maybe(TEXT),
    "versions": Maybe(Each(TEXT)),
    "machine": Maybe({}),
    "corpus": {"name": TEXT, "label_set": TEXT, "fingerprint": Maybe(TEXT)},
    "protocol": {
        "name": TEXT,
        "selection": Maybe(TEXT),
        **dict.fromkeys(("train", "dev", "test", "twins", "test_reads_before"), Absent(COUNT)),
        "fold": Maybe(COUNT),
        "labelled": Absent({"train": Absent(COUNT), "dev": Absent(COUNT), "test": COUNT}),
        "sessions": Maybe(Each([TEXT])),
        "same_speakers": Maybe(Each([TEXT])),
    },
    "prompt": Maybe({"name": Maybe(TEXT), "digest": Maybe(TEXT)}),
    "llm": Maybe(
        {
            "name": TEXT,
            "model": Maybe(TEXT),
            **dict.fromkeys(("fields", "prompts", "calls", "repaired", "failed_fields"), Absent(COUNT)),
            **dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens"), Absent(COUNT)),
            "failures": Absent(Each(COUNT)),
            "seconds": Maybe(NUMBER),
            "cost": Maybe(NUMBER),
        }
    ),
    "weighting": Maybe(
        {
            "name": TEXT,
            "choice": Maybe(TEXT),
            "fit_on": Maybe(TEXT),
            "weights": Maybe({"sources": [{"source": TEXT, "mean": NUMBER}]}),
        }
    ),
    "test": {
        **dict.fromkeys(("rows", "labelled", "dialogues", "coverage"), Absent(COUNT)),
        "methods": Each(_METHOD),
        "against_vanilla": Maybe(Each({"accuracy": _ENDS, "weighted_f1": _ENDS, "holm": Maybe(NUMBER)})),
        "dimensions": Maybe(Each({"ccc": Maybe(NUMBER)})),
        "llm": Maybe({"merged": Maybe(_EFFECT), "lengths": Maybe([{"length": COUNT, **_EFFECT}])}),
        "slices": Maybe([_SLICE]),
        "possible": Maybe({"accuracy": NUMBER}),
        "intervals": Maybe(Each({"low": NUMBER, "high": NUMBER})),
    },
    "vanilla": Maybe({"best_epoch": Absent(COUNT)}),
    "notes": Maybe([TEXT]),
}
"""What is read of ``metrics.json``."""
_CONFIG = {
    "backbone": {"name": TEXT},
    "corpus": Maybe(
        {
            "name": Maybe(TEXT),
            "path": Maybe(TEXT),
            "seed": Absent(COUNT),
            "dialogues": Absent(COUNT),
            "limit_dialogues": Maybe(COUNT),
        }
    ),
    "llm": Maybe({}),
    "protocol": Maybe({}),
}
_MOST_SETTINGS = 10_000
_IGNORED = ("seed", "runs", "tracking", "variants", "study")
_IGNORED_LEAVES = ("corpus.path", "trainer.threads", "trainer.workers", "refine.ledger", "refine.max_cost")


@dataclass(frozen=True, slots=True)
class Found:
    """Runs, and why other folders beside them were left out."""

    runs: list[Run]
    skipped: list[str] = field(default_factory=list)
    """One line for each."""


def find_runs(paths: Sequence[Path]) -> Found:
    """The runs in *paths*: run folders, folders of run folders (``runs``), or sweeps (``runs/sweeps/<id>``).

    Runs that are unfinished or damaged are skipped with a line each, as long as any is left.

    Raises:
        UserError: a path is missing, or none holds a finished run.
    """
    runs: dict[Path, Run] = {}
    skipped: list[str] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; name run folders or a folder of them")
        if _is_run(path):
            try:
                runs.setdefault(path.resolve(), _whole(path))
            except UserError as error:
                if len(paths) == 1:
                    raise
                skipped.append(f"skipped: {error}")
            continue
        if (path / MANIFEST).is_file():
            children = [trial.folder for trial in read_sweep(path).trials]
        else:
            children = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_run(child)]
        before = len(runs)
        for child in children:
            try:
                runs.setdefault(child.resolve(), _whole(child))
            except UserError as error:
                skipped.append(f"skipped: {error}")
        if len(runs) == before and not any(child.resolve() in runs for child in children):
            reason = f"; {skipped[-1].removeprefix('skipped: ')}" if children else ""
            raise UserError(f"{path} holds no finished run{reason}")
    if not runs:
        raise UserError(skipped[-1].removeprefix("skipped: ") if skipped else "no run folder is named")
    kept: dict[str, Run] = {}
    for run in sorted(runs.values(), key=lambda run: str(run.result.get("time", "")), reverse=True):
        corpus = run.result["corpus"]
        key = json.dumps([run.identity, run.seed, corpus.get("fingerprint"), corpus["label_set"]], sort_keys=True)
        if key in kept:
            skipped.append(f"skipped: {run.folder} is an older copy of {kept[key].folder}: same settings, same seed")
        else:
            kept[key] = run
    return Found(sorted(kept.values(), key=lambda run: (run.folder.name, run.seed)), skipped)


def _whole(folder: Path) -> Run:
    """The run in *folder*, whose test predictions can be read as well."""
    run = read_run(folder)
    table = run_table(folder, "test", count=run.result["test"].get("rows"))
    if any(list(report.get("per_class") or table.classes) != list(table.classes) for report in _reports(run)):
        raise UserError(f"{folder}: metrics.json and the predictions speak of other classes; run it again")
    return run


def _reports(run: Run) -> list[dict[str, Any]]:
    return list(run.result["test"]["methods"].values())


def read_run(folder: Path) -> Run:
    """The run in *folder*.

    Raises:
        UserError: it is unfinished, damaged, or not the folder of a run that this Lantern can read.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a finished run: it has no metrics.json; type its command again to finish it")
    for name in ("config.yaml", "predictions.test.parquet"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has a metrics.json but no {name}: not a run folder of this Lantern")
    result = read_json(path)
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    wrong = misfit(result, _SHAPE) or _other(result)
    if wrong is not None:
        raise UserError(f"{path}: {wrong}; written by something else or by an older Lantern: run it again")
    wrong = misfit(config, _CONFIG) or _settings(config)
    if wrong is not None:
        raise UserError(f"{folder / 'config.yaml'}: {wrong}; it is not the configuration of a run")
    return Run(folder, {**result, "folder": str(folder)}, config)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "metrics.json").is_file()


def _other(result: dict[str, Any]) -> str | None:
    """What no shape says: the vanilla model has a report, and the reports speak of the same classes."""
    reports = result["test"]["methods"]
    if "vanilla" not in reports:
        return "no test.methods.vanilla"
    classes = list(reports["vanilla"].get("per_class") or {})
    for name, report in reports.items():
        if list(report.get("per_class") or {}) != classes:
            return f"test.methods.{name}.per_class names other classes than vanilla"
        rows = report.get("confusion")
        if rows is not None and any(len(row) != len(rows) for row in rows):
            return f"test.methods.{name}.confusion is not square"
        bins = report.get("reliability") or ()
        if any(one["count"] and None in (one.get("confidence"), one.get("accuracy")) for one in bins):
            return f"test.methods.{name}.reliability counts turns without their confidence"
    return None


def _settings(config: dict[str, Any]) -> str | None:
    """What is wrong with *config* as settings: texts, numbers and lists by name, and not without end."""
    left = [config]
    for _ in range(_MOST_SETTINGS):
        if not left:
            return None
        node: Any = left.pop()
        if isinstance(node, dict):
            if not all(isinstance(key, str | int) for key in node):
                return "a key is neither a text nor a whole number"
            left += node.values()
        elif isinstance(node, list):
            left += node
        elif node is not None and not isinstance(node, str | int | float):
            return f"{node!r:.60} is not a setting"
    return f"more than {_MOST_SETTINGS:,} settings"


def _leaves(node: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in node.items():
        name = f"{path}{key}"
        found += _leaves(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return found


def _short(value: Any) -> Any:
    """*value*, or the digest of a long text: settings are shown side by side."""
    if isinstance(value, str) and len(value) > 60:
        from lantern.files import digest

        return digest(value)[:8]
    return json.dumps(value) if isinstance(value, list) else value
