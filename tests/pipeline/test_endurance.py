"""Small variants of ``benchmarks.endurance``: a run under faults, interrupted, and with a damaged ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import endurance
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.refine.ledger.ledger import Ledger
from tests.composed import compose
from tests.pipeline.test_run import Recorder
from tests.processes import start

Tiny = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the benchmark without their imports."""
    monkeypatch.setattr(endurance, "run", lambda arguments: start("-m", "experiments.run", *arguments))


@pytest.mark.slow
def test_a_run_under_faults_accounts_for_every_utterance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endurance.faults(tmp_path, dialogues=15, timeout=1)
    assert "entries accounted for" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_while_the_llm_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endurance.ctrl_c(tmp_path, dialogues=15)
    assert "exit 130" in capsys.readouterr().out


def test_a_run_goes_on_past_a_damaged_row(tiny: Tiny, tmp_path: Path) -> None:
    ready, path = preflight(compose(tiny("trainer.epochs=1"))), tmp_path / "runs" / "ledger.sqlite"
    first = run(ready, Recorder())
    raw = path.read_bytes()
    at = raw.index(b'{"1": {"happy": 0.') + 18
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    recorder = Recorder()
    again = run(ready, recorder)
    assert (again["llm"]["calls"], again["test"]) == (1, first["test"])
    (line,) = [line for line in recorder.notes if "damaged" in line]
    assert line == (
        f"the ledger {path} has 1 damaged row, whose question is asked again. Set aside what is damaged: "
        f"python -m experiments.ledger repair --ledger={path}"
    )
    assert "damaged" in (ready.folder / "run.log").read_text()
    assert run(ready, Recorder())["llm"]["calls"] == 0


def test_the_run_says_how_far_its_money_went(tmp_path: Path) -> None:
    with endurance.server(tmp_path, 0.0) as asked:
        price = ["llm.free=false", "llm.price_input=1", "llm.price_output=1"]
        given = endurance.run_arguments(tmp_path, asked.url, "corpus.dialogues=15", "refine.max_cost=0.01", *price)
        result = run(preflight(compose(given)), Recorder())
        paid = len(asked.answered)
    llm = result["llm"]
    assert 0 < llm["cost"] <= 0.01
    assert llm["failures"] == {"budget": llm["fields"] - paid}
    note = next(note for note in result["notes"] if note.startswith("refine.max_cost"))
    assert note.startswith(f"refine.max_cost=0.01 stopped the LLM after {paid} of {llm['fields']} fields")
    with Ledger(tmp_path / "runs" / "ledger.sqlite") as ledger:
        assert ledger.stats().answers == paid
