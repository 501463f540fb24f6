"""Every ready experiment file runs, and says how to run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run import main
from experiments.trials import compose_all
from lantern.names import CONFIG_DIR, choices
from lantern.store import digest

FILES = choices("experiment")


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_file_starts_with_its_command_and_its_question(name: str) -> None:
    lines = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python -m experiments.run experiment={name}")
    assert lines[2].startswith("# ")


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("simulate",)])
def test_an_experiment_runs(
    name: str, tiny: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tiny(
        "backbone.epochs=1", "weighting.guard=false", f"experiment={name}", "corpus=sample", "corpus.path=null"
    )
    trials, configs = compose_all([small])
    assert len({digest(json.loads(json.dumps(c, default=vars))) for c in configs}) == len(configs)
    assert main(small) == 0
    out = capsys.readouterr().out
    assert ("sweep: test split" in out) == (len(trials) > 1)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert len(runs) == len(trials)


def test_variants_multiply_with_a_sweep(tiny: Callable[..., list[str]]) -> None:
    trials, configs = compose_all([[*tiny("experiment=causal"), f"seed={seed}"] for seed in (0, 1)])
    assert [(c.seed, c.refine.context) for c in configs] == [(0, "both"), (0, "causal"), (1, "both"), (1, "causal")]
    assert trials[1][-2:] == ["seed=0", "refine.context=causal"]
    assert all(c.variants == [] for c in configs)
