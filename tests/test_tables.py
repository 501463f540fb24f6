from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lantern.errors import UserError
from lantern.tables import FieldReply, PredictionTable, Row, concatenate


def table() -> PredictionTable:
    replies = [
        FieldReply(band=1, length=4, position=0, probabilities=[0.3, 0.7], raw_sum=2.0, repaired=True),
        FieldReply(band=0, length=2, position=1, failure="refusal"),
    ]
    rows = [
        Row(
            "d1",
            "d1_0",
            0,
            "A",
            1,
            [3.0, None, 2.5],
            [0.4, 0.6],
            [2.9, 3.0, 3.1],
            replies,
            [0.5, 0.0, 0.5],
            [0.35, 0.65],
        ),
        Row("d1", "d1_1", 1, "B", None, None, [0.9, 0.1]),
    ]
    return PredictionTable(("sad", "glad"), rows, "dev")


def test_round_trip_and_pandas(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.jsonl"
    table().save(path)
    assert PredictionTable.load(path) == table()
    frame = pd.read_json(path, lines=True)
    assert frame.utterance.tolist() == ["d1_0", "d1_1"]
    assert not list(path.parent.glob("*partial*"))


def test_arrays() -> None:
    t = table()
    assert t.labels.tolist() == [1, -1]
    assert t.labelled.tolist() == [True, False]
    refined, mask = t.refined()
    assert mask.tolist() == [[False, True], [False, False]]
    np.testing.assert_allclose(refined[0, 1], [0.3, 0.7])
    assert t.coverage == 2


def test_damage_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    table().save(path)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:40] + "\n")
    with pytest.raises(UserError, match="line 2"):
        PredictionTable.load(path)
    path.write_text(lines[0].replace('"schema": 1', '"schema": 99'))
    with pytest.raises(UserError, match="schema 99"):
        PredictionTable.load(path)
    with pytest.raises(UserError, match="no predictions table"):
        PredictionTable.load(tmp_path / "none.jsonl")


def test_concatenate_refuses_other_classes() -> None:
    assert len(concatenate([table(), table()], "oof")) == 4
    with pytest.raises(ValueError, match="different classes"):
        concatenate([table(), PredictionTable(("a", "b"), [], "")], "oof")
