"""Someone who has nothing but a published pickle: import, then a run."""

import json
from pathlib import Path

import pytest

from experiments import import_corpus
from experiments.run import main
from tests.corpora.pickles import iemocap, twelve, write


def test_a_pickle_of_sdt_alone_gives_a_run_without_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "sdt.pkl", twelve(iemocap()), protocol=2)
    folder, runs = tmp_path / "corpus", tmp_path / "runs"
    assert import_corpus.main(["iemocap-pickle", "--pickle", str(path), "--out", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no dimension scores and only the labelled turns" in told
    assert "import the release (import_corpus iemocap) and import this pickle again with --join" in told
    overrides = ["backbone=sdt_small", "llm=simulated", "corpus=iemocap", f"corpus.path={folder}", "trainer.epochs=1"]
    assert main([*overrides, "trainer.threads=1", "weighting.epochs=2", f"runs={runs}"]) == 0
    (result,) = runs.glob("iemocap-sdt-*/metrics.json")
    found = json.loads(result.read_text())
    assert found["corpus"]["label_set"] == "iemocap-6-legacy"
    assert found["test"]["labelled"] == 5
    assert found["test"]["dimensions"] is None
