from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lantern.metrics.dimensions import concordance, dimension_report, pearson, table_dimension_report
from lantern.tables import Row
from tests.rows import table_from_rows


def plain_ccc(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * np.cov(x, y, bias=True)[0, 1] / (np.var(x) + np.var(y) + (np.mean(x) - np.mean(y)) ** 2)


def test_report_agrees_with_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    rated = rng.uniform(1, 5, size=(200, 3))
    predicted = rated * 0.5 + 1 + rng.normal(size=(200, 3)) * 0.4
    rated[rng.random((200, 3)) < 0.2] = np.nan
    predicted[:7] = np.nan
    report = dimension_report(predicted, rated)
    for k, name in enumerate(("valence", "arousal", "dominance")):
        both = np.isfinite(rated[:, k]) & np.isfinite(predicted[:, k])
        x, y = predicted[both, k], rated[both, k]
        assert report[name]["rows"] == both.sum()
        assert report[name]["ccc"] == pytest.approx(plain_ccc(x, y))
        assert report[name]["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert report[name]["rmse"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert json.loads(json.dumps(report)) == report


def test_constants_and_single_values_are_none() -> None:
    constant, rising = np.full(5, 3.3), np.arange(5.0)
    assert concordance(constant, rising) is None
    assert pearson(rising, constant) is None
    assert concordance(rising[:1], rising[:1]) is None
    nothing = dimension_report(np.full((4, 3), np.nan), np.ones((4, 3)))
    assert nothing["valence"] == {"rows": 0, "ccc": None, "pearson": None, "rmse": None}
    assert concordance(rising, rising) == pytest.approx(1)
    assert concordance(rising, -rising) < 0


def test_table_without_scores_has_no_report() -> None:
    rows = [
        Row("d", f"u{i}", i, "A", 0, [1.0 + i, None, 3.0], [1.0, 0.0], predicted_scores=[1.5 + i, 2.0, 3.0])
        for i in range(3)
    ]
    table = table_from_rows(("a", "b"), rows)
    report = table_dimension_report(table)
    assert report is not None
    assert report["valence"]["pearson"] == pytest.approx(1)
    assert report["valence"]["rmse"] == pytest.approx(0.5)
    assert report["arousal"]["rows"] == 0
    assert table_dimension_report(replace(table, predicted_scores=None)) is None
