"""``import lantern``: ten names, found when they are used."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lantern
from experiments.examples import api as example_api
from lantern.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Tiny = Callable[..., list[str]]


def test_the_import_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'lightning', 'litellm', 'numpy', 'hydra', 'yaml', 'lantern.config'}"
    code = (
        f"import sys, lantern; assert not {heavy} & set(sys.modules), sys.modules; lantern.compose; lantern.load_runs"
    )
    code += "; assert not {'torch', 'litellm'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_found_documented_and_what_type_checkers_are_told() -> None:
    tree = ast.parse((ROOT / "lantern" / "__init__.py").read_text(encoding="utf-8"))
    told = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert len(lantern.__all__) == 10
    for name in lantern.__all__:
        found = getattr(lantern, name)
        assert found.__doc__
        assert found.__module__ == told[name]
        assert f"`{name}`" in (lantern.__doc__ or "")
    assert {name for name in dir(lantern) if not name.startswith("_")} == set(lantern.__all__)
    with pytest.raises(AttributeError, match="no attribute 'loaad'"):
        _ = lantern.loaad  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_example_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example_api.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "Corpus('sample', sample-6, 30 dialogues" in out
    assert "calls and $" in out
    assert out.count("points of accuracy by the LLM") == 2
    assert "reused" in out  # the vanilla model is trained once
    assert [line.split(":")[0] for line in out.splitlines()[-3:]] == ["Ann", "Bob", "Ann"]
    runs = lantern.load_runs(tmp_path)
    assert sorted(run.table("dev").coverage for run in runs) == [1, 3]
    assert all(len(repr(found)) < 200 for found in (runs[0], runs[0].table(), lantern.load(runs[0].folder)))


def test_a_plan_starts_nothing(tiny: Tiny, tmp_path: Path) -> None:
    plan = lantern.plan_experiment(lantern.compose(tiny()))
    assert plan.asking is not None
    assert plan.asking.calls > 0
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_run_is_told(tiny: Tiny) -> None:
    for settings, told in (
        ("llm=simulated", r"settings='llm=simulated' is one text"),
        (["experiment=ablate_window"], "several runs"),
        (["experiment=simulate"], "several runs"),
        (tiny("backbone.hiden=3"), "Did you mean 'hidden'"),
    ):
        with pytest.raises(UserError, match=told):
            lantern.run_experiment(settings)


def test_unfinished_runs_are_left_out_aloud(tmp_path: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    run = lantern.run_experiment(tiny("refine.enabled=false", "trainer.epochs=1"))
    half = run.folder.with_name("half")
    half.mkdir()
    (half / "config.yaml").write_text("seed: 0\n")
    with caplog.at_level(logging.WARNING):
        assert [found.folder for found in lantern.load_runs(str(run.folder.parent))] == [run.folder]
    assert "half is not a finished run" in caplog.text
