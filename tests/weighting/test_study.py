from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.run import main
from lantern.tables import PredictionTable
from lantern.weighting import study as module
from lantern.weighting.config import StudyConfig, WeightingConfig
from lantern.weighting.simulation import World, draw


@pytest.fixture
def two_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SKILLED", {"skilled": World()})
    monkeypatch.setattr(module, "USELESS", {"random": World(kind="random")})


@pytest.mark.slow
@pytest.mark.usefixtures("two_worlds")
def test_the_weighting_reaches_the_optimum_and_in_sample_fitting_does_not() -> None:
    skilled, useless = module.study(StudyConfig(seeds=2, first_seed=40), WeightingConfig())
    assert skilled.share is not None
    assert skilled.share > 0.94
    assert skilled.share_in_sample is not None
    assert skilled.share_in_sample < skilled.share - 0.01
    assert min(a - b for a, b in zip(skilled.weighted, skilled.mean, strict=True)) > 5
    assert useless.share is None
    assert abs(useless.as_dict()["gain"]["mean"]) <= 0.2
    assert useless.in_sample == []
    assert useless.as_dict()["choices"] == {"vanilla": 2}
    assert set(skilled.choices) <= {"attention", "band"}


@pytest.mark.usefixtures("two_worlds")
def test_no_draw_is_both_fitted_on_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def record(world: World, utterances: int, seed: int) -> tuple[PredictionTable, np.ndarray]:
        drawn.append((utterances, seed))
        return draw(world, utterances, seed)

    monkeypatch.setattr(module, "draw", record)
    module.study(StudyConfig(seeds=3, first_seed=1, fit=20, test=100), WeightingConfig(name="mean"))
    fitted, scored = ({seed for count, seed in drawn if count == size} for size in (20, 100))
    assert len(fitted) == len(scored) == 3
    assert not fitted & scored


@pytest.mark.usefixtures("two_worlds")
def test_the_study_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["study.seeds=1", "study.fit=200", "study.test=300", "weighting.guard=false"]
    assert main(["experiment=simulate", *small, f"runs={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "useless LLM: random" in out
    assert "fitted in-sample" in out
    worlds = json.loads((tmp_path / "simulate.json").read_text())["worlds"]
    assert "attention 1" in out
    assert [world["world"] for world in worlds] == ["skilled", "useless LLM: random"]
