"""Several processes train one model together; everything else is done by one of them, outside their group."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lantern.corpora.data import EpochSampler
from lantern.errors import UserError
from lantern.pipeline.trainer import follower
from tests.composed import compose
from tests.processes import ROOT, start

Tiny = Callable[..., list[str]]


def spawned(arguments: list[str]) -> str:
    process = start("-m", "experiments.run", *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def torchrun(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "experiments.run"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_spawned_processes_and_torchrun_train_the_same_model_once(tiny: Tiny, tmp_path: Path) -> None:
    found = []
    for name, run in (("spawned", spawned), ("torchrun", torchrun)):
        out = run(tiny("trainer.devices=2", "trainer.threads=1", "trainer.epochs=2", f"runs={tmp_path}/{name}"))
        assert out.count("test split") == 1  # the second process is silent
        (folder,) = (tmp_path / name).glob("sample-*")
        curves = (folder / "training" / "metrics.csv").read_text(encoding="utf-8")
        table = (folder / "predictions.test.parquet").read_bytes()
        assert json.loads((folder / "metrics.json").read_text())["llm"]["calls"] > 0
        assert len((tmp_path / name / "stages" / "log.jsonl").read_text().splitlines()) == 1
        assert len((tmp_path / name / "test_reads.jsonl").read_text().splitlines()) == 1
        found.append((folder.name, curves, table))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("several", ["trainer.devices=2", "trainer.workers=2"])
def test_kill_ends_the_other_processes_too(tiny: Tiny, tmp_path: Path, several: str) -> None:
    process = start("-m", "experiments.run", *tiny(several, "trainer.epochs=100000", "weighting.fit_on=oof"))
    while not list((tmp_path / "runs" / "stages").glob("train/*/last.ckpt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()  # waits for all that write there
    assert process.returncode == 130, err
    assert "interrupted; the same command goes on" in err


def test_together_the_processes_see_each_dialogue_in_the_order_of_one() -> None:
    alone = list(EpochSampler(7, seed=3))
    parts = [list(EpochSampler(7, seed=3, rank=rank, processes=2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [4, 4] == [len(EpochSampler(7, 3, rank, 2)) for rank in (0, 1)]
    merged = [index for pair in zip(*parts) for index in pair]
    assert merged == [*alone, alone[0]]


def test_who_follows(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = compose(tiny("trainer.devices=2"))
    assert not follower(pair)
    assert not follower(compose(tiny()))
    with pytest.raises(UserError, match=r"trainer.nodes=2: start the command with srun or torchrun"):
        follower(compose(tiny("trainer.nodes=2")))
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("GROUP_RANK", "0")
    assert follower(pair)
    monkeypatch.setenv("RANK", "0")
    assert not follower(pair)
    with pytest.raises(UserError, match="2 processes were started"):
        follower(compose(tiny("trainer.devices=3")))


def test_no_llm_is_asked_inside_a_group(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"refine.when=best asks the LLM inside the training"):
        compose(tiny("trainer.devices=2", "refine.when=best"))
