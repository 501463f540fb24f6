from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.compare import main
from experiments.run import main as run
from lantern.errors import UserError
from tests.results.made_runs import write_run

ROOT = Path(__file__).resolve().parent.parent
Tiny = Callable[..., list[str]]


def test_real_runs_become_a_table_and_a_report(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-m", *tiny("seed=0,1", "trainer.epochs=2", "corpus.dialogues=20")]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "gru + simulated" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "table.csv",
        "table.md",
        "table.tex",
    ]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for part in ("Backbone × LLM", "Confusion", "Reliability", "Weights by band", "Gain by context length", "Slices"):
        assert part in page
    for part in ("Cost against gain", "Failures by kind", "Protocol and provenance", "also said in training", "torch "):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("redistribution", ["forbidden", "allowed"])
def test_forbidden_text_stands_nowhere_unless_asked(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], redistribution: str
) -> None:
    from lantern.corpora.sample.generator import generate_sample

    corpus = dataclasses.replace(generate_sample(dialogues=15), redistribution=redistribution)
    corpus.save(tmp_path / "c")
    texts = [u.text for i in corpus.splits["test"] for u in corpus.by_id[i].utterances if len(u.text) > 15]
    assert run(tiny(f"corpus.path={tmp_path}/c", "trainer.epochs=1")) == 0
    for options in ([], ["--with-text"]):
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *options])
        shown = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
        there = [text for text in texts if text.replace("&", "\\u0026") in shown]
        assert there == (texts if options or redistribution == "allowed" else [])
    (tmp_path / "c" / "manifest.jsonl").unlink()
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--with-text"])
    assert "without text" in capsys.readouterr().out


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "gru", "simulated", 0, turns=40)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.yaml").write_text("seed: 1\n")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "broken is not a finished run" in capsys.readouterr().out
    assert "broken is not a finished run" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="not a finished run"):
        main([str(tmp_path / "runs" / "broken")])


@pytest.mark.parametrize("given", [["--help"], ["RUNS", "--out", "OUT"]])
def test_nothing_heavy_is_imported(tmp_path: Path, given: list[str]) -> None:
    write_run(tmp_path / "runs", "gru", "simulated", 0, turns=40)
    code = (
        "import sys; from experiments.compare import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'lightning', 'litellm', 'wandb', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    places = {"RUNS": str(tmp_path / "runs"), "OUT": str(tmp_path / "out")}
    arguments = [places.get(argument, argument) for argument in given]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
