"""Where a case of a bad input works, how it is typed, and what must come of it."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli.console import command
from lantern.corpora.feature_files import sha256_of
from lantern.tables import PredictionTable

DEEP = "[" * 100_000
"""JSON so far, and deeper than Python reads."""
Prepare = Callable[["Place"], Any]
Case = tuple[Any, ...]
"""Name, what prepares it, and the words that the line must hold."""


def tiny(at: Path, *more: str) -> list[str]:
    """Arguments of a run of a second, all of it under *at*."""
    small = ["corpus.dialogues=15", "trainer.epochs=1", "weighting.epochs=1"]
    small += ["weighting.fit_on=dev", "weighting.guard=false", f"runs={at}/runs"]
    return ["backbone=gru", "llm=simulated", *small, *more]


def cases(*tables: list[Case]) -> pytest.MarkDecorator:
    """Parameters ``prepare`` and ``told`` for the rows of *tables*."""
    rows = [row for table in tables for row in table]
    return pytest.mark.parametrize(("prepare", "told"), [(r[1], r[2:]) for r in rows], ids=[r[0] for r in rows])


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of its own with copies of a corpus folder and of a finished run to damage."""

    at: Path
    made: Path
    capsys: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def call(self, *arguments: object) -> tuple[Any, str, str]:
        """Exit code, stdout and stderr of ``python -m experiments.<first argument>`` with the others."""
        self.patch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as stop:
            command(importlib.import_module(f"experiments.{arguments[0]}").main)
        out, err = self.capsys.readouterr()
        return stop.value.code, out.removeprefix("reading settings\n"), err

    def refused(self, arguments: list[Any], told: tuple[str, ...]) -> None:
        """The command is refused in one line before it prints or writes anything."""
        before = set(self.at.rglob("*"))
        code, out, err = self.call(*arguments)
        check(code, err, told)
        assert out == ""
        left = [path for path in self.at.rglob("*") if path not in before]
        # SQLite's own, and the lock of a corpus folder.
        assert [path for path in left if ".sqlite-" not in path.name and path.name != ".lock"] == []

    def file(self, name: str, content: str | bytes = "") -> Path:
        """A file of that content."""
        path = self.at / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def folder(self, name: str = "folder") -> Path:
        """An empty folder."""
        (self.at / name).mkdir()
        return self.at / name

    def loop(self) -> Path:
        """A link to itself."""
        path = self.at / "loop"
        path.symlink_to(path)
        return path

    def array(self, name: str, values: Any) -> Path:
        """A NumPy file."""
        np.save(self.at / name, values, allow_pickle=True)
        return self.at / name

    def corpus(self, file: str = "", content: str | None = None, **header: Any) -> Path:
        """A corpus folder of which one *file* is gone or has another *content*, or the header other values."""
        folder = shutil.copytree(self.made / "corpus", self.at / "corpus")
        return damaged(folder, file, content, {}) if file else _changed(folder, "corpus.json", header)

    def manifest(self, content: bytes | None = None, **record: Any) -> Path:
        """A corpus folder with another manifest, or another first utterance, of the right check sum."""
        folder = shutil.copytree(self.made / "corpus", self.at / "corpus")
        path = folder / "manifest.jsonl"
        first, _, rest = path.read_bytes().partition(b"\n")
        changed = json.dumps({**json.loads(first), **record}).encode() + b"\n" + rest
        path.write_bytes(changed if content is None else content)
        return _changed(folder, "corpus.json", {"manifest_sha256": sha256_of(path.read_bytes())})

    def runs(self) -> Path:
        """A folder with one finished run, its stages and its ledger."""
        return shutil.copytree(self.made / "runs", self.at / "runs")

    def run(self, file: str = "", content: str | bytes | None = None, **values: Any) -> Path:
        """The folder of a finished run of which one *file* is gone, has another *content* or other *values*."""
        (folder,) = (path.parent for path in self.runs().glob("*/metrics.json"))
        return damaged(folder, file, content, values) if file else folder

    def predictions(self, change: Callable[[PredictionTable], PredictionTable]) -> Path:
        """The folder of a finished run whose test predictions are changed."""
        folder = self.run()
        path = folder / "predictions.test.parquet"
        change(PredictionTable.load(path)).save(path)
        return folder

    def cut_off(self) -> Path:
        """The folder of a finished run whose test predictions end too early."""
        folder = self.run()
        path = folder / "predictions.test.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        return folder

    def labels(self, first: str) -> Path:
        """The folder of a finished run whose *first* test label is another one."""
        folder = self.run()
        path = folder / "predictions.test.parquet"
        file = pq.read_table(path)
        at = file.column_names.index("label")
        labels = pa.array([first, *file["label"].to_pylist()[1:]])
        pq.write_table(file.set_column(at, "label", labels), path)
        return folder

    def stage(self, file: str, content: str | bytes) -> list[str]:
        """The arguments of a run whose stage folder has a damaged *file* (a pattern)."""
        (path,) = self.runs().glob(f"stages/train/*/{file}")
        damaged(path.parent, path.name, content, {})
        for result in self.at.glob("runs/*/metrics.json"):
            result.unlink()  # a finished run would be shown, and its stages left alone
        return tiny(self.at)


def check(code: Any, err: str, told: tuple[str, ...]) -> None:
    """One line on stderr that holds all that is to be *told*, and exit code 2."""
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert [words for words in told if words not in err] == [], err


def _changed(folder: Path, file: str, values: dict[str, Any]) -> Path:
    record = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**record, **values}))
    return folder


def damaged(folder: Path, file: str, content: str | bytes | None, values: dict[str, Any]) -> Path:
    """*folder*, of which *file* has other *values* or another *content*, or is gone."""
    if values:
        return _changed(folder, file, values)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
