from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from lantern.errors import FailureKind
from lantern.metrics.llm_effect import llm_effect
from lantern.tables import FieldReply, PredictionTable, Row
from tests.rows import table_from_rows

A, B, C = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]


def row(
    i: int,
    label: int | None,
    vanilla: list[float],
    replies: list[list[float] | None],
    repaired: int | None = None,
    **extra: object,
) -> Row:
    fields = [
        FieldReply(k, 4 if k else 2, 0, p, repaired=k == repaired, failure=None if p else FailureKind.REFUSAL)
        for k, p in enumerate(replies)
    ]
    return Row("d", f"u{i}", i, "F", label, None, vanilla, fields=fields, **extra)  # type: ignore[arg-type]


@pytest.fixture
def table() -> PredictionTable:
    rows = [
        row(0, 0, B, [A, A], merged=A),  # helpful in both bands
        row(1, 0, A, [B, A], merged=A),  # harmful in band 0
        row(2, 0, B, [C, B], merged=B),  # neutral in band 0, copied in band 1
        row(3, None, A, [A, C], merged=A),  # not scored
        row(4, 1, B, [None, None], merged=B),  # all failed
    ]
    return table_from_rows(("a", "b", "c"), rows)


def test_counts_by_hand(table: PredictionTable) -> None:
    effect = llm_effect(table)
    assert effect["replies"] == {
        "asked": 10,
        "answered": 8,
        "failed": 2,
        "repaired": 0,
        "failures": {"refusal": 2},
        "rows_without": 1,
    }
    newest, oldest = effect["bands"]
    assert (newest["helpful"], newest["harmful"], newest["neutral"]) == (1, 1, 1)
    assert newest["copy_rate"] == pytest.approx(1 / 4)
    assert newest["gain"] == pytest.approx(0)
    assert (oldest["helpful"], oldest["harmful"], oldest["neutral"]) == (1, 0, 0)
    assert oldest["gain"] == pytest.approx(1 / 3)
    assert [entry["length"] for entry in effect["lengths"]] == [2, 4]
    assert effect["all_replies"]["replies"] == 8
    assert effect["all_replies"]["scored"] == 6
    assert effect["all_replies"]["copy_rate"] == pytest.approx(3 / 8)
    assert effect["merged"]["helpful"] == 1
    assert effect["merged"]["gain"] == pytest.approx(1 / 4)
    assert effect["merged"]["ece_after"] is not None
    assert effect["disagreement"]["argmax"] == [[0, 0.75], [0.75, 0]]
    assert effect["disagreement"]["distance"][0][1] == pytest.approx(0.75 * 0.7)
    assert effect["disagreement"]["rows_split"] == pytest.approx(0.75)
    assert json.loads(json.dumps(effect)) == effect


def test_replies_that_are_missing_count_for_nothing() -> None:
    rows = [row(0, 0, B, [A, None], repaired=1), row(1, 0, A, [A, B], repaired=0)]
    rows += [row(2, 0, A, [C, C]), row(3, 0, A, [None, A])]
    effect = llm_effect(table_from_rows(("a", "b", "c"), rows))
    # A repair turn that failed too mended nothing.
    assert effect["replies"]["repaired"] == 1
    assert [(entry["length"], entry["replies"]) for entry in effect["lengths"]] == [(2, 3), (4, 3)]
    assert [(entry["band"], entry["replies"]) for entry in effect["bands"]] == [(0, 3), (1, 3)]
    # Both replied in two rows, and differ in one.
    assert effect["disagreement"]["argmax"] == [[0, 0.5], [0.5, 0]]
    assert effect["disagreement"]["distance"][1][0] == pytest.approx(0.5 * 0.7)
    assert effect["disagreement"]["rows_split"] == 0.5
    never = llm_effect(table_from_rows(("a", "b", "c"), [rows[0], rows[3]]))
    assert never["disagreement"]["argmax"] == [[0, None], [None, 0]]
    assert never["disagreement"]["rows_split"] is None


def test_before_refinement_and_without_labels(table: PredictionTable) -> None:
    effect = llm_effect(replace(table, fields=None, merged=None))
    assert effect["bands"] == []
    assert effect["merged"] is None
    assert effect["all_replies"]["copy_rate"] is None
    nothing = llm_effect(table_from_rows(("a", "b", "c"), [row(0, None, A, [B])]))
    assert nothing["all_replies"]["gain"] is None
    assert nothing["all_replies"]["copy_rate"] == 0
    assert llm_effect(table_from_rows(("a", "b", "c"), []))["rows"] == 0


def test_metrics_do_not_import_torch() -> None:
    code = (
        "import sys, lantern.metrics.classification, lantern.metrics.dimensions, lantern.metrics.paired, "
        "lantern.metrics.llm_effect, lantern.weighting.config; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
