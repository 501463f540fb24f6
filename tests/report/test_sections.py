"""Parts of the comparison's page that hang on what the runs hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lantern.corpora.sample.generator import generate_sample
from lantern.report import sections
from lantern.results.comparison import compare_runs
from lantern.results.load import Run, find_runs
from lantern.results.texts import texts_of
from tests.results.made_runs import write_run


def part(name: str, vanilla: float, weighted: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    accuracy = {"vanilla": vanilla, "weighted": weighted, "difference": weighted - vanilla, "low": low, "high": high}
    return {"part": name, "labelled": 1234, "dialogues": 9, "accuracy": accuracy}


def cells(html: str) -> list[list[str]]:
    """Text of the table cells, row by row; graphics count as nothing."""
    rows = re.findall(r"<tr>(.*?)</tr>", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL), re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)] for row in rows]


def shown(runs: Path) -> str:
    (table,) = compare_runs(find_runs([runs]).runs)
    (line,) = table.lines
    return sections.slices(line)


def write_slices(runs: Path, llm: str, seed: int, parts: list[dict[str, Any]]) -> None:
    folder = write_run(runs, "sdt", llm, seed)
    result = json.loads((folder / "metrics.json").read_text())
    result["test"]["slices"] = [{"slice": "sex & role", "parts": parts}]
    (folder / "metrics.json").write_text(json.dumps(result))


def test_slices_are_means_over_seeds_with_their_intervals(tmp_path: Path) -> None:
    write_slices(tmp_path, "gpt-4o", 0, [part("F", 0.50, 0.60, (0.02, 0.18)), part("M", 0.5, 0.4, None)])
    write_slices(tmp_path, "gpt-4o", 1, [part("F", 0.54, 0.60, (-0.02, 0.14)), part("M", 0.5, 0.4, (-0.2, 0.0))])
    html = shown(tmp_path)
    heads, first, second = cells(html)
    assert heads[:7] == ["slice", "part", "turns", "vanilla acc", "weighted acc", "Δ", "95 % interval"]
    assert first[:7] == ["sex &amp; role", "F", "1,234", "52.0", "60.0", "+8.0", "[+0.0, +16.0]"]
    # One seed without an interval: no mean of intervals, and the name of the slice stands once.
    assert second == ["", "M", "1,234", "50.0", "40.0", "-10.0", "few", ""]
    assert html.count("<svg") == 1


def test_slices_of_runs_without_an_llm_have_one_accuracy(tmp_path: Path) -> None:
    write_slices(tmp_path, "none", 0, [part("F", 0.5, 0.5, None)])
    assert cells(shown(tmp_path)) == [
        ["slice", "part", "turns", "vanilla acc"],
        ["sex &amp; role", "F", "1,234", "50.0"],
    ]


def test_runs_without_slices_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, "sdt", "gpt-4o", 0)
    assert "these runs have no slices" in shown(tmp_path)


def test_marks_in_one_place_share_their_text() -> None:
    axis = sections.Axis(0.0, 10.0, "x")
    points = [
        sections.Point(x, y, "note", text=text)
        for x, y, text in ((1.0, 1.0, "1"), (1.1, 1.1, "2"), (5.0, 5.0, "3"), (1.05, 1.0, "4"), (5.0, 9.0, "5"))
    ]
    assert [p.text for p in sections._joined(points, axis, axis)] == ["1, 2, 4", "", "3", "", "5"]


def run_of(corpus: dict[str, Any], fingerprint: str) -> Run:
    return Run(Path("r"), {"corpus": {"fingerprint": fingerprint}}, {"corpus": corpus})


@pytest.mark.parametrize("redistribution", ["allowed", "forbidden"])
def test_text_is_shown_where_the_licence_allows_or_the_user_says_so(tmp_path: Path, redistribution: str) -> None:
    corpus = replace(generate_sample(dialogues=10), redistribution=redistribution)
    path = corpus.save(tmp_path / "c")
    for limit in (None, 5):
        whole = corpus if limit is None else corpus.limit(limit)
        run = run_of({"path": str(path), "limit_dialogues": limit}, whole.fingerprint)
        expected = {u.id: u.text for u in whole.utterances}
        assert texts_of(run, with_text=True).by_id == expected
        found = texts_of(run, with_text=False)
        if redistribution == "allowed":
            assert (found.by_id, found.note) == (expected, "")
        else:
            assert found.by_id == {}
            assert "the licence of sample forbids passing its text on" in found.note


def test_another_corpus_than_the_runs_lends_it_no_text(tmp_path: Path) -> None:
    corpus = generate_sample(dialogues=10)
    sample = {"name": "sample", "path": None, "dialogues": 10, "seed": 0}
    assert len(texts_of(run_of(sample, corpus.fingerprint), False).by_id) == len(corpus.utterances)
    for changed, told in (
        ({**sample, "seed": 1}, "the generator's corpus is not the corpus of the run any more"),
        ({"path": str(corpus.save(tmp_path / "c")), "limit_dialogues": 5}, "is not the corpus of the run any more"),
        ({"path": str(tmp_path / "gone")}, "no corpus folder there"),
        ({"name": "mine", "path": None}, "names no folder of corpus 'mine'"),
    ):
        found = texts_of(run_of(changed, corpus.fingerprint), True)
        assert found.by_id == {}
        assert told in found.note
