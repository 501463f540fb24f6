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


_NEEDED: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "seed": int,
    "corpus.name": str,
    "corpus.label_set": str,
    "protocol.name": str,
    "test.methods.vanilla.accuracy": (int, float),
    "test.methods.vanilla.weighted_f1": (int, float),
}
_IGNORED = ("seed", "runs", "tracking", "variants", "study")
_IGNORED_LEAVES = ("corpus.path", "trainer.threads", "refine.ledger", "refine.max_cost")


@dataclass(frozen=True, slots=True)
class Found:
    """Runs, and why other folders beside them were left out."""

    runs: list[Run]
    skipped: list[str] = field(default_factory=list)
    """One line for each."""


def find_runs(paths: Sequence[Path]) -> Found:
    """The runs in *paths*: run folders, folders of run folders (``runs``), or sweeps (``runs/sweeps/<id>``).

    A folder of runs may hold unfinished ones: they are skipped with a line. One that is named itself must be whole.

    Raises:
        UserError: a path is missing, is not a finished run, or holds none.
    """
    runs: dict[Path, Run] = {}
    skipped: list[str] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; name run folders or a folder of them")
        if _is_run(path):
            runs.setdefault(path.resolve(), read_run(path))
            continue
        if (path / MANIFEST).is_file():
            children = [trial.folder for trial in read_sweep(path).trials]
        else:
            children = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_run(child)]
        before = len(runs)
        for child in children:
            try:
                runs.setdefault(child.resolve(), read_run(child))
            except UserError as error:
                skipped.append(f"skipped: {error}")
        if len(runs) == before and not any(child.resolve() in runs for child in children):
            reason = f"; {skipped[-1].removeprefix('skipped: ')}" if children else ""
            raise UserError(f"{path} holds no finished run{reason}")
    kept: dict[str, Run] = {}
    for run in sorted(runs.values(), key=lambda run: str(run.result.get("time", "")), reverse=True):
        corpus = run.result["corpus"]
        key = json.dumps([run.identity, run.seed, corpus.get("fingerprint"), corpus["label_set"]], sort_keys=True)
        if key in kept:
            skipped.append(f"skipped: {run.folder} is an older copy of {kept[key].folder}: same settings, same seed")
        else:
            kept[key] = run
    return Found(sorted(kept.values(), key=lambda run: (run.folder.name, run.seed)), skipped)


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
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: cannot be read ({' '.join(str(error).split())})") from None
    for key, kind in _NEEDED.items():
        if _at(result, key) is None:
            raise UserError(f"{path}: no {key}; written by something else or by an older Lantern: run it again")
        if not isinstance(_at(result, key), kind):
            raise UserError(f"{path}: {key} is {_at(result, key)!r}; written by something else: run it again")
    for key in ("llm", "prompt", "weighting", "versions"):
        if not isinstance(result.get(key) or {}, dict) or (key == "llm" and result[key] and "name" not in result[key]):
            raise UserError(f"{path}: {key} is {result[key]!r}; written by something else: run it again")
    if _at(config, "backbone.name") is None:
        raise UserError(f"{folder / 'config.yaml'}: no backbone.name; it is not the configuration of a run")
    return Run(folder, {**result, "folder": str(folder)}, config)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "metrics.json").is_file()


def _at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


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
