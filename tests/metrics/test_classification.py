from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from lantern.metrics.classification import calibration_error, classification_report, reliability, scored

CLASSES = ("a", "b", "c", "d")


def draw(seed: int = 0, n: int = 300, absent: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice([k for k in range(4) if k != absent], size=n)
    probabilities = rng.dirichlet(np.ones(4), size=n) + 0.5 * np.eye(4)[labels]
    labels[rng.random(n) < 0.2] = -1
    return probabilities / probabilities.sum(1, keepdims=True), labels


@pytest.mark.parametrize("absent", [None, 2, 3])
def test_report_agrees_with_scikit_learn(absent: int | None) -> None:
    probabilities, labels = draw(absent=absent)
    report = classification_report(probabilities, labels, CLASSES)
    gold, p = labels[labels >= 0], probabilities[labels >= 0]
    predicted = p.argmax(1)
    present = sorted(set(gold.tolist()))
    assert report["rows"] == len(gold)
    assert report["accuracy"] == pytest.approx(sk.accuracy_score(gold, predicted))
    assert report["weighted_f1"] == pytest.approx(sk.f1_score(gold, predicted, average="weighted", zero_division=0))
    assert report["macro_f1"] == pytest.approx(
        sk.f1_score(gold, predicted, labels=present, average="macro", zero_division=0)
    )
    assert report["uar"] == pytest.approx(sk.recall_score(gold, predicted, labels=present, average="macro"))
    assert report["nll"] == pytest.approx(sk.log_loss(gold, p, labels=range(4)))
    assert report["brier"] == pytest.approx(np.square(p - np.eye(4)[gold]).sum(1).mean())
    assert report["confusion"] == sk.confusion_matrix(gold, predicted, labels=range(4)).tolist()
    assert report["macro_over"] == [CLASSES[k] for k in present]
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        gold, predicted, labels=range(4), zero_division=0
    )
    for k, name in enumerate(CLASSES):
        entry = report["per_class"][name]
        assert entry["precision"] == pytest.approx(precision[k])
        assert entry["f1"] == pytest.approx(f1[k])
        assert entry["support"] == support[k]
        if k == absent:
            assert entry["recall"] is None
        else:
            assert entry["recall"] == pytest.approx(recall[k])
    assert json.loads(json.dumps(report)) == report


def test_single_class_split() -> None:
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    report = classification_report(probabilities, np.zeros(3, dtype=int), ("a", "b"))
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["macro_f1"] == pytest.approx(0.8)
    assert report["weighted_f1"] == pytest.approx(0.8)
    assert report["uar"] == pytest.approx(2 / 3)
    assert report["per_class"]["b"]["support"] == 0


def test_unlabelled_rows_change_nothing() -> None:
    probabilities, labels = draw()
    kept = labels >= 0
    assert classification_report(probabilities, labels, CLASSES) == classification_report(
        probabilities[kept], labels[kept], CLASSES
    )


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((3, 4), 0.25), np.full(3, -1), "none of the 3 rows is labelled"),
        (np.zeros((0, 4)), np.zeros(0, dtype=int), "none of the 0 rows"),
        (np.full((3, 4), 0.25), np.array([0, 1, 4]), "label 4"),
        (np.full((3, 4), np.nan), np.array([0, 1, 2]), "finite"),
        (np.full((3, 4), 0.25), np.array([0, 1]), r"\[N, C\]"),
    ],
)
def test_unusable_input_is_refused(probabilities: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(probabilities, labels)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [1.0, 0.0]])
    labels = np.array([0, 1, 0, 0])
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6) + abs(1 - 1.0)) / 4
    assert calibration_error(probabilities, labels) == pytest.approx(expected)
    curve = reliability(probabilities, labels)
    assert len(curve) == 15
    assert sum(b["count"] for b in curve) == 4
    assert curve[0]["accuracy"] is None


def test_calibration_error_agrees_with_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, labels = draw(3)
    p, gold = scored(probabilities, labels)
    theirs = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(gold), num_classes=4, n_bins=15)
    assert calibration_error(p, gold) == pytest.approx(float(theirs), abs=1e-6)


def test_bins_hold_their_upper_end_and_the_lowest_one_both() -> None:
    confident = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.76, 0.24], [1.0, 0.0]])
    curve = reliability(confident, np.array([0, 1, 1, 0, 0]), bins=4)
    assert [(b["low"], b["high"], b["count"]) for b in curve] == [
        (0.0, 0.25, 0),
        (0.25, 0.5, 1),
        (0.5, 0.75, 2),
        (0.75, 1.0, 2),
    ]
    assert [b["accuracy"] for b in curve] == [None, 1.0, 0.5, 1.0]
    assert [b["confidence"] for b in curve] == [None, 0.5, 0.75, pytest.approx(0.88)]
