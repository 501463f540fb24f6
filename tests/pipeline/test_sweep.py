"""Sweeps: what their runs share is done once, whoever does it, and what stopped half-way is completed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import compare, status
from experiments.cli.command_line import expand
from experiments.cli.sweeps import state_table
from experiments.run import main
from lantern.errors import UserError
from lantern.files import locked
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import attempt, run
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Progress
from lantern.results import progress
from lantern.results.progress import RunState, read_state, recorded
from lantern.results.sweep import find_sweep, read_sweep, titles
from tests.composed import compose
from tests.processes import ROOT, start

Tiny = Callable[..., list[str]]
SWEEP = ("backbone=gru,sdt_small", "model.dimensions=true,false", "seed=0,1", "trainer.epochs=2")


def trained(runs: Path) -> Counter[str]:
    """How often each stage was done."""
    lines = (runs / "stages" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["id"] for line in lines)


def numbers(runs: Path) -> dict[str, Any]:
    """What the runs under *runs* came to."""
    found = {}
    for path in sorted(runs.glob("*/metrics.json")):
        table = (path.parent / "predictions.test.parquet").read_bytes()
        found[path.parent.name] = (json.loads(path.read_text(encoding="utf-8"))["test"]["methods"], table)
    return found


@pytest.mark.slow
def test_a_sweep_killed_half_way_is_completed_and_does_nothing_twice(tiny: Tiny, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ["-m", *tiny(*SWEEP)]
    process = start("-m", "experiments.run", *arguments)
    while len(list(runs.glob("*/metrics.json"))) < 4:  # then three are done, and maybe the fourth
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    states = Counter(state.state for state in find_sweep(runs).states())
    assert states["done"] >= 3
    assert states["waiting"] >= 1
    assert states["running"] == 0
    first = {p: p.stat().st_mtime_ns for p in runs.glob("*/metrics.json")}
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in first} == first
    assert Counter(state.state for state in find_sweep(runs).states()) == {"done": 8}
    assert sorted(trained(runs).values()) == [1] * 8
    with contextlib.closing(Ledger(runs / "ledger.sqlite")) as ledger:
        answers = ledger.stats().answers
    assert answers == sum(json.loads(p.read_text())["llm"]["prompts"] for p in runs.glob("*/metrics.json"))


@pytest.mark.slow
def test_two_processes_do_a_sweep_once(tiny: Tiny, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ["-m", *tiny("seed=0,1", "weighting=mean,band", "trainer.epochs=2")]
    for process in [start("-m", "experiments.run", *arguments) for _ in range(2)]:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "sweep: test split" in out
    assert sorted(trained(runs).values()) == [1, 1]
    reads = (runs / "test_reads.jsonl").read_text(encoding="utf-8").splitlines()
    assert Counter(json.loads(line)["run"] for line in reads) == {p.parent.name: 1 for p in runs.glob("*/metrics.json")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_launcher_gives_the_same_numbers(tiny: Tiny, tmp_path: Path, launcher: str) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    there, here = tmp_path / "there", tmp_path / "here"
    given = ["-m", *tiny("weighting=mean,band", "trainer.epochs=2")]
    command = [sys.executable, "-m", "experiments.run", *given, f"runs={there}", f"hydra/launcher={launcher}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main([*given, f"runs={here}"]) == 0
    assert len(numbers(here)) == 2
    assert numbers(there) == numbers(here)
    assert sorted(trained(there).values()) == [1]
    assert "2/2" in done.stdout


def test_a_launcher_that_is_not_there_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hydra/launcher=rya: no such launcher. Did you mean 'ray'"):
        main(["-m", *tiny("seed=0,1", "hydra/launcher=rya")])
    with pytest.raises(UserError, match="is for sweeps: add -m"):
        main(tiny("hydra/launcher=ray"))
    with pytest.raises(UserError, match="only hydra/launcher"):
        main(["-m", *tiny("seed=0,1", "hydra.sweep.dir=x")])
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_does_not_stop_the_others(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lantern.pipeline.run

    real = lantern.pipeline.run.evaluate

    def evaluate(ready: Any, *rest: Any) -> dict[str, Any]:
        if ready.config.seed == 0:
            raise UserError("the disk is full")
        if ready.config.seed == 1:
            raise ZeroDivisionError("a bug")
        return real(ready, *rest)

    monkeypatch.setattr(lantern.pipeline.run, "evaluate", evaluate)
    arguments = ["-m", *tiny("seed=0,1,2", "trainer.epochs=1", "refine.enabled=false")]
    assert main(arguments) == 2
    out = capsys.readouterr().out
    assert "1/3  seed=0: error: the disk is full" in out
    assert "2/3  seed=1: error: ZeroDivisionError: a bug (see run.log)" in out
    assert "3/3  seed=2: vanilla" in out
    (log,) = (tmp_path / "runs").glob("*seed1*/run.log")
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert status.main([str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "2 failed, 1 done" in told
    assert "the disk is full" in told
    monkeypatch.setattr(lantern.pipeline.run, "evaluate", real)
    assert main(arguments) == 0
    assert "3 runs, 1 of them finished before" in capsys.readouterr().out


def test_finished_runs_are_taken_as_they_are_until_something_changes(tiny: Tiny, tmp_path: Path) -> None:
    ready = preflight(compose(tiny("trainer.epochs=1")))
    assert ready.finished() is None
    first = run(ready)
    metrics = ready.folder / "metrics.json"
    written = metrics.stat().st_mtime_ns
    assert run(ready, reuse=True) == json.loads(metrics.read_text()) | {"folder": first["folder"]}
    assert metrics.stat().st_mtime_ns == written
    for damage in (lambda r: r.update(key="other"), lambda r: r["llm"].update(failed_fields=1), lambda r: r.pop("key")):
        changed = json.loads(json.dumps(first))
        damage(changed)
        metrics.write_text(json.dumps(changed))
        assert ready.finished() is None
        attempt(ready)
        assert ready.finished() is not None
    (ready.folder / "predictions.test.parquet").unlink()
    assert ready.finished() is None


def test_states(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert read_state(folder).state == "waiting"
    folder.mkdir()
    with locked(folder / progress.LOCK), recorded(folder, None) as recorder:
        recorder.stage("train")
        assert read_state(folder).state == "running"
        recorder.stage("refine")
        recorder.asking(Progress(10, 4, 1, 0, 3, 0.5, 9.0))
        recorder.stage("again")
        recorder.asking(Progress(10, 10, 1, 0, 5, 0.25, None))
    state = read_state(folder)
    assert (state.state, state.calls, state.cost, state.error) == ("done", 8, 0.75, None)
    with pytest.raises(UserError), recorded(folder, None):
        raise UserError("no room\nleft")
    assert (read_state(folder).state, read_state(folder).error) == ("failed", "no room left")
    with pytest.raises(KeyboardInterrupt), recorded(folder, None):
        raise KeyboardInterrupt
    assert read_state(folder).state == "interrupted"
    kept = recorded(folder, None)
    kept.__enter__()
    assert read_state(folder).state == "interrupted"  # nobody holds its lock: the process is gone
    (folder / progress.FILE).write_text("{")
    assert read_state(folder).state == "waiting"


def test_the_table_shows_what_is_under_way_first() -> None:
    states = [RunState("done", calls=5), RunState("waiting"), RunState("running", "train", 3, 9), RunState("done")]
    out = io.StringIO()
    Console(file=out, width=120).print(state_table(["a", "b", "c", "d"], states, most=2, left=61.0))
    lines = out.getvalue().splitlines()
    assert [line.split()[:1] for line in lines[1:3]] == [["c"], ["a"]]
    assert "3/9" in lines[1]
    assert "and 2 more" in lines[3]
    assert "1 running, 2 done, 1 waiting, 5 calls, $0.00, about 1m01s left" in lines[4]


def test_titles_leave_out_what_all_share() -> None:
    trials = [["backbone=sdt", "llm=a", "seed=0"], ["backbone=sdt", "llm=b", "seed=0"]]
    assert titles(trials) == ["a", "b"]
    assert titles(trials[:1]) == ["all"]


def test_compare_and_status_take_a_sweep(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seeds in ("seed=0,1", "seed=2,3"):
        assert main(["-m", *tiny(seeds, "trainer.epochs=1", "refine.enabled=false")]) == 0
    sweeps = sorted((tmp_path / "runs" / "sweeps").iterdir(), key=lambda p: p.stat().st_mtime)
    assert len(sweeps) == 2
    capsys.readouterr()
    assert compare.main([str(sweeps[0])]) == 0
    assert "2" in capsys.readouterr().out
    assert find_sweep(tmp_path / "runs").folder == sweeps[1]
    assert status.main([str(sweeps[0])]) == 0
    assert "2 done" in capsys.readouterr().out
    (sweeps[0] / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        read_sweep(sweeps[0])
    with pytest.raises(UserError, match="no sweep there"):
        find_sweep(tmp_path)


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ("seed=0,1 backbone=gru seed=2,3", ["seed=0 backbone=gru seed=2", "seed=0 backbone=gru seed=3"]),
        ("seed=0,1 seed=2", ["seed=0 seed=2"]),
        ("seed=2 seed=0,1", ["seed=2 seed=0", "seed=2 seed=1"]),
    ],
)
def test_the_last_values_of_a_key_count(typed: str, runs: list[str]) -> None:
    assert [" ".join(run) for run in expand(typed.split())] == runs


def test_a_plan_of_a_sweep_counts_everything_once(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *tiny("seed=0,1", "trainer.epochs=1", "weighting=mean,band")]
    assert main([*arguments, "plan=true"]) == 0
    told = capsys.readouterr().out
    assert "sweep of 4 runs, 0 of them finished before" in told
    assert "2 to train, 0 to reuse" in told
    assert not (tmp_path / "runs").exists()
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "plan=true"]) == 0
    told = capsys.readouterr().out
    assert "4 of them finished before" in told
    assert "0 to train, 2 to reuse" in told
    assert "calls           0," in told


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_the_same_command_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    arguments = ["-m", *tiny("seed=0,1,2,3", "trainer.epochs=2")]
    process = start("-m", "experiments.run", *arguments)
    while not list((tmp_path / "runs").glob("*/metrics.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.strip() == "interrupted; the same command goes on where it stopped"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0


def test_a_run_stopped_between_its_result_and_its_state_is_done(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *tiny("seed=0,1", "trainer.epochs=1", "refine.enabled=false")]
    assert main(arguments) == 0
    path = next((tmp_path / "runs").glob("*seed0*/progress.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))
    assert read_state(path.parent).state == "interrupted"
    assert main(arguments) == 0
    assert read_state(path.parent).state == "done"
