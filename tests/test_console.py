"""What a log of a run says: a first line at once, then how far each stage is and how long it will take."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from experiments.cli.console import ConsoleReporter
from lantern.refine.types import Progress
from lantern.results.progress import Meter, Recorder, duration

ROOT = Path(__file__).resolve().parent.parent
Tiny = Callable[..., list[str]]


class Clock:
    """``time.monotonic`` that moves only when it is wound."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("lantern.results.progress.time.monotonic", made)
    return made


def reporter() -> tuple[ConsoleReporter, io.StringIO]:
    file = io.StringIO()
    return ConsoleReporter(Console(file=file, width=100, force_terminal=False)), file


@pytest.mark.parametrize(
    ("total", "seconds", "lines"),
    [(100, 2.0, 10), (1000, 2.0, 67), (20, 60.0, 20), (100, 0.01, 1), (5, 2.0, 5), (7, 31.0, 7)],
)
@pytest.mark.parametrize("stage", ["training", "asking"])
def test_a_log_has_a_line_for_every_tenth_and_every_half_minute(
    clock: Clock, stage: str, total: int, seconds: float, lines: int
) -> None:
    console, file = reporter()
    console.stage("stage")
    for done in range(1, total + 1):
        clock.now += seconds
        if stage == "training":
            console.training(done, total, {"train/loss": 1.5})
        else:
            console.asking(Progress(total, done, 0, 0, done, 0.5, None))
    console.note("over")
    said = file.getvalue().splitlines()
    assert (said[0], said[-1]) == ("stage", "  over")
    if (total, seconds) == (1000, 2.0):  # every half minute, which is more often than every tenth
        assert 67 <= len(said) - 2 <= 77
    else:
        assert len(said) - 2 == lines
    assert f"{total}/{total}" in said[-2]


@pytest.mark.parametrize("pace", [0.2, 3.0, 90.0])
@pytest.mark.parametrize("resumed", [0, 30])
def test_the_time_left_is_right_whatever_came_before(clock: Clock, pace: float, resumed: int) -> None:
    meter = Meter()
    clock.now += 25  # imports and data
    assert meter.left(resumed + 1, 60) is None
    for epoch in range(resumed + 2, 60):
        clock.now += pace
        assert meter.left(epoch, 60) == pytest.approx(pace * (60 - epoch))
    assert f"about {duration(pace)} left" in meter.training(59, 60, {}) or pace < 0.5


def test_what_is_said_is_logged_too(clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    recorder = Recorder(tmp_path, None)
    recorder.stage("train gru")
    for epoch in range(1, 31):
        clock.now += 2
        recorder.training(epoch, 30, {})
    recorder.stage("refine test")
    recorder.asking(Progress(9, 9, 9, 0, 0, 0.0, 0.0, notice="the LLM does not answer"))
    recorder.note("a note")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "train gru"
    assert len([line for line in said if line.startswith("  epoch")]) == 10
    fields = "  9/9 fields, 9 from the ledger, 0 failed"
    assert said[-4:] == ["refine test", "  the LLM does not answer", fields, "  a note"]


@pytest.mark.slow
def test_a_run_whose_output_is_a_file(tiny: Tiny, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "experiments.run", *tiny("trainer.epochs=2")]
    # Both outputs in one pipe, in the order of their lines.
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    before, _, rest = done.stdout.partition("reading settings\n")
    assert done.returncode == 0, rest
    assert "experiments.cli.console" in before
    imports = re.compile(r"^import time:.*\| +(torch|hydra|numpy|rich)$", re.MULTILINE)
    assert not imports.search(before), "it says something before what takes time"
    assert imports.search(rest)
    assert "epoch 2/2" in rest
    log = next((tmp_path / "runs").glob("*/run.log")).read_text(encoding="utf-8")
    for part in ("train gru on", "epoch 2/2", "refine test with simulated", "weighted (", "note: the LLM is simulated"):
        assert part in rest
        assert part in log
    assert re.search(r"result\n+.*test split", log)
