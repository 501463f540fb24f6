"""Workers train what one process would have trained, once, and whatever stops them costs no epoch that was stored."""

from __future__ import annotations

import csv
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from experiments.run import main
from lantern.api import run_experiment
from lantern.errors import UserError
from lantern.files import is_locked
from lantern.pipeline import train
from lantern.pipeline.preflight import ReadyRun, preflight
from lantern.pipeline.run import run
from lantern.pipeline.train import BEST, workers
from tests.composed import compose
from tests.pipeline.test_run import Recorder
from tests.pipeline.test_sweep import numbers, start, trained

Tiny = Callable[..., list[str]]
PATIENCE = 240


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def folds(tiny: Tiny, *more: str) -> list[str]:
    return tiny("weighting.fit_on=oof", "oof.folds=3", "backbone.dropout=0.4", "trainer.threads=1", *more)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def places(ready: ReadyRun) -> list[Path]:
    return [ready.store.folder("train", stage.inputs) for stage in ready.vanilla_stages]


def epochs(folder: Path) -> list[int]:
    """The epochs whose training loss a folder of curves holds."""
    with (folder / "training" / "metrics.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
def test_workers_alone_train_the_very_same_models(tiny: Tiny, tmp_path: Path) -> None:
    apart = preflight(compose(folds(tiny, f"runs={tmp_path}/apart")))
    single = run(apart)
    ready = preflight(compose(folds(tiny, "trainer.workers=3")))
    assert ready.folder.name == apart.folder.name
    with workers([ready]):
        wait_for(lambda: all((place / "done.json").is_file() for place in places(ready)))
        assert len(multiprocessing.active_children()) <= 2
    assert not multiprocessing.active_children()
    for one, other in zip(places(ready), places(apart), strict=True):
        states = [torch.load(place / BEST, weights_only=True)["state_dict"] for place in (one, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    curves = [folder / "training" / "metrics.csv" for folder in (ready.folder, apart.folder)]
    assert curves[0].read_text() == curves[1].read_text()
    recorder = Recorder()
    together = run(ready, recorder)
    assert recorder.epochs == []
    assert (together["test"], together["oof"], together["vanilla"]) == (
        single["test"],
        single["oof"],
        single["vanilla"],
    )


@pytest.mark.slow
def test_the_seeds_of_a_sweep_have_the_numbers_of_single_runs(tiny: Tiny, tmp_path: Path) -> None:
    sweep = ("seed=0,1,2", "refine.enabled=false", "trainer.threads=1")
    assert main(["-m", *tiny(*sweep, f"runs={tmp_path}/apart")]) == 0
    assert main(["-m", *tiny(*sweep, "trainer.workers=2")]) == 0
    assert numbers(tmp_path / "runs") == numbers(tmp_path / "apart")
    assert sorted(trained(tmp_path / "runs").values()) == [1, 1, 1]


HELD = """
import sys, time
from lantern.pipeline import train
def hold(self, trainer, module):
    while trainer.current_epoch == 2:
        time.sleep(1)
train._EpochReport.on_train_epoch_start = hold
from experiments.run import main
main(sys.argv[1:])
"""
"""A run that trains two epochs of its first model, while its workers train the others."""


@pytest.mark.slow
def test_a_command_killed_with_workers_goes_on_and_trains_nothing_twice(tiny: Tiny, tmp_path: Path) -> None:
    given = folds(tiny, "trainer.epochs=30")
    ready = preflight(compose(given))
    process = start("-c", HELD, *given, "trainer.workers=3")
    wait_for(lambda: process.poll() is not None or sum((p / "last.ckpt").is_file() for p in places(ready)) >= 2)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(is_locked(place / "lock") for place in places(ready)))  # the workers end as well
    recorder = Recorder()
    result = run(preflight(compose(given)), recorder)
    assert sorted(trained(tmp_path / "runs").values()) == [1] * 4
    for curves in (ready.folder, *places(ready)[1:]):
        assert epochs(curves) == list(range(30))
    undisturbed = run(preflight(compose([*given, f"runs={tmp_path}/apart"])))
    assert result["test"] == undisturbed["test"]


def test_ctrl_c_ends_the_workers(tiny: Tiny, tmp_path: Path) -> None:
    ready = preflight(compose(folds(tiny, "trainer.workers=2")))
    with pytest.raises(KeyboardInterrupt):
        run(ready, Recorder(stop_at_epoch=1))
    assert not multiprocessing.active_children()
    run(ready, Recorder())
    assert sorted(trained(tmp_path / "runs").values()) == [1] * 4


class Started:
    """Stands for a process that trains, and counts."""

    count = 0

    def __init__(self, **_: object) -> None: ...

    def start(self) -> None:
        Started.count += 1

    def kill(self) -> None: ...

    def join(self) -> None: ...


def test_a_long_training_gets_workers_but_not_in_a_script(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.SPAWN, "Process", Started)
    monkeypatch.setattr(train, "cores", lambda: 16)
    monkeypatch.setattr(Started, "count", 0)
    config = compose(folds(tiny, "trainer.workers=null"))
    ready = preflight(config)
    with workers([ready]):
        pass
    assert Started.count == 0
    monkeypatch.setattr(train, "WORTH_IT", 0.0)
    with workers([ready]):
        wait_for(lambda: Started.count == train.AT_ONCE - 1)
    run_experiment(config)
    assert Started.count == train.AT_ONCE - 1


def test_workers_and_processes_that_train_together_exclude_each_other(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"trainer.workers=2 trains several models at once and trainer.devices=2 x"):
        compose(tiny("trainer.workers=2", "trainer.devices=2"))
