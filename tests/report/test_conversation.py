"""The page of one's own conversation, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lantern.report.conversation import conversation_html
from lantern.results.load import read_run
from lantern.tables import PredictionTable
from tests.report.browser import Page, browser
from tests.results.made_runs import write_run


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as found:
        yield found


def written(at: Path, llm: str | None) -> tuple[Path, PredictionTable]:
    """A page of two dialogues of ten turns without gold, by a run with or without an LLM."""
    run = read_run(write_run(at, "sdt", llm or "none", 0, turns=20, length=10))
    table = run.table()
    table = replace(table, labels=np.full_like(table.labels, -1), scores=np.full_like(table.scores, np.nan))
    if llm is None:
        table = replace(table.select(slice(0, 10)), predicted_scores=None)
    texts = {row.utterance: f"<b>word {row.index}</b>" for row in table}
    path = at / "page.html"
    path.write_text(conversation_html("my <chat>.txt", table, texts, run, (1.0, 5.0), llm), encoding="utf-8")
    return path, table


def shown(page: Page, selector: str) -> list[str]:
    return page.js(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def current(page: Page) -> str:
    return page.js("document.querySelector('.turn[aria-current]')?.dataset.index")


def test_without_an_llm_a_turn_is_its_words_and_its_likeliest_emotions(tab: Page, tmp_path: Path) -> None:
    path, table = written(tmp_path, None)
    tab.errors.clear()
    tab.open(path)
    assert shown(tab, "h1") == ["my <chat>.txt"]
    assert shown(tab, ".words") == [f"<b>word {k}</b>" for k in range(10)]
    first = sorted(zip(table.row(0).vanilla, table.classes, strict=True), reverse=True)[:3]
    assert shown(tab, '.turn[data-index="0"] .chip') == [f"{name} {100 * p:.0f}" for p, name in first]
    assert shown(tab, ".turn[aria-current] .prob span:first-child") == list(table.classes)
    # Nothing that is not there: no gold, no scores, no filter, no second run or dialogue to choose.
    assert shown(tab, ".gold, .scores, [data-filter], select, .source h5, .weight, .who span") == []
    assert "gold" not in tab.js("document.querySelector('.reader').textContent")
    assert "filter" not in shown(tab, ".help")[0]
    for key, expected in (("j", "1"), ("ArrowDown", "2"), ("k", "1"), ("f", "1"), ("n", "0"), ("p", "0")):
        tab.press(key)
        assert current(tab) == expected
    tab.press("x")
    assert len(shown(tab, ".sources")) == 10
    assert tab.errors == []


def test_with_an_llm_every_source_of_a_turn_is_shown(tab: Page, tmp_path: Path) -> None:
    path, table = written(tmp_path, "gpt-4o")
    tab.errors.clear()
    tab.requests.clear()
    tab.open(path)
    assert shown(tab, "[data-filter]") == ["all", "failed", "changed"]
    assert shown(tab, ".gold, .is-gold, .mark-helped, .mark-harmed") == []
    row = next(row for row in table if all(reply.probabilities for reply in row.fields))
    assert row.weights is not None
    assert row.merged is not None
    assert row.predicted_scores is not None
    tab.js(f"document.querySelector('.turn[data-index=\"{row.index}\"]').click()")
    told = [f"{name} · {weight:.2f}" for name, weight in zip(("vanilla", "band 0", "band 1"), row.weights, strict=True)]
    heads = tab.js("[...document.querySelectorAll('.turn[aria-current] h5')].map(e => e.firstChild.textContent)")
    assert heads == [*told, "merged"]
    bars = [int(text) for text in shown(tab, ".turn[aria-current] .prob span:last-child")]
    sources = [row.vanilla, *(reply.probabilities or [] for reply in row.fields), row.merged]
    assert bars == pytest.approx([100 * p for source in sources for p in source], abs=0.6)
    named = zip(("valence", "arousal", "dominance"), row.predicted_scores, strict=True)
    scores = " · ".join(f"{name} {value:.1f}" for name, value in named)
    assert shown(tab, ".turn[aria-current] .scores") == [scores]
    assert "from 1 to 5" in shown(tab, "header")[0]
    assert len(shown(tab, ".turn")) == 10

    def changed(rows: slice) -> int:
        return sum(max(r.vanilla) != r.vanilla[r.merged.index(max(r.merged))] for r in table.select(rows) if r.merged)

    dialogue = "document.querySelectorAll('.reader select')[0].value"
    tab.press("f")  # failed: no turn of the first dialogue is, so the reader goes to the next that has one
    at = int(tab.js(dialogue))
    first = next(place for place, row in enumerate(table) if any(reply.failure for reply in row.fields))
    assert at == first // 10
    tab.press("f")
    assert len(shown(tab, ".turn")) == changed(slice(10 * at, 10 * at + 10)) > 0
    tab.press("f")
    tab.press("n")
    assert tab.js(dialogue) == str((at + 1) % len(table.by_dialogue))
    assert all(url.startswith("file:") for url in tab.requests)
    assert tab.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_it_scrolls_in_one_direction(tab: Page, tmp_path: Path, dark: bool) -> None:
    path, _ = written(tmp_path, "gpt-4o")
    tab.errors.clear()
    tab.open(path, width=360, dark=dark)
    tab.js("document.querySelector('.expand').click()")
    assert tab.js("document.documentElement.scrollWidth") <= 360
    assert tab.js("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
    )
    assert tab.errors == []
