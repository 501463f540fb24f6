from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lantern.errors import FailureKind, UserError
from lantern.tables import ANSWERED, KINDS, FieldReply, Fields, PredictionTable, Row, concatenate, mean_vanilla
from tests.rows import table_from_rows

REPLIES = [
    FieldReply(band=1, length=4, position=0, probabilities=[0.3, 0.7], raw_sum=2.0, repaired=True, spread=0.125),
    FieldReply(band=0, length=2, position=1, failure=FailureKind.REFUSAL),
]
SILENT = [FieldReply(band, length=2, position=0, failure=FailureKind.INCOMPLETE) for band in (0, 1)]
ROWS = [
    Row(
        "d1",
        "d1_0",
        0,
        "Zoë “Z” \n",
        1,
        [3.0, None, 2.5],
        [0.4, 0.6],
        [2.9, 3.0, 3.1],
        REPLIES,
        [0.5, 0.0, 0.5],
        [0.35, 0.65],
    ),
    Row("d1", "d1_1", 1, "", None, None, [0.9, 0.1], [1.0, 2.0, 3.0], SILENT, [1.0, 0.0, 0.0], [0.9, 0.1]),
    Row("d2", "d2_0", 0, "Zoë “Z” \n", 0, [1.0, 2.0, 3.0], [1.0, 0.0], [1.0] * 3, SILENT, [1.0, 0.0, 0.0], [1.0, 0.0]),
]


def table() -> PredictionTable:
    return table_from_rows(("sad", "glad"), ROWS, "dev", width=4)


def vanilla() -> PredictionTable:
    """The same before refinement, of a model without a dimension head."""
    return replace(table(), predicted_scores=None, fields=None, weights=None, merged=None)


def assert_equal(found: PredictionTable, expected: PredictionTable) -> None:
    """Every array has the same values and type, bit by bit."""
    assert (found.classes, found.split, found.coverage) == (expected.classes, expected.split, expected.coverage)
    pairs = [(getattr(found, f.name), getattr(expected, f.name)) for f in fields(PredictionTable) if f.name != "fields"]
    if expected.fields is not None:
        assert found.fields is not None
        pairs += [(getattr(found.fields, f.name), getattr(expected.fields, f.name)) for f in fields(Fields)]
    for one, other in pairs:
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, strict=True)
        else:
            assert one == other


@pytest.mark.parametrize("make", [table, vanilla, lambda: table().select(slice(0)), lambda: vanilla().select([2])])
def test_round_trip(tmp_path: Path, make: Callable[[], PredictionTable]) -> None:
    path = tmp_path / "deep" / "t.parquet"
    make().save(path)
    assert_equal(PredictionTable.load(path), make())
    assert [file.name for file in path.parent.iterdir()] == ["t.parquet"]
    assert PredictionTable.load(path, fields=False).fields is None
    assert len(PredictionTable.load(path, count=len(make()))) == len(make())


def test_rows_become_arrays_and_arrays_rows() -> None:
    t = table()
    assert t.labels.tolist() == [1, -1, 0]
    assert t.labelled.tolist() == [True, False, True]
    np.testing.assert_array_equal(t.scores[:2], [[3.0, np.nan, 2.5], [np.nan] * 3])
    assert t.coverage == 2
    assert t.fields is not None
    assert t.fields.mask.tolist() == [[False, True], [False, False], [False, False]]
    np.testing.assert_array_equal(t.fields.probabilities[0], [[0.0, 0.0], [0.3, 0.7]])
    assert [KINDS[code] for code in t.fields.failures[:, 0]] == ["refusal", "incomplete", "incomplete"]
    assert t.fields.failures[0, 1] == ANSWERED
    by_band = [replace(row, fields=sorted(row.fields, key=lambda reply: reply.band)) for row in ROWS]
    assert list(t) == by_band
    assert t.row(1) == by_band[1]
    assert len(vanilla().row(0).fields) == vanilla().coverage == 0


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_other_libraries_read_it_in_one_line(tmp_path: Path, library: str) -> None:
    path = tmp_path / "t.parquet"
    table().save(path)
    frame = pytest.importorskip(library).read_parquet(path)
    columns = {name: list(frame[name]) for name in frame.columns}
    assert columns["utterance"] == ["d1_0", "d1_1", "d2_0"]
    assert columns["speaker"] == ["Zoë “Z” \n", "", "Zoë “Z” \n"]
    label, failure = columns["label"], columns["failure"]
    assert (label[0], pd.isna(label[1]), label[2]) == ("glad", True, "sad")
    assert list(failure[0]) == ["refusal", None]
    np.testing.assert_array_equal(np.stack([np.asarray(vector) for vector in columns["vanilla"]]), table().vanilla)
    refined = np.stack([np.stack([np.asarray(v) for v in vectors]) for vectors in columns["refined"]])
    np.testing.assert_array_equal(refined[0], [[np.nan, np.nan], [0.3, 0.7]])


def test_the_export_has_one_json_object_per_utterance(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    table().export(path)
    first, second, _ = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first == {
        "split": "dev",
        "classes": ["sad", "glad"],
        "dialogue": "d1",
        "utterance": "d1_0",
        "index": 0,
        "speaker": "Zoë “Z” \n",
        "label": 1,
        "scores": [3.0, None, 2.5],
        "vanilla": [0.4, 0.6],
        "predicted_scores": [2.9, 3.0, 3.1],
        "fields": [
            {
                "band": 0,
                "length": 2,
                "position": 1,
                "probabilities": None,
                "repaired": False,
                "failure": "refusal",
                "raw_sum": None,
                "spread": None,
            },
            {
                "band": 1,
                "length": 4,
                "position": 0,
                "probabilities": [0.3, 0.7],
                "repaired": True,
                "failure": None,
                "raw_sum": 2.0,
                "spread": 0.125,
            },
        ],
        "weights": [0.5, 0.0, 0.5],
        "merged": [0.35, 0.65],
        "explanation": "vanilla glad 0.60, merged glad 0.65; most weight (0.50) on vanilla",
    }
    assert (second["label"], second["scores"]) == (None, None)
    assert second["explanation"] == "vanilla sad 0.90 is kept: no usable reply"
    vanilla().export(path)
    bare = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    absent = ("predicted_scores", "weights", "merged", "explanation", "fields")
    assert [bare[name] for name in absent] == [None, None, None, None, []]
    assert pd.read_json(path, lines=True).utterance.tolist() == ["d1_0", "d1_1", "d2_0"]


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(byte ^ 255 for byte in content[40:200]) + content[200:])


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"utterance": ["d1_0"]}), path)


def _changed(name: str, values: pa.Array) -> Callable[[Path], None]:
    """A column of the table is another one, or absent."""

    def change(path: Path) -> None:
        file = pq.read_table(path)
        at = file.column_names.index(name)
        pq.write_table(file.set_column(at, name, values) if len(values) else file.remove_column(at), path)

    return change


def _about(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = pq.read_table(path)
        about = {**json.loads(file.schema.metadata[b"lantern"]), **values}
        pq.write_table(file.replace_schema_metadata({b"lantern": json.dumps(about)}), path)

    return change


def _vectors(*rows: list[float]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array([v for row in rows for v in row]), len(rows[0]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "no predictions table at"),
        (_cut_off, "not a predictions table"),
        (_flipped, "not a predictions table"),
        (lambda path: path.write_bytes(b""), "not a predictions table"),
        (lambda path: path.write_bytes(b"\xff\xfe" * 40), "not a predictions table"),
        (lambda path: path.write_text('{"dialogue": "d1"}\n'), "not a predictions table"),
        (_foreign, "not a predictions table"),
        (_about(schema=99), "table schema 99, this Lantern reads 2"),
        (_about(classes=["a", "b"]), "not a predictions table .*glad"),
        (_about(classes=["sad", "glad", "calm"]), "a vector is not of 3 classes"),
        (_changed("label", pa.array(["glad", None, "cross"])), "not a predictions table .*cross"),
        (_changed("failure", _vectors(*[["x", None]] * 3)), "not a predictions table .*x"),
        (_changed("vanilla", _vectors([0.4, 0.6], [0.9, float("nan")], [1.0, 0.0])), "not a finite number"),
        (_changed("merged", _vectors([1.0], [1.0], [1.0])), "a vector is not of 2 classes"),
        (_changed("speaker", pa.array([])), "not a predictions table .*speakers"),
        (_changed("spread", pa.array([])), "not a predictions table .*spreads"),
        (lambda path: table().select(slice(2)).save(path), "2 rows, expected 3"),
    ],
)
def test_a_damaged_file_gives_one_clear_error(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "t.parquet"
    table().save(path)
    damage(path)
    with pytest.raises(UserError, match=words) as error:
        PredictionTable.load(path, count=3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_select_keep_and_dialogues() -> None:
    t = table()
    assert t.by_dialogue == {"d1": slice(0, 2), "d2": slice(2, 3)}
    assert t.select(slice(0)).by_dialogue == {}
    for rows in ([0, 2], np.array([True, False, True]), slice(0, 3, 2)):
        part = t.select(rows)
        assert_equal(part, table_from_rows(t.classes, [ROWS[0], ROWS[2]], "dev", width=4))
    assert t.keep(None) is t
    assert_equal(t.keep({"d2"}), t.select([2]))
    assert len(t.keep(())) == 0
    assert vanilla().keep(["d1", "unknown"]).utterances.tolist() == ["d1_0", "d1_1"]


def test_concatenate() -> None:
    t = table()
    whole = concatenate([t.keep({"d1"}), t.keep({"d2"})], "dev")
    assert_equal(whole, t)
    assert concatenate([t], "oof").split == "oof"
    assert concatenate([t, vanilla()], "oof").fields is None
    with pytest.raises(ValueError, match="different classes"):
        concatenate([t, table_from_rows(("a", "b"), [])], "oof")


def test_the_mean_of_tables_is_that_of_probabilities_and_scores() -> None:
    def one(vanilla: list[float], scores: list[float] | None) -> PredictionTable:
        row = Row("d", "d_0", 0, "A", 1, None, vanilla, scores)
        return table_from_rows(("x", "y"), [row], "test")

    mean = mean_vanilla([one([0.2, 0.8], [1.0, 2.0, 3.0]), one([0.6, 0.4], [3.0, 2.0, 5.0])])
    row = mean.row(0)
    assert row.vanilla == pytest.approx([0.4, 0.6])
    assert row.predicted_scores == [2.0, 2.0, 4.0]
    assert (row.label, mean.split, mean.classes) == (1, "test", ("x", "y"))
    assert mean_vanilla([one([0.2, 0.8], None)] * 2).predicted_scores is None
    with pytest.raises(ValueError, match="different utterances"):
        mean_vanilla([table(), table().select([2, 1, 0])])


def test_the_uniform_mean_is_of_the_fields_that_answered() -> None:
    answers = ([[0.8, 0.2], [0.4, 0.6]], [None, [0.1, 0.9]], [None, None])
    rows = [
        Row("d", str(n), n, "A", 0, None, [0.5, 0.5], fields=[FieldReply(k, 2, 0, p) for k, p in enumerate(vectors)])
        for n, vectors in enumerate(answers)
    ]
    t = table_from_rows(("a", "b"), rows)
    np.testing.assert_allclose(t.uniform_mean(), [[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    np.testing.assert_array_equal(vanilla().uniform_mean(), vanilla().vanilla)
