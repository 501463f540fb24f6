"""Run folders and checkpoints that somebody damaged: ``python -m benchmarks.fuzz_folders [mutations] [seed]``.

First each key of a finished run's settings and results is taken away once, and once made null. Then each mutation
changes one of its files (another type, a key less, a file cut off, other bytes) or a file of weights, and gives it to
what reads it. A refusal (UserError, WeightsError) or a result is right; any other exception is printed with the
mutation that led to it. Ends with the counts and the peak memory; exit code 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from lantern.errors import UserError

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**40, 1.5, -2.5, 1e308, "", "x", "gl[/]ad", "\x1b[31m", "=1+1", "\ud800"),
    *([], [1], ["a"], {}, {"a": 1}, [[]], [{"a": None}], "../x", "${oc.env:HOME}", float("nan")),
)
CHECKPOINT = "checkpoints/best.ckpt"
READERS: dict[str, Callable[[Path], object]] = {}


def reader(name: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Register a reader of a run folder."""

    def register(function: Callable[[Path], object]) -> Callable[[Path], object]:
        READERS[name] = function
        return function

    return register


@reader("compare")
def _compare(folder: Path) -> None:
    from lantern.report.html import report_html
    from lantern.report.text_tables import to_csv, to_latex, to_markdown
    from lantern.results.comparison import compare_runs
    from lantern.results.load import find_runs

    found = find_runs([folder])
    tables = compare_runs(found.runs)
    report_html(tables, found.skipped, with_text=False)
    for write in (to_csv, to_latex, to_markdown):
        write(tables)


@reader("status")
def _status(folder: Path) -> None:
    from experiments.cli.console import screen
    from experiments.cli.sweeps import results_of, state_table
    from lantern.report.terminal import print_sweep
    from lantern.results.sweep import Sweep, Trial, read_sweep

    console = screen()
    console.file = io.StringIO()
    sweep = Sweep(folder, (Trial(("seed=0",), folder),))
    console.print(state_table(sweep.titles(), sweep.states()))
    if results := results_of(sweep):
        print_sweep(console, results)
    if (folder / "sweep.json").is_file():
        read_sweep(folder)


@reader("predict")
def _predict(folder: Path) -> None:
    from lantern.pipeline.predict import load

    load(folder)


READ_BY = {
    "metrics.json": ("compare", "status"),
    "config.yaml": ("compare", "predict"),
    "progress.json": ("status",),
    "sweep.json": ("status",),
    "corpus.json": ("predict",),
    "predictions.test.parquet": ("compare",),
    CHECKPOINT: ("predict",),
    "checkpoints/weighting.ckpt": ("predict",),
    "weights": ("weights",),
}
"""Files of a run folder, how often each is chosen is the same, and the readers that open it."""


def _paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(path for key, value in inside for path in _paths(value, (*at, key)))] if at or inside else []


def mutated(content: Any, rng: random.Random, values: Sequence[Any] = VALUES, gone: float = 0.25) -> tuple[Any, str]:
    """*content* with one value replaced by one of *values*, or, with probability *gone*, one key or item gone."""
    path = rng.choice([path for path in _paths(content) if path])
    node = content
    for key in path[:-1]:
        node = node[key]
    if rng.random() < gone:
        del node[path[-1]]
        return content, f"{path} gone"
    node[path[-1]] = value = rng.choice(values)
    return content, f"{path} = {value.layout if isinstance(value, torch.Tensor) else repr(value)}"


def _bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    kind = rng.choice(("cut", "byte", "empty", "zeros", "twice", "random"))
    at = rng.randrange(max(1, len(content)))
    if kind == "cut":
        return content[:at], f"cut at {at}"
    if kind == "byte":
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :], f"byte {at}"
    if kind == "random":
        return content[:at] + rng.randbytes(40) + content[at + 40 :], f"40 bytes at {at}"
    return {"empty": b"", "zeros": bytes(len(content)), "twice": content + content}[kind], kind


def _tree(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A checkpoint in which a value is another one, a tensor of another kind among them."""
    tensors: tuple[Any, ...] = (
        *(torch.tensor(float("nan")), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")),
        *(torch.ones(2, dtype=torch.complex64), torch.zeros(3, dtype=torch.int64), torch.ones(1).expand(10**6, 10**6)),
    )
    return mutated(content, rng, (*tensors, *VALUES), gone=0.2)


def damage(path: Path, rng: random.Random) -> str:
    """Change the file *path*; returns what was done."""
    content = path.read_bytes()
    by_bytes = rng.random() < 0.3
    if path.suffix == ".json" and not by_bytes:
        value, what = mutated(json.loads(content), rng)
        path.write_text(json.dumps(value))
    elif path.suffix == ".yaml" and not by_bytes:
        value, what = mutated(yaml.load(content, Loader=yaml.CSafeLoader), rng)
        path.write_text(yaml.safe_dump(value))
    elif path.suffix in (".ckpt", ".pt") and not by_bytes:
        value, what = _tree(torch.load(io.BytesIO(content), weights_only=True), rng)
        torch.save(value, path)
    elif path.suffix in (".ckpt", ".pt") and rng.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(records))
        records[name], what = _bytes(records[name], rng)
        with zipfile.ZipFile(path, "w") as archive:
            for one, data in records.items():
                archive.writestr(one, data)
        what = f"{name}: {what}"
    elif path.suffix == ".parquet" and not by_bytes:
        what = _column(path, rng)
    else:
        changed, what = _bytes(content, rng)
        path.write_bytes(changed)
    return what


def _column(path: Path, rng: random.Random) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = table.schema.metadata
    name = rng.choice(table.column_names)
    at, rows = table.column_names.index(name), len(table)
    made: tuple[tuple[str, Any], ...] = (
        ("texts", pa.array(["x"] * rows)),
        ("numbers", pa.array([rng.choice((1, -7, 10**9))] * rows)),
        ("nulls", pa.nulls(rows)),
        ("flags", pa.array([True] * rows)),
        ("NaN", pa.array([float("nan")] * rows)),
        ("lists", pa.array([[1.0]] * rows, pa.list_(pa.float64(), 1))),
        ("lists of texts", pa.array([["a"]] * rows)),
    )
    what, column = rng.choice(made)
    table = table.drop_columns([name]) if rng.random() < 0.2 else table.set_column(at, name, column)
    if rng.random() < 0.3:
        value, more = mutated(json.loads((about or {})[b"lantern"]), rng)
        about, what = {b"lantern": json.dumps(value).encode()}, f"{what}, {more}"
    pq.write_table(table.replace_schema_metadata(about), path)
    return f"{name}: {what}"


@reader("weights")
def _weights(folder: Path) -> None:
    """What ``backbone.init_from`` does."""
    from lantern.models.weights import WeightsError, read_weights

    try:
        read_weights(folder / CHECKPOINT)
    except WeightsError as error:
        raise UserError(str(error)) from None


class Remembered:
    """*read*, which does not read the same bytes twice in a row, nor those of the undamaged file *whole* ever again."""

    def __init__(self, read: Callable[[Path], Any], whole: Path) -> None:
        self.read = read
        self.known: dict[bytes, Any] = {}
        self.whole = whole.read_bytes()
        self(whole)

    def __call__(self, path: Path) -> Any:
        content = path.read_bytes()
        if content not in self.known:
            self.known = {self.whole: self.known.get(self.whole)}
            try:
                self.known[content] = self.read(path)
            except UserError as error:
                self.known[content] = error
        if isinstance(known := self.known[content], UserError):
            raise known
        return known


@contextlib.contextmanager
def remembered(folder: Path) -> Iterator[None]:
    """Within this context the configuration and the model of the run *folder* are not read again for each copy."""
    from lantern.models.module import MultiTaskModule
    from lantern.pipeline import predict
    from lantern.results import texts

    config = Remembered(predict.read_config, folder / "config.yaml")
    model = Remembered(MultiTaskModule.load, folder / "checkpoints" / "best.ckpt")
    with (
        mock.patch.object(predict, "read_config", config),
        mock.patch.object(texts, "read_config", config),
        mock.patch.object(MultiTaskModule, "load", model),
    ):
        yield


def attempt(kind: str, name: str, folder: Path, done: str, counts: Counter[str], say: Callable[[str], object]) -> None:
    """Give the run *folder*, whose file *name* is damaged, to the reader *kind*."""
    try:
        READERS[kind](folder)
        counts[f"{name}: read"] += 1
    except UserError as error:
        counts[f"{name}: refused"] += 1
        if "\n" in str(error):
            counts["findings"] += 1
            say(f"{done}: more than one line: {error}")
    except Exception as error:  # noqa: BLE001  that is what is looked for
        if kind == "weights" and not isinstance(error, MemoryError):
            counts[f"{name}: refused"] += 1  # the registry makes one line of any reader's error
            return
        counts["findings"] += 1
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        say(f"{done}: {kind}: {type(error).__name__}: {str(error)[:150]} ({where})")


def every_key(copy: Path, counts: Counter[str], say: Callable[[str], object]) -> None:
    """Take away each key of the settings and results in the run folder *copy*, one at a time, and make each null."""
    for name in ("metrics.json", "config.yaml", "progress.json", "corpus.json", "sweep.json"):
        path = copy / name
        whole = path.read_bytes()
        content = json.loads(whole) if path.suffix == ".json" else yaml.load(whole, Loader=yaml.CSafeLoader)
        for at in _paths(content):
            if not at or any(isinstance(key, int) and key > 0 for key in at):
                continue  # the items of a list are alike
            for what in ("gone", "null"):
                made = deepcopy(content)
                node = made
                for key in at[:-1]:
                    node = node[key]
                if what == "null":
                    node[at[-1]] = None
                else:
                    del node[at[-1]]
                path.write_text(json.dumps(made) if path.suffix == ".json" else yaml.safe_dump(made))
                for kind in READ_BY[name]:
                    attempt(kind, name, copy, f"{name}, {at} {what}", counts, say)
        path.write_bytes(whole)


def run(folder: Path, mutations: int, seed: int, say: Callable[[str], object], every: bool = False) -> Counter[str]:
    """Damage copies of the finished run *folder* that often; counts refusals, results and findings by file.

    *every*: before, take each key away once, and make it null.
    """
    rng, counts = random.Random(seed), Counter[str]()
    names = [name for name in READ_BY if name == "weights" or (folder / name).is_file()]
    with tempfile.TemporaryDirectory() as place, remembered(folder):
        copy = Path(place) / "run"
        shutil.copytree(folder, copy)
        if every:
            every_key(copy, counts, say)
            say(f"each key gone and null, {counts['findings']} findings")
        for number in range(mutations):
            name = rng.choice(names)
            path = copy / (CHECKPOINT if name == "weights" else name)
            whole = path.read_bytes()
            what = damage(path, rng)
            for kind in READ_BY[name]:
                attempt(kind, name, copy, f"{number} {name}, {what}", counts, say)
            path.write_bytes(whole)
            if number % 1000 == 999:
                say(f"{number + 1:,} mutations, {counts['findings']} findings")
    return counts


def make_run(at: Path) -> Path:
    """A finished run of a second, with a sweep's manifest beside its files."""
    from lantern import run_experiment

    small = ["corpus.dialogues=12", "backbone.hidden=8", "backbone.epochs=1", "weighting.epochs=1"]
    small += ["weighting.fit_on=dev", "weighting.guard=false", f"runs={at}"]
    folder = run_experiment(["backbone=gru", "llm=simulated", *small]).folder
    trials = {"trials": [{"overrides": ["seed=0"], "run": folder.name}]}
    (folder / "sweep.json").write_text(json.dumps(trials))
    return folder


def main() -> int:
    """Make a run, damage it, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mutations", type=int, nargs="?", default=20_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = make_run(Path(place))
        counts = run(folder, given.mutations, given.seed, lambda line: print(ascii(line)[1:-1], flush=True), True)
    for name, count in sorted(counts.items()):
        print(f"{name:<40}{count:>8,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    print(f"{given.mutations:,} mutations, {counts['findings']} findings, peak memory {peak:.2f} GiB")
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
