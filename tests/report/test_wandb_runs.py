"""One W&B run per run folder: however often it is typed, and wherever it was interrupted."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run import main
from lantern.errors import UserError
from lantern.files import digest
from tests.processes import done
from tests.report.wandb_files import Recorded, only_log

Tiny = Callable[..., list[str]]
pytestmark = pytest.mark.slow


def run_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").glob("sample-*")
    return folder


def start(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python *code* in a process of its own, with a W&B of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return done("-c", code, *arguments, environment=environment)


def test_a_run_that_is_typed_again_stays_one_run(tiny: Tiny, tmp_path: Path) -> None:
    given = tiny("trainer.epochs=2")
    assert main(given) == 0
    folder = run_folder(tmp_path)
    assert not (folder / "wandb").exists()
    assert main([*given, "tracking=wandb"]) == 0  # finished before
    first = only_log(folder)
    recorded = Recorded(first)
    assert recorded.id == digest(folder.name)
    assert recorded.curve("train", "train/loss") == [0, 1]
    assert recorded.exit_codes == [0]
    before = first.stat().st_mtime_ns
    assert main([*given, "tracking=wandb"]) == 0
    assert (only_log(folder), only_log(folder).stat().st_mtime_ns) == (first, before)
    (folder / "wandb" / "sent").unlink()  # as if the process had ended before
    assert main([*given, "tracking=wandb"]) == 0
    again = Recorded(only_log(folder))
    assert only_log(folder) != first
    assert (again.id, again.curve("train", "train/loss")) == (recorded.id, [0, 1])
    for _ in range(2):
        assert main([*given, "tracking=csv"]) == 0
    assert len((tmp_path / "runs" / "results.csv").read_text().splitlines()) == 2


def test_a_sweep_that_is_typed_again_stays_one_run_each(tiny: Tiny, tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        assert main(["-m", *tiny("tracking=wandb", "trainer.epochs=1", "seed=0,1")]) == 0
        ids.append(sorted(Recorded(log).id for log in (tmp_path / "runs").rglob("*.wandb")))
    assert len(set(ids[0])) == 3
    assert ids[0] == ids[1]


KILLED = """
import os, sys, time
from pathlib import Path
from lantern.environment import prepare
prepare()
from lantern.pipeline import train
runs, told = Path(sys.argv[1]), train._EpochReport.on_train_epoch_start
def kill(self, trainer, module):
    if trainer.current_epoch == 2:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if any(log.read_bytes().count(b"train/loss") >= 4 for log in runs.glob("*/wandb/*run*/*.wandb")):
                break
            time.sleep(0.1)
        os.kill(os.getpid(), 9)
train._EpochReport.on_train_epoch_start = kill
from experiments.run import main
main(sys.argv[2:])
"""


def test_a_run_killed_in_training_is_seen_and_continued(tiny: Tiny, tmp_path: Path) -> None:
    given = tiny("tracking=wandb", "trainer.epochs=4")
    assert start(KILLED, tmp_path / "runs", *given).returncode == -9
    folder = run_folder(tmp_path)
    first = Recorded(only_log(folder))
    assert first.curve("train", "train/loss") == first.curve("train", "train/dev/weighted_f1") == [0, 1]
    assert first.exit_codes == []
    assert main(given) == 0
    then = Recorded(only_log(folder))
    assert then.id == first.id
    assert then.curve("train", "train/loss") == then.curve("train", "train/dev/weighted_f1") == [0, 1, 2, 3]
    shown = {h["item"]["train/epoch"]: h["item"]["train/loss"] for h in then.of("history") if "train/loss" in h["item"]}
    with (folder / "training" / "metrics.csv").open(newline="") as file:
        kept = {int(row["epoch"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}
        file.seek(0)
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shown == kept
    assert shown[0] == first.of("history")[0]["item"]["train/loss"]


def test_a_run_that_fails_after_its_training_is_seen(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lantern.pipeline import run

    def refuse(*_: object) -> None:
        raise UserError("no")

    given = tiny("tracking=wandb", "trainer.epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate", refuse)
        with pytest.raises(UserError, match="no"):
            main(given)
    failed = Recorded(only_log(tmp_path))
    assert failed.exit_codes == [1]
    assert failed.curve("train", "train/loss") == [0, 1]
    assert main(given) == 0
    again = Recorded(only_log(tmp_path))
    assert (again.id, again.curve("train", "train/loss")) == (failed.id, [0, 1])
    assert again.exit_codes == [0]


BROKEN = """
import os, subprocess, sys
from pathlib import Path
from lantern.environment import prepare
prepare()
from lantern.pipeline import run
def without_wandb(*arguments):
    core = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb"], capture_output=True, text=True).stdout.split()
    assert len(core) == 1
    os.kill(int(core[0]), 9)
    return evaluate(*arguments)
evaluate, run.evaluate = run.evaluate, without_wandb
from experiments.run import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_wandb_that_breaks_off_costs_no_result(tiny: Tiny, tmp_path: Path) -> None:
    given = tiny("tracking=wandb", "trainer.epochs=1")
    done = start(BROKEN, *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B broke off") == 1
    assert json.loads((run_folder(tmp_path) / "metrics.json").read_text())["test"]
    assert main(given) == 0
    assert Recorded(only_log(tmp_path)).exit_codes == [0]


def test_the_users_own_wandb_run_stays_open(tiny: Tiny, tmp_path: Path) -> None:
    import wandb

    quiet = wandb.Settings(console="off", silent=True, x_disable_meta=True)
    own = wandb.init(mode="offline", dir=tmp_path, project="own", settings=quiet)
    try:
        assert main(tiny("tracking=wandb", "trainer.epochs=1")) == 0
        assert wandb.run is own
        own.log({"mine": 1})
    finally:
        own.finish()
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [set(h["item"]) & {"mine", "train/loss"} for h in Recorded(log).of("history")] == [{"mine"}]


def test_charts_and_artifact_hold_the_numbers_of_the_run(tiny: Tiny, tmp_path: Path) -> None:
    assert main(tiny("tracking=wandb", "trainer.epochs=1")) == 0
    folder = run_folder(tmp_path)
    methods = json.loads((folder / "metrics.json").read_text())["test"]["methods"]
    log = only_log(folder)
    recorded = Recorded(log)
    visible = {key: value for config in recorded.of("config") for key, value in config["update"].items()}
    shown = {
        "confusion_vanilla": "wandb/confusion_matrix/v1",
        "f1_weighted": "wandb/bar/v0",
        "reliability": "wandb/line/v0",
    }
    for name, kind in shown.items():
        assert visible[f"_wandb.visualize.charts/{name}"]["panel_config"]["panelDefId"] == kind

    def table(name: str) -> list[list[object]]:
        (path,) = log.parent.glob(f"files/media/table/charts/{name}_table_*.json")
        return json.loads(path.read_text())["data"]

    for name in ("vanilla", "weighted"):
        report = methods[name]
        classes = list(report["per_class"])
        counts = {(gold, guess): count for gold, guess, count in table(f"confusion_{name}")}
        assert [[counts[gold, guess] for guess in classes] for gold in classes] == report["confusion"]
        assert dict(table(f"f1_{name}")) == {c: pytest.approx(v["f1"]) for c, v in report["per_class"].items()}
        bins = [[b["confidence"], b["accuracy"], b["count"]] for b in report["reliability"] if b["count"]]
        assert [row[1:] for row in table("reliability") if row[0] == name] == [pytest.approx(b) for b in bins]
    (artifact,) = (one for one in recorded.of("artifact") if one["type"] == "result")
    files = {one["path"]: Path(one["local_path"]) for one in artifact["manifest"]["contents"]}
    assert files == {
        name: (folder / name).resolve()
        for name in ("predictions.dev.parquet", "predictions.test.parquet", "report.html")
    }
    assert all(
        path.stat().st_size == int(one["size"]) for path, one in zip(files.values(), artifact["manifest"]["contents"])
    )


def test_the_commit_is_recorded_and_the_remote_is_not(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "project"
    place.mkdir()

    def git(*words: str) -> str:
        given = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(given, cwd=place, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    git("remote", "add", "origin", "https://me:planted-password@example.org/x.git")
    git("commit", "--allow-empty", "-m", "one")
    for at, commit in ((place, git("rev-parse", "HEAD")), (tmp_path, None)):
        monkeypatch.chdir(at)
        assert main(tiny("tracking=wandb", "trainer.epochs=1", f"runs={at}/runs")) == 0
        log = only_log(at / "runs")
        assert Recorded(log).of("run")[0].get("git") == (commit and {"commit": commit})
        assert not any(b"planted" in path.read_bytes() for path in log.parent.rglob("*") if path.is_file())


def test_system_figures_are_a_choice(tiny: Tiny, tmp_path: Path) -> None:
    for choice in ("false", "true"):
        runs = tmp_path / choice
        assert main(tiny("tracking=wandb", f"tracking.system={choice}", "trainer.epochs=1", f"runs={runs}")) == 0
        assert bool(Recorded(only_log(runs)).of("stats")) == (choice == "true")
