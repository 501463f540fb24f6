from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from lantern.errors import FailureKind
from lantern.report.pages import embedded_json, environment
from lantern.report.reader import ALPHABET, NOTHING, ReaderData, Shown, reader_data
from lantern.tables import FieldReply, Row
from tests.results.made_runs import made_table
from tests.rows import table_from_rows

SIX = ("a", "b", "c", "d", "e", "f")


def numbers(run: dict[str, object], place: int) -> list[int]:
    rows, width = str(run["rows"]), int(str(run["width"]))
    text = rows[place * width : (place + 1) * width]
    return [64 * ALPHABET.index(text[k]) + ALPHABET.index(text[k + 1]) for k in range(0, width, 2)]


def test_every_number_comes_back() -> None:
    table = made_table(0, 60, 20, 3, 0.5, SIX)
    run = reader_data([Shown("r", table)], {})["runs"][0]
    assert len(run["rows"]) == run["width"] * 60
    for place, row in enumerate(table):
        found = numbers(run, place)
        assert np.array(found[:6]) / 1000 == pytest.approx(np.array(row.vanilla), abs=5.1e-4)
        assert np.array(found[6:9]) / 100 - 20 == pytest.approx(np.array(row.predicted_scores), abs=5.1e-3)
        for band, reply in enumerate(row.fields):
            state, length, position, *values = found[9 + 9 * band : 18 + 9 * band]
            assert (length, position) == (reply.length, reply.position)
            if reply.probabilities is None:
                assert run["kinds"][state - 2] == reply.failure
                assert set(values) == {NOTHING}
            else:
                assert state == int(reply.repaired)
                assert np.array(values) / 1000 == pytest.approx(np.array(reply.probabilities), abs=5.1e-4)
        assert np.array(found[36:40]) / 1000 == pytest.approx(np.array(row.weights), abs=5.1e-4)
        assert np.array(found[40:]) / 1000 == pytest.approx(np.array(row.merged), abs=5.1e-4)


def test_turns_are_kept_once_for_all_runs_of_them() -> None:
    data = ReaderData()
    for seed in range(3):
        data.add(Shown(str(seed), made_table(seed, 40, 20, 2, 0.5, SIX)), {})
    data.add(Shown("other", made_table(0, 20, 20, 2, 0.5, SIX)), {})
    found = data.as_dict()
    assert [run["set"] for run in found["runs"]] == [0, 0, 0, 1]
    assert [len(one["dialogues"]) for one in found["sets"]] == [2, 1]


def test_what_is_missing_is_nothing() -> None:
    rows = [
        Row("d", "u0", 0, "A", None, None, [0.5, 0.5]),
        Row("d", "u1", 1, "B", 1, None, [1.0, 0.0], fields=[FieldReply(0, 2, 0, None, failure=FailureKind.REFUSAL)]),
    ]
    run = reader_data([Shown("r", table_from_rows(("x", "y"), rows))], {"u0": "words"})
    assert run["sets"][0]["dialogues"][0]["turns"] == [[0, 0, "u0", 0, -1, None, "words"], [1, 1, "u1", 1, 1]]
    assert numbers(run["runs"][0], 0)[2:] == [NOTHING] * (len(numbers(run["runs"][0], 0)) - 2)
    assert run["runs"][0]["kinds"] == ["refusal"]
    empty = reader_data([Shown("r", table_from_rows(("x", "y"), []))], {})
    assert empty["runs"][0]["rows"] == ""


def test_json_cannot_leave_its_element() -> None:
    text = embedded_json({"a": "</script><!-- \u2028\u2029 & ]]>", "b": "\ud800"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text)["a"] == "</script><!-- \u2028\u2029 & ]]>"
    text.encode("utf-8")


def test_a_sweep_of_iemocaps_size_stays_small(tmp_path: Path) -> None:
    data = ReaderData()
    table = made_table(0, 2170, 70, 3, 0.5, SIX)
    for seed in range(20):
        data.add(Shown(f"sdt + llama-3.1-405b, seed {seed}", table), dict.fromkeys(table.utterances, "x" * 60))
    assert len(embedded_json(data.as_dict())) < 4_500_000


@pytest.mark.parametrize("sign", ["\x1b", "\u202e", "\u202a", "\u2066", "\u2069", "\x9b", "\u200b"])
def test_no_text_of_data_turns_a_page(sign: str) -> None:
    shown = ascii(sign)[1:-1]
    made = environment().from_string("<p title='{{ t }}'>{{ t }}{{ t | breakable }}{{ m }}</p>")
    page = made.render(t=f"a{sign}<b>", m=Markup("<i>"))
    assert page == f"<p title='a{shown}&lt;b&gt;'>" + 2 * f"a{shown}&lt;b&gt;" + "<i></p>"
    if sign in "\u202e\u202a\u2066\u2069":
        text = embedded_json({f"a{sign}": [f"{sign}\\"]})
        assert sign not in text
        assert json.loads(text) == {f"a{shown}": [f"{shown}\\"]}


def test_letters_that_are_written_from_right_to_left_stay() -> None:
    text = "\u200fשלום\u200f \u200e👩\u200d💻"
    assert json.loads(embedded_json([text])) == [text]
