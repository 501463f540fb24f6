from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.metrics.classification import classification_report
from lantern.results.groups import Group, corrected
from lantern.tables import PredictionTable
from lantern.weighting.simulation import World, draw


def run(folder: Path, seed: int, merged: bool = True) -> dict[str, Any]:
    table, bayes = draw(World(), 400, seed=0)
    rng = np.random.default_rng(seed)
    noisy = table.vanilla * rng.uniform(0.5, 1.5, size=table.vanilla.shape)
    noisy /= noisy.sum(axis=1, keepdims=True)
    table = replace(table, vanilla=noisy, merged=bayes if merged else None, split="test")
    table.save(folder / "predictions.test.parquet")
    methods = {"vanilla": classification_report(table.vanilla, table.labels, table.classes)}
    if merged:
        methods["weighted"] = classification_report(bayes, table.labels, table.classes)
    return {"folder": str(folder), "test": {"methods": methods}}


def test_a_group_pools_its_seeds(tmp_path: Path) -> None:
    group = Group("g", [run(tmp_path / str(seed), seed) for seed in range(3)])
    gain, spread = group.gain("accuracy"), group.spread("vanilla", "accuracy")
    assert gain is not None
    assert spread is not None
    assert spread["n"] == 3
    assert group.difference is not None
    one = group.difference["accuracy"]
    assert one.difference == pytest.approx(gain["mean"])
    assert 0 < one.low < one.difference < one.high
    mean = np.mean([table.vanilla for table in group.tables], axis=0)
    assert group.ensemble is not None
    assert group.ensemble["accuracy"] == pytest.approx(float((mean.argmax(1) == group.tables[0].labels).mean()))
    other = Group("h", [run(tmp_path / "h", 5)])
    found = corrected([group, other])
    assert found["g"] == pytest.approx(2 * one.p_value)
    assert other.ensemble is None


def test_runs_without_an_llm_or_on_other_utterances_have_no_difference(tmp_path: Path) -> None:
    plain = Group("p", [run(tmp_path / "p", 0, merged=False)])
    assert plain.gain("accuracy") is None
    assert plain.difference is None
    assert corrected([plain]) == {}
    results = [run(tmp_path / name, 0) for name in ("a", "b")]
    path = tmp_path / "b" / "predictions.test.parquet"
    PredictionTable.load(path).select(slice(1, None)).save(path)
    mixed = Group("m", results)
    assert not mixed.same_rows
    assert mixed.difference is None
    assert mixed.ensemble is None
