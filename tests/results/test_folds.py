from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lantern.metrics.classification import classification_report, pooled_report
from lantern.metrics.paired import mean_sd, paired_bootstrap
from lantern.report import sections
from lantern.report.html import report_html
from lantern.report.terminal import print_sweep
from lantern.report.text_tables import to_csv, to_latex, to_markdown
from lantern.results.columns import Place, cells, heads
from lantern.results.comparison import Comparison, compare_runs
from lantern.results.folds import fold_notes, over_folds, pool_folds
from lantern.results.load import find_runs
from lantern.tables import PredictionTable, concatenate
from tests.results.made_runs import write_run


def write_folds(runs: Path, seed: int, folds: tuple[int, ...] = (1, 2, 3, 4, 5), llm: str = "gpt-4o") -> list[Path]:
    return [write_run(runs, "sdt", llm, seed, turns=60, fold=fold) for fold in folds]


def loaded(folder: Path) -> dict[str, Any]:
    return {**json.loads((folder / "metrics.json").read_text()), "folder": str(folder)}


def whole(folders: list[Path]) -> PredictionTable:
    return concatenate([PredictionTable.load(folder / "predictions.test.parquet") for folder in folders], "test")


def compared(runs: Path) -> list[Comparison]:
    return compare_runs(find_runs([runs]).runs)


def close(found: Any, expected: Any) -> None:
    """Equal but for rounding, through all levels."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_a_pooled_report_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.dirichlet(np.ones(4), n), rng.integers(-1, 3, n)) for n in (40, 7, 200)]
    reports = [classification_report(p, labels, "abcd") for p, labels in parts]
    joined = classification_report(
        np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts]), "abcd"
    )
    close(pooled_report(reports), joined)
    del reports[1]["reliability"]
    assert pooled_report(reports) is None


def test_folds_are_one_evaluation_per_seed(tmp_path: Path) -> None:
    seeds = {seed: write_folds(tmp_path, seed) for seed in (0, 1)}
    (table,) = compared(tmp_path)
    (line,) = table.lines
    assert line.seeds == [0, 1]
    assert "protocol loso, 5 folds pooled" in table.title
    tables = {seed: whole(folders) for seed, folders in seeds.items()}
    labels, names = tables[0].labels, tables[0].dialogues
    merged = {seed: one.merged for seed, one in tables.items() if one.merged is not None}
    for run in line.runs:
        one = tables[run.seed]
        close(run.result["test"]["methods"]["vanilla"], classification_report(one.vanilla, labels, one.classes))
        close(run.result["test"]["methods"]["weighted"], classification_report(merged[run.seed], labels, one.classes))
        assert {"band0", "band1", "mean"} < set(run.result["test"]["methods"])
        assert run.table().utterances.tolist() == one.utterances.tolist()
    pairs = [(tables[seed].vanilla.argmax(1), merged[seed].argmax(1)) for seed in (0, 1)]
    assert line.difference("accuracy") == paired_bootstrap(pairs, labels, names, 6)["accuracy"]
    assert dict(zip(heads(Place.TEXT), cells(line, Place.TEXT), strict=True))["seeds"] == "2"
    assert line.cost == pytest.approx(5 * 1.25)
    assert line.llm_sum("fields") == 2 * 5 * 60


def test_the_spread_over_folds_stands_beside_the_pool(tmp_path: Path) -> None:
    parts = [[loaded(folder) for folder in write_folds(tmp_path, seed)] for seed in (0, 1)]
    expected = mean_sd(
        [np.mean([parts[s][k]["test"]["methods"]["weighted"]["accuracy"] for s in (0, 1)]) for k in range(5)]
    )
    results = [result for result, _ in pool_folds([one for seed in parts for one in seed])]
    assert over_folds(results, "weighted", "accuracy") == expected
    text = f"weighted {100 * expected['mean']:.1f} ± {100 * expected['sd']:.1f}"
    (table,) = compared(tmp_path)
    page, _ = report_html([table], [], False)
    for written in (*fold_notes(results), *table.notes, page):
        assert "over the 5 folds: accuracy vanilla" in written
        assert text in written
    assert "mean ± sd over the 5 folds" in to_markdown([table])
    assert r"\footnotesize sdt + gpt-4o: mean $\pm$ sd over the 5 folds" in to_latex([table])
    (row,) = csv.DictReader(io.StringIO(to_csv([table])))
    assert row["folds"] == "1 2 3 4 5"
    assert float(row["weighted_accuracy_folds_sd"]) == expected["sd"]


def test_an_incomplete_set_of_folds_is_named(tmp_path: Path) -> None:
    write_folds(tmp_path, 0, (1, 2, 4))
    write_folds(tmp_path, 1, (1, 2, 4))
    write_folds(tmp_path, 2, (1, 2))
    (table,) = compared(tmp_path)
    (line,) = table.lines
    assert line.seeds == [0, 1]
    assert "loso, folds 1, 2, 4 pooled" in table.title
    assert "folds 3, 5 of 5 missing: these numbers are over folds 1, 2, 4 only" in line.notes[0]
    assert line.notes[1] == "left out for its missing folds: seed 2, which has folds 1, 2"


def test_settings_with_other_folds_share_no_table(tmp_path: Path) -> None:
    write_folds(tmp_path, 0)
    write_folds(tmp_path, 0, (5,), llm="smollm2")
    write_run(tmp_path, "sdt", "none", 0, turns=60)
    tables = compared(tmp_path)
    names = {line.name: table.title for table in tables for line in table.lines}
    assert len(tables) == 3
    assert "loso, 5 folds pooled" in names["sdt + gpt-4o"]
    assert "loso, fold 5" in names["sdt + smollm2"]
    single = next(line for table in tables for line in table.lines if line.name == "sdt + smollm2")
    assert single.notes == ["folds 1, 2, 3, 4 of 5 missing: these numbers are over fold 5 only"]


def test_the_sections_of_the_report_count_every_fold_once(tmp_path: Path) -> None:
    folders = write_folds(tmp_path, 0)
    parts = [loaded(folder) for folder in folders]
    for part, folder in zip(parts, folders, strict=True):
        labelled = part["test"]["labelled"]
        accuracy = {"vanilla": 0.5, "weighted": 0.5 + part["protocol"]["test"] / 100, "difference": 0.1}
        cell = {"part": "new", "labelled": labelled, "accuracy": {**accuracy, "low": -0.1, "high": 0.3}}
        part["test"]["slices"] = [{"slice": "text", "parts": [cell]}]
        (folder / "metrics.json").write_text(json.dumps(part))
    (table,) = compared(tmp_path)
    (line,) = table.lines
    total = sum(part["test"]["labelled"] for part in parts)
    slices = sections.slices(line)
    assert f"<td>{total:,}</td><td>50.0</td>" in slices
    assert "no common interval" in slices
    helped = sum(part["test"]["llm"]["merged"]["helpful"] for part in parts)
    assert f"<td>{helped:,}</td>" in sections.flips(line)
    replies = sum(one["scored"] for part in parts for one in part["test"]["llm"]["lengths"] if one["length"] == 4)
    assert f"over {replies} replies" in sections.lengths(line)
    page, notes = report_html([table], [], False)
    assert page.count("-seed0-") >= 5  # a row of provenance for each folder
    assert "5 run folders" in page
    assert not any("more runs" in note for note in notes)


@pytest.mark.slow
def test_the_reader_holds_whole_pools_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for seed in range(5):
        write_folds(tmp_path, seed)
    (table,) = compared(tmp_path)
    _, notes = report_html([table], [], False)
    assert "1 more runs are not in the reader, which holds 4: the first seeds of each setting" in notes


def test_the_reader_of_a_large_corpus_holds_its_first_dialogues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "sdt", "gpt-4o", seed, turns=120, length=20)
    tables = compared(tmp_path)
    for most, kept in ((240, 120), (239, 100), (110, 40), (2, 20)):
        monkeypatch.setattr("lantern.report.html.MOST_TURNS", most)
        page, notes = report_html(tables, [], False)
        data = json.loads(page.partition('id="reader-data">')[2].partition("</script>")[0])
        assert [len(run["rows"]) // run["width"] for run in data["runs"]] == [kept, kept]
        told = f"the reader holds the first dialogues of a run only: {kept} of 120 turns"
        assert (told in notes) == (kept < 120)


def test_the_sweep_table_pools_folds(tmp_path: Path) -> None:
    trials = []
    for seed in (0, 1):
        for fold, folder in enumerate(write_folds(tmp_path, seed), 1):
            trials.append((["protocol=loso", f"protocol.fold={fold}", f"seed={seed}"], loaded(folder)))
    for count, told in ((10, "2 "), (9, "1 ")):
        out = io.StringIO()
        print_sweep(Console(file=out, width=120), trials[:count])
        text = out.getvalue()
        assert "mean ± sd over seeds; 5 folds pooled" in text
        rows = [line for line in text.splitlines() if line.startswith("all ")]
        assert len(rows) == 1
        assert rows[0].split()[1] == told.strip()
        assert "mean ± sd over the 5 folds: accuracy vanilla" in text
        assert ("seed 1, which has folds 1, 2, 3, 4" in text) == (count == 9)
