"""What a finished run makes known: what was asked about one utterance, and how long a training takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.ledger import main as ledger
from experiments.plan import main as plan
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.pipeline.plan import training_seconds
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.tables import PredictionTable
from tests.composed import compose
from tests.pipeline.test_run import Recorder

Tiny = Callable[..., list[str]]


def test_what_was_asked_about_an_utterance(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31mno\x07 [bold]way[/bold]"
    corpus = generate_sample(dialogues=15)
    said = [
        replace(d, utterances=tuple(replace(u, text=f"{u.text} {hostile}") for u in d.utterances))
        for d in corpus.dialogues
    ]
    path = replace(corpus, dialogues=tuple(said)).save(tmp_path / "c")
    ready = preflight(compose(tiny(f"corpus.path={path}", "trainer.epochs=1")))
    run(ready, Recorder())
    folder = str(ready.folder)
    for name in ("dev", "test"):
        table = PredictionTable.load(ready.folder / f"predictions.{name}.parquet")
        turn = f"{table.dialogues[1]}/{table.utterances[1]}"
        assert ledger(["show", "--turn", turn, "--run", folder]) == 0
        out = capsys.readouterr().out
        asked = int((table.fields.positions[1] >= 0).sum()) if table.fields is not None else 0
        assert out.startswith(f"{turn} in {name}, ")
        assert out.count("\nband ") == out.count("\nreply of simulated") >= max(1, asked) > 0
        assert "<dialogue>" in out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]way[/bold]" in out
    for arguments, told in (
        (["--turn", turn], "give a key, or --turn DIALOGUE/UTTERANCE together with --run FOLDER"),
        ([], "show what"),
        (["abcdef", "--turn", turn, "--run", folder], "show what"),
        (["--turn", "x/y", "--run", folder], "has no dialogue 'x'"),
        (["--turn", f"{table.dialogues[1]}/nobody", "--run", folder], "has no utterance 'nobody'"),
        (["--turn", f"{corpus.dialogues[0].id}/{corpus.dialogues[0].utterances[0].id}", "--run", folder], "nothing"),
        (["--turn", turn, "--run", str(tmp_path)], "is not a finished run"),
    ):
        with pytest.raises(UserError, match=told):
            ledger(["show", *arguments])
    (tmp_path / "runs" / "ledger.sqlite").rename(tmp_path / "aside.sqlite")
    with pytest.raises(UserError, match=r"ledger\.sqlite is not there"):
        ledger(["show", "--turn", turn, "--run", folder])
    from lantern.refine.ledger.ledger import Ledger

    Ledger(tmp_path / "runs" / "ledger.sqlite").close()
    with pytest.raises(UserError, match="its ledger has no question about"):
        ledger(["show", "--turn", turn, "--run", folder])
    about = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
    (path / "corpus.json").write_text(json.dumps({**about, "redistribution": "forbidden"}), encoding="utf-8")
    with pytest.raises(UserError, match="forbids passing its text on"):
        ledger(["show", "--turn", turn, "--run", folder])
    assert capsys.readouterr().out == ""


def test_the_time_of_a_training_is_known_once_there_was_one(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(*more: str) -> float | None:
        return training_seconds([preflight(compose(tiny(*more)), check_backend=False)])

    plan(tiny("trainer.epochs=3"))
    assert "1 to train, 0 to reuse; training time not known yet" in capsys.readouterr().out
    assert seconds() is None
    run(preflight(compose(tiny("trainer.epochs=3"))), Recorder())
    assert seconds("trainer.epochs=3") == 0.0, "nothing is left to train"
    once = seconds("trainer.epochs=30", "seed=1")
    assert once is not None
    assert once > 0
    assert seconds("trainer.epochs=60", "seed=1") == pytest.approx(2 * once)
    assert seconds("backbone.hidden=32") is None, "another size takes another time"
    plan(tiny("trainer.epochs=3"))
    assert "0 to train, 1 to reuse\n" in capsys.readouterr().out
    plan(tiny("trainer.epochs=3", "seed=1"))
    assert "1 to train, 0 to reuse; training time about" in capsys.readouterr().out
