from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.cli.console import ConsoleReporter, command
from experiments.run import main
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.pipeline.preflight import preflight, too_wide
from lantern.pipeline.run import run
from lantern.refine.types import Progress
from lantern.tables import PredictionTable
from tests.composed import compose, tiny_run

Tiny = Callable[..., list[str]]


class Recorder:
    """A reporter that remembers, and can interrupt as Ctrl-C does."""

    def __init__(self, stop_at_epoch: int | None = None, stop_at_stage: str | None = None) -> None:
        self.stop_at_epoch, self.stop_at_stage = stop_at_epoch, stop_at_stage
        self.stages: list[str] = []
        self.epochs: list[int] = []
        self.notes: list[str] = []
        self.progress: list[Progress] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)
        if self.stop_at_stage is not None and title.startswith(self.stop_at_stage):
            raise KeyboardInterrupt

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.epochs.append(epoch)
        if epoch == self.stop_at_epoch:
            raise KeyboardInterrupt

    def asking(self, progress: Progress) -> None:
        self.progress.append(progress)

    def note(self, text: str) -> None:
        self.notes.append(text)


def go(overrides: list[str], reporter: Recorder | None = None) -> dict[str, Any]:
    return run(preflight(compose(overrides)), reporter or Recorder())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    """The overrides of a run, and its result."""
    overrides = tiny_run(tmp_path_factory.mktemp("finished"))
    return overrides, go(overrides)


def test_a_run_leaves_everything(finished: tuple[list[str], dict[str, Any]]) -> None:
    result = finished[1]
    folder = Path(result["folder"])
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    methods = result["test"]["methods"]
    assert {"vanilla", "mean", "weighted", "band0", "band1", "stacking"} <= set(methods)
    assert result["llm"]["calls"] == result["llm"]["prompts"] == result["llm"]["fields"]
    assert any("simulated" in note for note in result["notes"])
    assert any("made up" in note for note in result["notes"])
    frame = pd.read_parquet(folder / "predictions.test.parquet")
    assert len(frame) == result["test"]["rows"]
    table = PredictionTable.load(folder / "predictions.test.parquet")
    assert table.merged is not None
    assert table.merged.sum(axis=1) == pytest.approx(1)
    assert table.weights is None or table.weights.sum(axis=1) == pytest.approx(1)
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (folder / "config.yaml").is_file()
    assert list((folder / "training").glob("metrics.csv"))
    reads = [json.loads(line) for line in (folder.parent / "test_reads.jsonl").read_text().splitlines()]
    assert reads[0]["reads_before"] == 0


def test_the_same_command_again_trains_nothing_and_asks_nothing(
    finished: tuple[list[str], dict[str, Any]], tmp_path: Path
) -> None:
    overrides, first = finished
    runs = shutil.copytree(Path(first["folder"]).parent, tmp_path / "runs")
    again = Recorder()
    second = go([*overrides, f"runs={runs}"], again)
    assert second["llm"]["calls"] == 0
    assert again.epochs == []
    assert second["test"] == first["test"]
    assert second["weighting"] == first["weighting"]


def test_a_run_goes_on_after_ctrl_c_in_training(tiny: Tiny, finished: tuple[list[str], dict[str, Any]]) -> None:
    whole = finished[1]
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), Recorder(stop_at_epoch=3))
    resumed = Recorder()
    result = go(tiny(), resumed)
    assert resumed.epochs[0] > 1
    assert resumed.epochs[-1] == 4
    assert result["test"] == whole["test"]


@pytest.mark.parametrize(("stage", "left"), [("refine dev", "all"), ("refine test", "some"), ("weight", "none")])
def test_a_run_goes_on_after_ctrl_c_in_a_later_stage(tiny: Tiny, stage: str, left: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), Recorder(stop_at_stage=stage))
    resumed = Recorder()
    result = go(tiny(), resumed)
    assert resumed.epochs == []
    calls, prompts = result["llm"]["calls"], result["llm"]["prompts"]
    assert {"all": calls == prompts, "some": 0 < calls < prompts, "none": calls == 0}[left]


@pytest.mark.parametrize("during", ["training", "asking"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_are_told_and_end_with_130(
    tiny: Tiny,
    during: str,
    how: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []

    def show(self: ConsoleReporter, *about: object) -> None:
        shown.append(about)
        if len(shown) == 2:
            os.kill(os.getpid(), how)

    monkeypatch.setattr(ConsoleReporter, during, show)
    monkeypatch.setattr(sys, "argv", ["run", *tiny()])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            command(main)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 130
    assert len(shown) == 2
    assert capsys.readouterr().err.strip() == "interrupted; the same command goes on where it stopped"


def test_failures_are_counted_and_masked(tiny: Tiny) -> None:
    result = go(tiny("llm.simulated.failure_rate=0.5", "refine.repair=false"))
    failed = result["llm"]["failed_fields"]
    assert result["llm"]["failures"] == {"cut_off": failed}
    assert 0.2 < failed / result["llm"]["fields"] < 0.8
    assert result["incomplete"] is None, "what got a reply is settled, good or bad"
    table = PredictionTable.load(Path(result["folder"]) / "predictions.test.parquet")
    assert table.fields is not None
    assert table.merged is not None
    silent = ~table.fields.mask.any(axis=1)
    assert silent.any()
    assert (table.merged[silent] == table.vanilla[silent]).all()


def test_without_an_llm(tiny: Tiny) -> None:
    result = go(tiny("refine.enabled=false", "refine.limit_dialogues=1"))
    assert result["llm"] is None
    assert set(result["test"]["methods"]) == {"vanilla"}
    assert result["test"]["dialogues"] == result["protocol"]["test"] > 1
    assert not any("refined" in note for note in result["notes"])


@pytest.mark.parametrize("when", ["best", "every_n"])
def test_the_callback_in_training(tiny: Tiny, when: str) -> None:
    recorder = Recorder()
    result = go(tiny(f"refine.when={when}", "refine.every_n=2"), recorder)
    csv = pd.read_csv(Path(result["folder"]) / "training" / "metrics.csv")
    logged = csv["refine/weighted_f1"].notna().sum()
    assert logged == (2 if when == "every_n" else logged)
    assert logged >= 1
    assert result["llm"]["calls"] <= result["llm"]["prompts"]


@pytest.mark.parametrize("backbone", ["corect_small", "sdt_small"])
@pytest.mark.parametrize("modalities", ["[text]", "[visual,text]"])
def test_backbones_run_on_any_modalities_and_without_scores(tiny: Tiny, backbone: str, modalities: str) -> None:
    overrides = [o for o in tiny() if not o.startswith("backbone")]
    small = ["text_feedforward=16", "hidden=14"] if backbone == "corect_small" else ["hidden=16"]
    extra = [f"backbone={backbone}", "trainer.epochs=1", "model.dimensions=false", f"corpus.modalities={modalities}"]
    result = go([*overrides, *extra, *(f"backbone.{o}" for o in small)])
    assert result["test"]["dimensions"] is None
    table = PredictionTable.load(Path(result["folder"]) / "predictions.test.parquet")
    assert table.predicted_scores is None


def test_consent_is_needed_for_a_corpus_that_may_not_be_passed_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from lantern.corpora.sample.generator import generate_sample

    dataclasses.replace(generate_sample(dialogues=10), redistribution="forbidden").save(tmp_path / "c")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    remote = tiny(f"corpus.path={tmp_path}/c", "llm=gpt-4o")
    with pytest.raises(UserError, match="allow_external_llm=true"):
        preflight(compose(remote))
    preflight(compose([*remote, "corpus.allow_external_llm=true"]))
    preflight(compose(tiny(f"corpus.path={tmp_path}/c")))


def test_a_run_ends_with_its_answer_and_the_page_that_shows_it(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(tiny()) == 0
    *_, answer, report = (line.strip() for line in capsys.readouterr().out.splitlines() if line.strip())
    assert re.match(r"(LLM simulated|Whether LLM simulated)", answer)
    page = Path(report.removeprefix("report: "))
    assert answer.split(": ")[1].split(", ")[0] in page.read_text(encoding="utf-8")
    assert main(["-m", *tiny("seed=1,2")]) == 0
    out = capsys.readouterr().out
    *_, answer, report, sweep = (line.strip() for line in out.splitlines() if line.strip())
    assert "simulated" in answer
    assert report == f"report: {sweep.removeprefix('sweep: ')}/report.html"
    assert Path(report.removeprefix("report: ")).is_file()
    assert "1/2" in out
    assert "sweep: test split" in out
    assert " ± " in out


def test_wandb_offline_holds_the_summary_and_no_key(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "planted-wandb-key-0123456789abcdef01234567")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-value")
    result = go(tiny("tracking=wandb", "trainer.epochs=1"))
    (record,) = Path(result["folder"]).rglob("*.wandb")
    end = time.monotonic() + 200  # W&B's own process writes it, in its own time
    while b"test/weighted/accuracy" not in record.read_bytes():
        assert time.monotonic() < end, record.read_bytes()[:200]
        time.sleep(0.05)
    files = [p for p in Path(result["folder"]).rglob("*") if p.is_file()]
    for path in [*files, tmp_path / "runs" / "ledger.sqlite"]:
        content = path.read_bytes()
        assert b"planted-wandb-key" not in content, path
        assert b"sk-planted-secret" not in content, path


def test_a_backbone_far_wider_than_its_features_says_so(tiny: Tiny, tmp_path: Path) -> None:
    recorder = Recorder()
    result = go(tiny("refine.enabled=false", "backbone.hidden=320", "trainer.epochs=1"), recorder)
    (line,) = [note for note in result["notes"] if "as wide as the features" in note]
    assert line in recorder.notes
    assert "hidden=320 is 2.2 times as wide as the features (64-d text + 32-d audio + 48-d visual)" in line
    assert f"the {result['protocol']['train']} training dialogues by heart: set backbone.hidden=64 or so" in line
    made = generate_sample(dialogues=15)
    text = np.zeros((len(made.utterances), 384), np.float32)
    wide = made.without_features().with_features("text", text, made.cards["text"])
    replace(wide, name="meld").save(tmp_path / "meld")
    arguments = ["corpus=meld", f"corpus.path={tmp_path}/meld", "refine.enabled=false", f"runs={tmp_path}/runs"]
    for backbone in ("sdt", "corect", "gru"):  # with what the corpus brings
        assert too_wide(preflight(compose([*arguments, f"backbone={backbone}"]))) == []
    (line,) = too_wide(preflight(compose([*arguments, "backbone=sdt", "backbone.hidden=1024"])))
    assert "hidden=1024 is 2.7 times as wide as the features (384-d text)" in line
    assert line.endswith("set backbone.hidden=128 or so")
