"""A search by Optuna: its runs, its choice by the dev split, and how it goes on after a kill."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import status
from experiments.run import main
from lantern.errors import UserError
from lantern.pipeline.preflight import preflight
from lantern.results.sweep import find_sweep
from tests.composed import compose
from tests.processes import start

optuna = pytest.importorskip("optuna")

Tiny = Callable[..., list[str]]
SPACE = ("backbone.lr=tag(log,interval(1e-4,1e-2))", "backbone.hidden=int(interval(8,32))")
SEARCH = ("refine.enabled=false", "weighting.fit_on=dev", "trainer.epochs=2", *SPACE)


def trials(runs: Path) -> list[optuna.trial.FrozenTrial]:
    (storage,) = runs.glob("sweeps/*/search.sqlite")
    every = optuna.load_study(study_name="search", storage=f"sqlite:///{storage}").get_trials()
    # One whose process was killed before its values were drawn has failed and is replaced.
    return [trial for trial in every if trial.state != optuna.trial.TrialState.FAIL]


@pytest.mark.slow
def test_a_search_killed_half_way_proposes_and_trains_what_an_uninterrupted_one_does(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    arguments = ["-m", *tiny(*SEARCH), "search=6"]
    process = start("-m", "experiments.run", *arguments)
    while len(list(runs.glob("*/metrics.json"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in runs.glob("*/metrics.json")}
    assert 2 <= len(written) < 6
    assert main(arguments) == 0
    assert "best of 6 runs by dev weighted F1" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list(runs.glob("*/metrics.json"))) == 6
    log = (runs / "stages" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(Counter(json.loads(line)["id"] for line in log).values()) == {1}
    assert main([*arguments, f"runs={other}"]) == 0
    assert [(t.params, t.value) for t in trials(runs)] == [(t.params, t.value) for t in trials(other)]
    for trial, run in zip(trials(runs), find_sweep(runs).trials, strict=True):
        result = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
        assert trial.value == result["vanilla"]["dev_weighted_f1"]
    capsys.readouterr()
    assert status.main([str(runs)]) == 0
    assert "6 done" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_search_together(tiny: Tiny, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    processes = [start("-m", "experiments.run", "-m", *tiny(*SEARCH), "search=4") for _ in range(2)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert {trial.state.name for trial in trials(runs)} == {"COMPLETE"}
    assert len(trials(runs)) == 4
    assert {trial.folder for trial in find_sweep(runs).trials} == {path.parent for path in runs.glob("*/metrics.json")}


def test_a_search_goes_on_to_more_trials_and_tries_a_failed_one_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lantern.pipeline.run

    def fails(*_: object) -> None:
        raise UserError("the disk is full")

    arguments = ["-m", *tiny(*SEARCH)]
    with monkeypatch.context() as patch:
        patch.setattr(lantern.pipeline.run, "evaluate", fails)
        assert main([*arguments, "search=1"]) == 2
    assert main([*arguments, "search=2"]) == 0
    assert [trial.state.name for trial in trials(tmp_path / "runs")] == ["COMPLETE", "COMPLETE"]


def test_the_best_settings_are_a_file_that_a_run_takes(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny("refine.enabled=false", "weighting.fit_on=dev", "trainer.epochs=2")
    space = ["backbone.lr=1e-4,1e-2", "backbone.dropout=0.1,0.3", "model.class_weights=none,inverse"]
    assert main(["-m", *arguments, *space, "search=2"]) == 0
    out = capsys.readouterr().out
    (file,) = (tmp_path / "runs").glob("sweeps/*/tuned.yaml")
    assert f"tuned={file}" in out
    best = max(trials(tmp_path / "runs"), key=lambda trial: trial.value or 0.0)
    taken = compose([*arguments, f"tuned={file}"])
    assert {f"backbone.{key}": str(taken.backbone[key]) for key in ("lr", "dropout")} == {
        key: str(float(best.params[key])) for key in ("backbone.lr", "backbone.dropout")
    }
    assert taken.model.class_weights == best.params["model.class_weights"]
    # The run is that of the best trial, and trains nothing.
    wanted = preflight(compose([*arguments, *(f"{key}={value}" for key, value in best.params.items())]))
    assert preflight(taken).folder == wanted.folder
    assert preflight(taken).finished() is not None
    # What is typed counts more, and the backbone comes from the file.
    assert compose([f"tuned={file}", "backbone.lr=0.5"]).backbone["lr"] == 0.5
    assert compose([f"tuned={file}"]).backbone["name"] == taken.backbone["name"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\n", "a tuned file holds backbone, model, trainer; this one holds seed"),
        ("- 1\n", "holds no keys with values"),
        ("model: [\n", "not YAML"),
        ("model: {class_weight: none}\n", "class_weight"),
        ("model: {class_weights: some}\n", "class_weights=some is not one of"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_of_settings_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "t.yaml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compose([f"tuned={file}"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["search=many"], "search=many must be the number of trials"),
        (["search=0"], "search=0 must be the number of trials"),
        (["search=2", "seed=0,1"], "seed=0,1: a search chooses values of backbone, model, trainer"),
        (["search=2", "hydra/launcher=ray"], "hydra/launcher=ray: a search runs here"),
        (["search=2", "protocol.selection=paper-style"], "would choose by the test dialogues"),
        (["search=2", "backbone.layers=1,0"], "backbone.layers=0 must be at least 1"),
        (["search=2", "model.class_weights=none,balanced"], "class_weights=balanced is not one of"),
        (["search=2", "plan=true"], "its runs are not known before"),
        ([], "a sweep needs single values; add search=20"),
    ],
)
def test_a_bad_search_is_refused_before_anything_starts(
    tiny: Tiny, tmp_path: Path, more: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main(["-m", *tiny("refine.enabled=false", "model.dimension_weight=interval(0.1,1.0)"), *more])
    assert not (tmp_path / "runs").exists()


def test_a_search_needs_a_space_and_a_sweep(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="search needs a key with several values"):
        main(["-m", *tiny("refine.enabled=false", "weighting.fit_on=dev"), "search=2"])
    with pytest.raises(UserError, match="search=2 is for sweeps: add -m"):
        main([*tiny(), "search=2"])
    assert not (tmp_path / "runs").exists()
