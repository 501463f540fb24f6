from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from lantern.metrics.paired import (
    compare,
    holm,
    intervals,
    mcnemar,
    mean_sd,
    minimum_detectable_effect,
    paired_bootstrap,
)


def draw(
    gain: float, n: int = 1600, seed: int = 0, classes: int = 6
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    a = np.where(rng.random(n) < 0.6, labels, rng.integers(classes, size=n))
    b = np.where(rng.random(n) < gain, labels, a)
    labels[rng.random(n) < 0.1] = -1
    return a, b, labels, np.array([f"d{i // 50}" for i in range(n)])


def test_bootstrap_reports_the_plain_metrics() -> None:
    a, b, labels, dialogues = draw(0.1)
    result = paired_bootstrap([(a, b)], labels, dialogues, 6, resamples=500)
    kept = labels >= 0
    for name, function in (
        ("accuracy", accuracy_score),
        ("weighted_f1", lambda y, p: f1_score(y, p, average="weighted")),
    ):
        assert result[name].a == pytest.approx(function(labels[kept], a[kept]))
        assert result[name].b == pytest.approx(function(labels[kept], b[kept]))
        assert result[name].low < result[name].difference < result[name].high
        assert result[name].p_value < 0.01


def test_bootstrap_agrees_with_a_loop() -> None:
    a, b, labels, dialogues = draw(0.02, n=400)
    result = paired_bootstrap([(a, b)], labels, dialogues, 6, resamples=4000)["weighted_f1"]
    rng = np.random.default_rng(1)
    members = [np.flatnonzero((dialogues == name) & (labels >= 0)) for name in np.unique(dialogues)]
    loop = []
    for _ in range(600):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        scores = [f1_score(labels[rows], p[rows], average="weighted", zero_division=0) for p in (a, b)]
        loop.append(scores[1] - scores[0])
    assert result.standard_error == pytest.approx(np.std(loop), rel=0.15)
    assert result.low == pytest.approx(np.quantile(loop, 0.025), abs=0.3 * result.standard_error)


def test_equal_models_do_not_differ() -> None:
    a, _, labels, dialogues = draw(0.0)
    result = paired_bootstrap([(a, a)], labels, dialogues, 6, resamples=200)["accuracy"]
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert mcnemar(a, a, labels).p_value == 1


def test_ten_thousand_resamples_take_seconds_and_are_reproducible() -> None:
    a, b, labels, dialogues = draw(0.05, n=7000)
    start = time.process_time()
    first = paired_bootstrap([(a, b)], labels, dialogues, 6, resamples=10_000, seed=3)
    assert time.process_time() - start < 10
    assert first == paired_bootstrap([(a, b)], labels, dialogues, 6, resamples=10_000, seed=3)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        labels = rng.integers(3, size=600)
        a = np.where(rng.random(600) < 0.5, labels, (labels + 1) % 3)
        b = np.where(rng.random(600) < 0.5, labels, (labels + 1) % 3)
        result = paired_bootstrap([(a, b)], labels, np.arange(600) // 10, 3, resamples=400, seed=trial)["accuracy"]
        covered += result.low <= 0 <= result.high
    assert 87 <= covered <= 100


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(12, dtype=int)
    a = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    b = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    result = mcnemar(a, b, labels)
    assert (result.only_a, result.only_b) == (1, 6)
    assert result.p_value == pytest.approx(stats.binomtest(1, 7).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 1), (3, 3), (0, 60), (49, 50), (120, 180), (1900, 2100), (499_000, 501_000)]
)
def test_mcnemar_is_exact_for_any_number_of_utterances(only_a: int, only_b: int) -> None:
    right = np.repeat([0, 1], (only_a, only_b))
    result = mcnemar(right, 1 - right, np.zeros_like(right))
    expected = min(1.0, 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))
    assert result.p_value == pytest.approx(expected, rel=1e-8)


def test_holm_by_hand() -> None:
    adjusted = holm({"x": 0.01, "y": 0.04, "z": 0.03, "w": 0.005})
    assert adjusted == pytest.approx({"x": 0.03, "y": 0.06, "z": 0.06, "w": 0.02})
    assert list(adjusted) == ["x", "y", "z", "w"]
    assert holm({}) == {}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_minimum_detectable_effect_has_the_power_it_promises() -> None:
    effect = minimum_detectable_effect(1623, 0.1)
    assert 0.02 < effect < 0.025
    rng = np.random.default_rng(0)
    better, worse = (0.1 + effect) / 2, (0.1 - effect) / 2
    counts = rng.multinomial(1623, [better, worse, 0.9], size=1000)
    p = np.array([stats.binomtest(int(x), int(x + y)).pvalue for x, y, _ in counts])
    assert 0.72 < (p < 0.05).mean() < 0.88
    assert minimum_detectable_effect(1623, 0.1, design_effect=4) == pytest.approx(2 * effect)
    assert minimum_detectable_effect(10, 0.1) == 0.1
    with pytest.raises(ValueError, match="rows"):
        minimum_detectable_effect(0, 0.1)


def test_compare_is_plain_json() -> None:
    a, b, labels, dialogues = draw(0.05, n=500)
    report = compare(a, b, labels, dialogues, 6, resamples=200)
    assert json.loads(json.dumps(report)) == report
    assert report["minimum_detectable_effect"] > 0


def test_p_values_count_resamples_on_the_far_side_of_zero_twice() -> None:
    labels = np.zeros(20, dtype=np.int64)
    wrong, right = labels + 1, labels
    dialogues = [f"d{i // 2}" for i in range(20)]

    def p_value(a: np.ndarray, b: np.ndarray) -> float:
        return paired_bootstrap([(a, b)], labels, dialogues, 2, resamples=99)["accuracy"].p_value

    # None of 99 resamples lies there: the least p-value that so many can give.
    assert p_value(wrong, right) == p_value(right, wrong) == pytest.approx(2 / 100)
    assert p_value(right, right) == 1
    half = np.where(np.arange(20) < 4, wrong, right)  # two of ten dialogues got worse
    drawn = paired_bootstrap([(right, half)], labels, dialogues, 2, resamples=9_999)["accuracy"].p_value
    # Neither is drawn, so that nothing differs, with probability 0.8 ** 10.
    assert drawn == pytest.approx(2 * 0.8**10, rel=0.1)


@pytest.mark.parametrize(
    ("pattern", "effect"),
    [
        ((1, 1), 2.0),  # of two turns that always go together one is worth nothing
        ((1, -1), 1.0),  # they balance in every dialogue; never less than that of independent turns
        ((1, 0), 1.0),
    ],
)
def test_the_design_effect_tells_what_turns_of_a_dialogue_are_worth(pattern: tuple[int, int], effect: float) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(800, dtype=np.int64)
    moved = np.repeat(rng.random(400) < 0.5, 2) * np.tile(pattern, 400)
    a, b = labels + (moved == 1), labels + (moved == -1)
    report = compare(a, b, labels, np.repeat(np.arange(400).astype(str), 2), 2, resamples=4000)
    assert report["design_effect"] == pytest.approx(effect, rel=0.1)
    assert report["minimum_detectable_effect"] == pytest.approx(
        minimum_detectable_effect(800, report["discordance"], design_effect=report["design_effect"])
    )


def test_nothing_labelled_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 3 rows"):
        mcnemar(np.zeros(3), np.zeros(3), np.full(3, -1))
    with pytest.raises(ValueError, match=r"\[N\]"):
        paired_bootstrap([(np.zeros(3), np.zeros(2))], np.zeros(3), ["a"] * 3, 2)
    with pytest.raises(ValueError, match="dialogues"):
        paired_bootstrap([(np.zeros(3), np.zeros(3))], np.zeros(3), ["a"] * 2, 2)


def test_mean_sd() -> None:
    assert mean_sd([1.0, 2.0, 3.0]) == {"n": 3, "mean": 2.0, "sd": 1.0}
    assert mean_sd([1.0])["sd"] is None
    with pytest.raises(ValueError, match="no values"):
        mean_sd([])


def test_the_pooled_bootstrap_is_of_the_mean_over_seeds() -> None:
    draws = [draw(0.1, seed=seed) for seed in range(3)]
    labels, dialogues = draws[0][2], draws[0][3]
    pairs = [(a, b) for a, b, _, _ in draws]
    pooled = paired_bootstrap(pairs, labels, dialogues, 6, resamples=2000)
    single = [paired_bootstrap([(a, b)], labels, dialogues, 6, resamples=2000) for a, b in pairs]
    for metric in ("accuracy", "weighted_f1"):
        assert pooled[metric].difference == pytest.approx(np.mean([s[metric].difference for s in single]))
        assert pooled[metric].standard_error < np.mean([s[metric].standard_error for s in single])
    same = paired_bootstrap([pairs[0]] * 4, labels, dialogues, 6, resamples=300)
    assert same == paired_bootstrap(pairs[:1], labels, dialogues, 6, resamples=300)
    with pytest.raises(ValueError, match="no predictions"):
        paired_bootstrap([], labels, dialogues, 6)


def test_intervals_of_one_model_agree_with_a_loop_and_are_means_over_seeds() -> None:
    a, b, labels, dialogues = draw(0.3, n=400)
    found = intervals([a], labels, dialogues, 6, resamples=4000)
    assert found is not None
    rng = np.random.default_rng(1)
    members = [np.flatnonzero((dialogues == name) & (labels >= 0)) for name in np.unique(dialogues)]
    loop = []
    for _ in range(600):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        loop.append([accuracy_score(labels[rows], a[rows]), f1_score(labels[rows], a[rows], average="weighted")])
    kept = labels >= 0
    assert found["accuracy"].value == pytest.approx(accuracy_score(labels[kept], a[kept]))
    for name, drawn in zip(("accuracy", "weighted_f1"), np.transpose(loop), strict=True):
        low, high = np.quantile(drawn, (0.025, 0.975))
        assert found[name].low == pytest.approx(low, abs=0.01)
        assert found[name].high == pytest.approx(high, abs=0.01)
        assert found[name].dialogues == len(members)
    both = intervals([a, b], labels, dialogues, 6, resamples=1000)
    other = intervals([b], labels, dialogues, 6, resamples=1000)
    assert both is not None
    assert other is not None
    assert both["accuracy"].value == pytest.approx((found["accuracy"].value + other["accuracy"].value) / 2)
    assert found["accuracy"].value < both["accuracy"].value < other["accuracy"].value


def test_a_single_dialogue_has_no_interval() -> None:
    a, _, labels, _ = draw(0.3, n=40)
    assert intervals([a], labels, ["d"] * 40, 6) is None
