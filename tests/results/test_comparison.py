from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from lantern.metrics.paired import holm, intervals, paired_bootstrap
from lantern.report.text_tables import latex, to_csv, to_latex, to_markdown
from lantern.results.columns import Place, cells, heads
from lantern.results.comparison import Comparison, compare_runs
from lantern.results.load import find_runs
from lantern.tables import PredictionTable
from tests.results.made_runs import write_run


def compared(*folders: Path) -> list[Comparison]:
    return compare_runs(find_runs(folders).runs)


def test_rows_are_runs_that_differ_in_the_seed_alone(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "sdt", "gpt-4o", seed, cost=float(seed + 1))
    write_run(tmp_path, "sdt", "gpt-4o", 0, overrides=["prompt.dimensions=false"])
    write_run(tmp_path, "gru", "none", 0)
    (table,) = compared(tmp_path)
    assert [(line.name, line.seeds) for line in table.lines] == [
        ("gru, no LLM", [0]),
        ("sdt + gpt-4o prompt.dimensions=false", [0]),
        ("sdt + gpt-4o prompt.dimensions=true", [0, 1, 2]),
    ]
    plain, _, line = table.lines
    assert line.cost == pytest.approx(2.0)
    assert line.gain is not None
    assert line.cost_per_point == pytest.approx(2.0 / line.gain)
    assert (plain.cost, plain.gain, plain.p_value, plain.difference("accuracy")) == (None,) * 4
    assert plain.llm_sum("fields") is None
    raw = {one.name: one.difference("accuracy").p_value for one in table.lines[1:]}  # type: ignore[union-attr]
    assert {one.name: one.p_value for one in table.lines[1:]} == holm(raw)


def test_one_seed_has_the_interval_of_a_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sdt", "gpt-4o", 0)
    (table,) = compared(folder)
    predictions = PredictionTable.load(folder / "predictions.test.parquet")
    assert predictions.merged is not None
    after, names = predictions.merged.argmax(1), predictions.dialogues
    expected = paired_bootstrap([(predictions.vanilla.argmax(1), after)], predictions.labels, names, 6)
    assert table.lines[0].difference("accuracy") == expected["accuracy"]


def test_a_setting_without_an_llm_has_intervals_over_dialogues_of_its_own(tmp_path: Path) -> None:
    alone = [write_run(tmp_path / "alone", "gru", "none", seed) for seed in (0, 1)]
    write_run(tmp_path / "refined", "gru", "gpt-4o", 0)
    (table,) = compared(tmp_path / "alone")
    (line,) = table.lines
    tables = [PredictionTable.load(folder / "predictions.test.parquet") for folder in alone]
    predicted = [one.vanilla.argmax(1) for one in tables]
    expected = intervals(predicted, tables[0].labels, tables[0].dialogues, 6)
    assert expected is not None
    row = dict(zip(heads(Place.TEXT, table.lines), cells(line, Place.TEXT, table.lines), strict=True))
    for metric, head in (("accuracy", "vanilla acc"), ("weighted_f1", "vanilla wF1")):
        one, shown = expected[metric], line.spread("vanilla", metric)
        assert line.alone(metric) == one
        assert shown is not None
        assert one.value == pytest.approx(shown["mean"])
        text = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
        assert row[f"{head} 95 %"] == text
        assert text.replace("[", "\\[").replace("]", "\\]") in to_markdown([table])
        assert f"{head} 95" in to_latex([table])
    (csv_row,) = csv.DictReader(io.StringIO(to_csv([table])))
    assert float(csv_row["vanilla_weighted_f1_interval_low"]) == expected["weighted_f1"].low
    # A table of refined runs has no such column; in a mixed one the refined line has a dash.
    (refined,) = compared(tmp_path / "refined")
    assert not any(head.endswith(" 95 %") for head in heads(Place.TEXT, refined.lines))
    (mixed,) = compared(tmp_path / "alone", tmp_path / "refined")
    place = heads(Place.TEXT, mixed.lines).index("vanilla acc 95 %")
    assert [cells(one, Place.TEXT, mixed.lines)[place] != "-" for one in mixed.lines] == [True, False]


def test_what_cannot_be_compared_stands_in_tables_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, "sdt", "gpt-4o", 0, paper_style=True)
    write_run(tmp_path, "sdt", "gpt-4o", 1)
    write_run(tmp_path, "sdt", "gpt-4o", 2, turns=100)
    other = write_run(tmp_path, "sdt", "gpt-4o", 3)
    result = json.loads((other / "metrics.json").read_text())
    result["corpus"]["label_set"] = "other-6"
    (other / "metrics.json").write_text(json.dumps(result))
    tables = compared(tmp_path)
    assert [[line.seeds for line in table.lines] for table in tables] == [[[1]], [[2]], [[3]], [[0]]]
    assert [table.paper_style for table in tables] == [False, False, False, True]
    assert len({table.title + table.reason for table in tables}) == 4
    for text in (to_markdown(tables), to_latex(tables)):
        assert text.count("the epoch was chosen on the test dialogues") == 1


def test_one_dialogue_is_no_ground_for_an_interval(tmp_path: Path) -> None:
    (table,) = compared(write_run(tmp_path, "sdt", "gpt-4o", 0, turns=20))
    row = dict(zip(heads(Place.TEXT), cells(table.lines[0], Place.TEXT), strict=True))
    assert row["95 % interval"] == row["p (Holm)"] == "-"
    assert re.fullmatch(r"[+-]\d+\.\d", row["Δ acc"])


def test_the_files_say_the_same(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "sdt", "gpt-4o", seed, cost=None)
        write_run(tmp_path, "gru", "simulated", seed, cost=0.0)
    tables = compared(tmp_path)
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert [row["setting"] for row in rows] == ["gru + simulated", "sdt + gpt-4o"]
    for row, line in zip(rows, tables[0].lines, strict=True):
        one = line.difference("weighted_f1")
        assert one is not None
        assert float(row["difference_weighted_f1"]) == one.difference
        assert float(row["p_holm"]) == line.p_value
        assert row["cost"] == ("" if line.cost is None else str(line.cost))
        for cell in cells(line, Place.TEXT):
            assert cell.replace("[", "\\[").replace("]", "\\]") in to_markdown(tables)
    tex = to_latex(tables)
    assert tex.count("\\toprule") == tex.count("\\bottomrule") == 1
    body = tex.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert all(
        line.count("&") == len(heads(Place.PAPER, tables[0].lines)) - 1 and line.endswith(r"\\") for line in body
    )


def test_latex_signs_are_escaped() -> None:
    assert latex("a_b & 5 % #1 {x} ~^\\ ± Δ") == (
        r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$ $\Delta$"
    )
    assert latex("-1.5") == "$-1.5$"
    assert latex("[-1.0, +2.0]") == "$[-1.0, +2.0]$"


def test_older_runs_lack_keys_and_are_shown_all_the_same(tmp_path: Path) -> None:
    from lantern.report.html import report_html

    folder = write_run(tmp_path, "sdt", "gpt-4o", 0)
    result = json.loads((folder / "metrics.json").read_text())
    for report in result["test"]["methods"].values():
        del report["confusion"], report["reliability"]
    for key in ("prompt", "weighting", "time", "notes"):
        del result[key]
    for key in ("llm", "rows", "labelled", "dialogues", "dimensions", "against_vanilla"):
        del result["test"][key]
    del result["corpus"]["fingerprint"], result["protocol"]["selection"]
    (folder / "metrics.json").write_text(json.dumps(result))
    page, _ = report_html(compared(folder), [], False)
    assert page.count('<table class="cm">') == 2
    assert "these runs have no slices" in page
