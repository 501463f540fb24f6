from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lantern.metrics.paired import holm
from lantern.report.terminal import print_run
from lantern.results.scores import methods, split_result
from lantern.weighting.simulation import World, draw


def result(merges: dict[str, np.ndarray] | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    table, bayes = draw(World(), 300, seed=0)
    better = np.roll(bayes, 1, axis=0)
    better[:150] = bayes[:150]
    found = merges or {"mean": better, "band": bayes, "attention": bayes}
    table = replace(table, merged=bayes)
    probabilities = methods(table, {"temperature": table.vanilla**0.9, **found})
    return split_result(table, probabilities, seed=0), probabilities


def test_the_family_counts_equal_predictions_once() -> None:
    split, _ = result()
    tests = split["against_vanilla"]
    assert set(tests) == {"mean", "band", "attention", "weighted"}
    assert {test["family"] for test in tests.values()} == {2}
    raw = {name: tests[name]["accuracy"]["p_value"] for name in ("mean", "band")}
    expected = holm(raw)
    assert {name: tests[name]["holm"] for name in raw} == pytest.approx(expected)
    assert tests["weighted"] == tests["attention"] == tests["band"]
    assert json.loads(json.dumps(split)) == split


def test_a_merge_that_changes_no_class_is_no_comparison() -> None:
    table, _ = draw(World(), 300, seed=0)
    split, probabilities = result({"mean": table.vanilla**0.5})
    tests = split["against_vanilla"]
    assert (tests["mean"]["holm"], tests["mean"]["family"]) == (1.0, 1)
    assert tests["weighted"]["holm"] == tests["weighted"]["accuracy"]["p_value"]
    assert (probabilities["mean"].argmax(1) == probabilities["vanilla"].argmax(1)).all()


def test_every_merge_of_the_table_has_its_corrected_p() -> None:
    split, _ = result()
    run = {
        "title": "t",
        "folder": "f",
        "test": split,
        "weighting": None,
        "llm": None,
        "notes": [],
        "protocol": {},
    }
    out = io.StringIO()
    print_run(Console(file=out, width=120), run)
    lines = out.getvalue().splitlines()
    assert max(map(len, (line.rstrip() for line in lines[:9]))) <= 120
    head = next(line for line in lines if "macro F1" in line)
    assert head.rstrip().endswith("p (Holm)")
    shown = {line[:20].strip(): line.split()[-1] for line in lines if line.strip()}
    assert shown["uniform mean"] == f"{split['against_vanilla']['mean']['holm']:.2g}"
    assert shown["weighted (none)"] == f"{split['against_vanilla']['weighted']['holm']:.2g}"
