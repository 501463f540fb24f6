from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lantern.errors import UserError
from lantern.results.load import find_runs
from tests.results.made_runs import write_run


def test_runs_are_found_and_the_rest_is_told(tmp_path: Path) -> None:
    whole = write_run(tmp_path, "gru", "simulated", 0, turns=40)
    (tmp_path / "stages" / "train").mkdir(parents=True)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "metrics.json").write_text('{"loss": 1}')
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    result = json.loads((old / "metrics.json").read_text())
    del result["test"]["methods"]["vanilla"]["accuracy"]
    (old / "metrics.json").write_text(json.dumps(result))
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    (damaged / "metrics.json").write_text("{")
    found = find_runs([tmp_path])
    assert [run.folder for run in found.runs] == [whole]
    assert found.runs[0].result["folder"] == str(whole)
    told = "\n".join(found.skipped)
    assert len(found.skipped) == 4
    assert f"{tmp_path / 'unfinished'} is not a finished run" in told
    assert "foreign has a metrics.json but no config.yaml" in told
    assert "old/metrics.json: no test.methods.vanilla.accuracy" in told
    assert "damaged/metrics.json cannot be read" in told
    for name in ("unfinished", "foreign", "old", "damaged"):
        with pytest.raises(UserError, match=name):
            find_runs([tmp_path / name])


@pytest.mark.parametrize(("name", "told"), [("nowhere", "is not a folder"), ("empty", "holds no finished run")])
def test_a_path_without_runs_is_an_error(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=told):
        find_runs([tmp_path / name])


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    first = write_run(tmp_path, "gru", "simulated", 0, turns=40)
    shutil.copytree(first, tmp_path / "copy")
    found = find_runs([tmp_path, first, tmp_path])
    assert len(found.runs) == 1
    assert len(found.skipped) == 1
    assert "same settings, same seed" in found.skipped[0]
