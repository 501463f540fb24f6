"""A small part of ``benchmarks/fuzz_folders.py``, the same at each run; and one broken run beside whole ones."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import fuzz_folders
from lantern.errors import UserError
from lantern.tables.table import PredictionTable
from tests.bad_inputs.place import Place


@pytest.mark.parametrize("seed", [11, 12])
def test_damaged_run_folders_and_weights_are_refused_or_read(seed: int, place: Place) -> None:
    folder = place.run()
    (folder / "sweep.json").write_text(json.dumps({"trials": [{"overrides": ["seed=0"], "run": folder.name}]}))
    said: list[str] = []
    counts = fuzz_folders.run(folder, 60, seed, said.append)
    assert said == []
    assert sum(count for name, count in counts.items() if name.endswith("refused")) > 5


@pytest.mark.parametrize(("section", "key"), [("test", "labelled"), ("test", "dialogues"), ("llm", "output_tokens")])
def test_a_number_that_only_titles_need_may_be_gone(section: str, key: str, place: Place) -> None:
    path = place.run() / "metrics.json"
    content = json.loads(path.read_text())
    del content[section][key]
    path.write_text(json.dumps(content))
    code, out, err = place.call("compare", path.parent, "--out", place.at / "report")
    assert (code, err) == (0, "")
    assert "gru + simulated" in out


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("metrics.json", {"llm": "x"}, "llm is 'x', expected an object"),
        ("metrics.json", {"title": [1]}, "title is list, expected a text"),
        ("metrics.json", {"time": 5}, "time is int, expected a text"),
        ("metrics.json", {"vanilla": {"best_epoch": None}}, "vanilla.best_epoch is None, expected a count"),
        ("metrics.json", {"corpus": {"name": "sample", "label_set": 3}}, "corpus.label_set is int, expected a text"),
        ("metrics.json", {"test": {"methods": []}}, "test.methods is list, expected an object"),
        ("config.yaml", b"backbone: [a]\n", "backbone is list, expected an object"),
        ("config.yaml", b"backbone: {name: gru}\ncorpus: {name: sample, dialogues: {}}\n", "corpus.dialogues is dict"),
        ("config.yaml", b"a: &a [x,x]\nb: &b [*a,*a]\nbackbone: {name: gru, x: *b}\n2: 3\n", "expected an object"),
        ("predictions.test.parquet", b"PAR1", "not a predictions table"),
    ],
)
def test_a_broken_run_is_left_out_and_the_others_are_compared(file: str, change: Any, told: str, place: Place) -> None:
    folder = place.run()
    broken = shutil.copytree(folder, place.at / "runs" / "broken")
    if isinstance(change, bytes):
        (broken / file).write_bytes(change)
    else:
        record = json.loads((broken / file).read_text())
        (broken / file).write_text(json.dumps({**record, **change}))
    for named in ([place.at / "runs"], [folder, broken]):
        code, out, err = place.call("compare", *named, "--out", place.at / "report")
        assert (code, err) == (0, "")
        assert out.count("skipped: ") == 1
        assert "broken" in out
        assert told in out
        assert "gru + simulated" in out
    code, out, err = place.call("compare", broken)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\x00b", "\x1b[31m", "a\nb"])
@pytest.mark.parametrize("command", ["status", "compare"])
def test_a_run_of_a_sweep_is_the_name_of_a_folder(command: str, name: str, place: Place) -> None:
    folder = place.folder("sweep")
    (folder / "sweep.json").write_text(json.dumps({"trials": [{"overrides": ["seed=0"], "run": name}]}))
    place.refused([command, folder], ("sweep.json is damaged (a run is not the name of a folder)",))


def test_a_run_without_its_corpus_setting_is_compared_without_text(place: Place) -> None:
    folder = place.run()
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith("corpus:"))
    end = next(n for n in range(start + 1, len(lines)) if not lines[n].startswith(" "))
    (folder / "config.yaml").write_text("".join(lines[:start] + lines[end:]))
    code, _, err = place.call("compare", folder, "--out", place.at / "report")
    assert (code, err) == (0, "")


def test_weights_of_other_sources_are_refused(place: Place) -> None:
    path = place.run() / "predictions.test.parquet"
    table = pq.read_table(path)
    column = pa.array([[1.0]] * len(table), pa.list_(pa.float64(), 1))
    at = table.column_names.index("weights")
    pq.write_table(table.set_column(at, "weights", column), path)
    with pytest.raises(UserError, match=r"weights are not of \d+ sources"):
        PredictionTable.load(path)
