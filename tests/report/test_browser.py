from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.report import sections
from lantern.report.html import report_html
from lantern.report.pages import page as whole_page
from lantern.report.reader import Shown, reader_data
from lantern.results.comparison import compare_runs
from lantern.results.load import find_runs
from lantern.results.texts import Asked, Attempt
from lantern.tables import FieldReply, PredictionTable, Row
from tests.report.browser import Page, browser
from tests.results.made_runs import write_run
from tests.rows import table_from_rows

pytestmark = pytest.mark.slow
LONG = ("happiness-or-contentment", "sadness", "neutral", "anger_and_outrage", "excitement", "frustration")
HOSTILE = (
    "</script><script>window.hacked = 1</script> \u2028 <img src=x onerror='window.hacked = 2'> & 'quotes' \\ \ud800"
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_run(runs, "sdt", "gpt-4o", seed, classes=LONG, coverage=3)
        write_run(runs, "sdt", "none", seed, classes=LONG)
    write_run(runs, "corect", "smollm2", 0, turns=80, cost=None, paper_style=True)
    found = find_runs([runs])
    path = runs / "report.html"
    path.write_text(report_html(compare_runs(found.runs), [], False)[0], encoding="utf-8")
    return path


@pytest.fixture
def opened(tab: Page, report: Path) -> Page:
    tab.errors.clear()
    tab.requests.clear()
    tab.open(report)
    return tab


def visible(page: Page, selector: str) -> int:
    return page.js(f"[...document.querySelectorAll('{selector}')].filter(e => e.getClientRects().length).length")


def current(page: Page) -> Any:
    return page.js("document.querySelector('.turn[aria-current]')?.dataset.index")


def take_run(page: Page, name: str) -> None:
    page.js(
        "s = document.querySelector('.reader select');"
        f"s.value = [...s.options].find(o => o.textContent.endsWith('{name}')).value;"
        "s.dispatchEvent(new Event('change'))"
    )


def marks(page: Page) -> dict[str, int]:
    names = ("helped", "harmed", "failed")
    turns = page.js("document.querySelectorAll('.turn').length")
    return {"all": turns} | {name: page.js(f"document.querySelectorAll('.mark-{name}').length") for name in names}


def test_the_page_draws_everything_and_asks_nobody(opened: Page) -> None:
    assert opened.js("document.querySelectorAll('svg.chart').length") >= 8
    assert opened.js("document.querySelectorAll('table.cm').length") == 5  # no LLM: one matrix
    assert opened.js("[...document.querySelectorAll('svg.chart')].every(e => e.querySelector('.mark, .bar'))")
    attributes = "[...document.querySelectorAll('svg *')].flatMap(e => [...e.attributes].map(a => a.value))"
    assert not opened.js(f"{attributes}.some(value => /NaN|inf|undefined/.test(value))")
    hits = "[...document.querySelectorAll('.cm tbody tr')].map(r => [...r.cells].findIndex(c => c.matches('.hit')))"
    assert opened.js(hits) == list(range(1, 7)) * 5
    assert visible(opened, ".panel") == 2  # one setting in each of two parts
    assert opened.js("document.querySelectorAll('article').length") == 2
    assert "paper-style" in opened.js("document.querySelector('#t1 .warn').textContent")
    assert all(url.startswith("file:") for url in opened.requests)
    assert opened.errors == []


def test_another_setting_shows_its_own_panel(opened: Page) -> None:
    names = opened.js("[...document.querySelectorAll('#t0 .lines option')].map(o => o.textContent)")
    assert names == ["sdt, no LLM", "sdt + gpt-4o"]
    first = opened.js("document.querySelector('#t0 .panel:not([hidden])').dataset.line")
    opened.js("s = document.querySelector('#t0 .lines'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    assert opened.js("document.querySelector('#t0 .panel:not([hidden])').dataset.line") != first


def expected_marks(report: Path) -> dict[str, int]:
    """Of the first dialogue, counted from the run folder."""
    folder = next(path for path in report.parent.iterdir() if path.name.startswith("made-sdt-gpt-4o-seed0"))
    found = dict.fromkeys(("all", "helped", "harmed", "failed", "changed"), 0)
    for row in PredictionTable.load(folder / "predictions.test.parquet").select(slice(0, 20)):
        assert row.merged is not None
        before, after = (max(range(6), key=p.__getitem__) for p in (row.vanilla, row.merged))
        found["all"] += 1
        found["changed"] += before != after
        found["helped"] += before != row.label == after
        found["harmed"] += before == row.label != after
        found["failed"] += any(reply.failure for reply in row.fields)
    return found


def test_filters_and_keys(opened: Page, report: Path) -> None:
    take_run(opened, "sdt + gpt-4o, seed 0")
    opened.js("document.querySelector('.reader').scrollIntoView()")
    whole = expected_marks(report)
    assert all(0 < whole[name] < 20 for name in ("helped", "harmed", "failed", "changed"))
    assert current(opened) == "0"
    for key, expected in (("j", "1"), ("ArrowDown", "2"), ("k", "1"), ("ArrowUp", "0"), ("k", "0")):
        opened.press(key)
        assert current(opened) == expected
    assert opened.js("document.querySelectorAll('.sources').length") == 1
    opened.press("x")
    assert opened.js("document.querySelectorAll('.sources').length") == 20
    opened.press("x")
    for name in ("helped", "harmed", "failed", "changed", "all"):
        opened.press("f")
        assert opened.js("document.querySelector('[data-filter][aria-pressed=true]').dataset.filter") == name
        shown = marks(opened)
        assert shown["all"] == whole[name]
        if name in ("helped", "harmed", "failed"):
            assert shown[name] == shown["all"]
    before = opened.js("document.querySelectorAll('.reader select')[1].value")
    opened.press("n")
    assert opened.js("document.querySelectorAll('.reader select')[1].value") == str(int(before) + 1)
    opened.press("p")
    assert opened.js("document.querySelectorAll('.reader select')[1].value") == before
    assert opened.errors == []


def test_the_reader_shows_what_the_table_holds(opened: Page, report: Path) -> None:
    folder = next(path for path in report.parent.iterdir() if path.name.startswith("made-sdt-gpt-4o-seed0"))
    table = PredictionTable.load(folder / "predictions.test.parquet")
    take_run(opened, "sdt + gpt-4o, seed 0")
    for place in (0, 4, 7):
        row = table.row(place)
        opened.js(f"document.querySelector('.turn[data-index=\"{place}\"]').click()")
        shown = opened.js(
            "[...document.querySelectorAll('.turn[aria-current] .source')].map("
            "e => [e.className, [...e.querySelectorAll('.prob span:last-child')].map(s => s.textContent)])"
        )
        expected = [row.vanilla, *(f.probabilities or [] for f in row.fields), row.merged or []]
        for (_, texts), values in zip(shown, expected, strict=False):
            assert [int(t) for t in texts] == pytest.approx([100 * v for v in values], abs=0.6)
        gold = "no gold label" if row.label is None else f"gold {LONG[row.label]}"
        assert opened.js("document.querySelector('.turn[aria-current] .gold').textContent") == gold
        failed = [f.failure for f in row.fields if f.failure]
        assert opened.js("document.querySelectorAll('.turn[aria-current] .bad').length") == len(failed)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_in_one_direction_only(tab: Page, report: Path, dark: bool) -> None:
    tab.errors.clear()
    tab.open(report, width=360, dark=dark)
    assert tab.js("document.documentElement.scrollWidth") <= 360
    ground = tab.js("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    tab.js("document.getElementById('theme').click()")  # light, whatever the system says
    assert tab.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.js("document.getElementById('theme').click()")
    assert tab.js("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert tab.errors == []


def test_paper_shows_every_setting_and_every_bar(opened: Page) -> None:
    opened.tab.emulate_media(media="print")
    try:
        assert visible(opened, ".panel") == opened.js("document.querySelectorAll('.panel').length") == 3
        assert visible(opened, "svg .bar") == opened.js("document.querySelectorAll('svg .bar').length") > 0
        assert visible(opened, "button, select") == 0
        assert opened.js("getComputedStyle(document.documentElement).colorScheme") == "light"
    finally:
        opened.tab.emulate_media(media="screen")


def test_any_table_can_be_read_and_its_text_is_only_text(tab: Page, tmp_path: Path) -> None:
    rows = [
        Row(
            "d<1>",
            f"u{k}",
            k,
            "A & B",
            None,
            None,
            [0.6, 0.4],
            fields=[FieldReply(0, 2, k, [0.1, 0.9])],
            merged=[0.3, 0.7],
        )
        for k in range(2)
    ]
    shown = Shown("</script>my chat", table_from_rows(("x</script>", "y"), rows, "predict"))
    data = reader_data([shown], {"u0": HOSTILE})
    path = tmp_path / "page.html"
    path.write_text(whole_page("conversation.html", data, title="t", facts=[]), encoding="utf-8")
    tab.errors.clear()
    tab.open(path)
    assert tab.js("window.hacked") is None
    words = tab.js("[...document.querySelectorAll('.words')].map(e => e.textContent)")
    assert words == [HOSTILE.replace("\ud800", "?")]
    assert tab.js("document.querySelectorAll('.turn').length") == 2
    assert tab.js("document.querySelector('.gold')") is None
    assert tab.js("[...document.querySelectorAll('.who')].every(e => e.textContent.includes('changed'))")
    assert tab.errors == []


def test_a_page_without_turns_says_so(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(whole_page("conversation.html", reader_data([], {}), title="t", facts=[]), encoding="utf-8")
    tab.errors.clear()
    tab.open(path)
    assert "no turns" in tab.js("document.querySelector('.empty').textContent")
    assert tab.errors == []


def test_the_answer_comes_first_and_sections_fold(opened: Page) -> None:
    order = opened.js(
        "[...document.querySelectorAll('#t0 .banner, #t0 .verdicts, #t0 .forest, #t0 table')].slice(0, 4)"
        ".map(e => e.className.split(' ').pop())"
    )
    assert order == ["banner", "verdicts", "forest", "sortable"]
    (answer,) = opened.js("[...document.querySelectorAll('#t0 .verdicts b')].map(e => e.textContent)")
    assert "LLM gpt-4o" in answer
    assert opened.js("document.querySelectorAll('#t0 .forest > div svg').length") == 2  # a row and the axis
    seen = "document.querySelector('#t0 .forest').checkVisibility()"
    assert opened.js(seen)
    opened.js("document.querySelector('#t0-gains summary').click()")
    assert not opened.js(seen)
    opened.tab.emulate_media(media="print")
    try:
        opened.js("dispatchEvent(new Event('beforeprint'))")
        assert opened.js(seen)
        opened.js("dispatchEvent(new Event('afterprint'))")
    finally:
        opened.tab.emulate_media(media="screen")
    assert not opened.js(seen)
    assert opened.errors == []


def test_the_navigation_stays_in_sight_and_opens_what_it_leads_to(tab: Page, tmp_path: Path) -> None:
    write_run(tmp_path, "sdt", "gpt-4o", 0)
    path = tmp_path / "one.html"
    path.write_text(report_html(compare_runs(find_runs([tmp_path]).runs), [], False)[0], encoding="utf-8")
    tab.errors.clear()
    tab.open(path)
    tab.js("document.querySelector('#t0-table details').open = false")
    tab.js("scrollTo(0, document.body.scrollHeight)")
    assert tab.js("document.querySelector('nav.top').getBoundingClientRect().top") == 0
    tab.js("document.querySelector('nav.top a[href=\"#t0-table\"]').click()")
    assert tab.js("document.querySelector('#t0-table details').open")
    assert tab.until("Math.abs(document.querySelector('#t0-table').getBoundingClientRect().top) < 120")
    assert tab.errors == []


def test_a_click_on_a_head_sorts_and_heads_explain_themselves(tab: Page, tmp_path: Path) -> None:
    for backbone, cost in (("sdt", 2.5), ("gru", 11.0), ("corect", None)):
        write_run(tmp_path, backbone, "gpt-4o", 0, cost=cost)
    write_run(tmp_path, "gru", "none", 0)
    path = tmp_path / "sorted.html"
    path.write_text(report_html(compare_runs(find_runs([tmp_path]).runs), [], False)[0], encoding="utf-8")
    tab.errors.clear()
    tab.open(path)
    heads = tab.js("[...document.querySelectorAll('.sortable thead th')].map(e => e.textContent)")
    assert heads[:5] == ["setting", "seeds", "Δ acc", "p (Holm)", "95 % interval"]
    assert tab.js("[...document.querySelectorAll('.sortable thead th')].every(e => e.title.length > 5)")

    def column(name: str) -> list[str]:
        return tab.js(
            f"[...document.querySelectorAll('.sortable tbody tr')].map(e => e.cells[{heads.index(name)}].textContent)"
        )

    def click(name: str) -> None:
        tab.js(f"document.querySelectorAll('.sortable thead th')[{heads.index(name)}].click()")

    for name in ("cost $", "Δ acc"):
        click(name)
        down = column(name)
        known = [float(text.split()[0]) for text in down if text != "-"]
        assert known == sorted(known, reverse=True)
        assert down[: len(known)] == [text for text in down if text != "-"]  # what has no number comes last
        click(name)
        assert [float(text.split()[0]) for text in column(name) if text != "-"] == sorted(known)
    tab.tab.locator(".sortable thead th").first.focus()
    tab.press("Enter")
    assert column("setting") == sorted(column("setting"), reverse=True)
    assert tab.errors == []


def test_a_filter_jumps_to_its_first_match_and_keys_go_on_from_there(tab: Page, report: Path) -> None:
    tab.errors.clear()
    tab.open(report, width=1440)
    take_run(tab, "sdt + gpt-4o, seed 0")
    tab.js("document.querySelector('.talk').lastElementChild.scrollIntoView()")
    tab.js("document.querySelector('[data-filter=harmed]').click()")
    dialogue = "document.querySelectorAll('.reader select')[1].value"
    box = "(b => b.top >= 0 && b.bottom <= innerHeight)(document.querySelector('.turn.harmed').getBoundingClientRect())"
    assert tab.js(box)
    before = tab.js(dialogue)
    for _ in range(2):  # the page is short now, wherever it was scrolled
        tab.press("n")
        assert tab.js(dialogue) != before
        tab.press("p")
        assert tab.js(dialogue) == before
        tab.js("scrollTo(0, 0)")
    tab.js("s = document.querySelector('.label'); s.selectedIndex = 2; s.dispatchEvent(new Event('change'))")
    tab.js("document.querySelector('[data-filter=all]').click()")
    golds = tab.js("[...document.querySelectorAll('.turn .gold')].map(e => e.textContent)")
    assert set(golds) == {f"gold {LONG[1]}"}
    assert tab.errors == []


def test_a_link_leads_to_its_turn(tab: Page, report: Path) -> None:
    folder = next(path for path in report.parent.iterdir() if path.name.startswith("made-sdt-gpt-4o-seed1"))
    row = PredictionTable.load(folder / "predictions.test.parquet").row(47)
    tab.errors.clear()
    tab.open(report)
    tab.js(f"location.hash = '#{folder.name}/{row.dialogue}/{row.index + 1}'")
    assert tab.until(f"document.querySelector('.turn[aria-current]')?.dataset.index === '{row.index}'")
    assert tab.js("document.querySelector('.reader select').selectedOptions[0].textContent").endswith("gpt-4o, seed 1")
    assert tab.js("document.querySelectorAll('.reader select')[1].selectedOptions[0].textContent").startswith(
        row.dialogue
    )
    tab.press("j")
    address = tab.js("location.href")
    assert address.endswith(f"#{folder.name}/{row.dialogue}/{row.index + 2}")
    tab.tab.goto("about:blank")
    tab.tab.goto(address)
    assert current(tab) == str(row.index + 1)
    assert tab.js(
        "(b => b.top >= 0 && b.top < innerHeight)(document.querySelector('[aria-current]').getBoundingClientRect())"
    )
    tab.js("location.hash = '#no/such/turn'")
    tab.tab.wait_for_timeout(50)
    assert current(tab) == str(row.index + 1)
    assert tab.errors == []


def test_the_timeline_has_a_cell_for_every_turn_and_source(opened: Page, report: Path) -> None:
    take_run(opened, "sdt + gpt-4o, seed 0")
    folder = next(path for path in report.parent.iterdir() if path.name.startswith("made-sdt-gpt-4o-seed0"))
    rows = list(PredictionTable.load(folder / "predictions.test.parquet").select(slice(0, 20)))
    cells = opened.js(
        "[...document.querySelectorAll('.times')].map(e => [...e.querySelectorAll('i')].map(i => i.title))"
    )

    def top(vector: list[float] | None) -> str:
        assert vector is not None
        return LONG[max(range(6), key=vector.__getitem__)]

    gold = [f"#{r.index + 1} gold: {'none' if r.label is None else LONG[r.label]}" for r in rows]
    assert cells[0] == gold
    for line, name in ((1, "vanilla"), (2, "merged")):
        for cell, row in zip(cells[line], rows, strict=True):
            said = top(row.vanilla if name == "vanilla" else row.merged)
            wrong = "" if row.label is None or LONG[row.label] == said else f", gold {LONG[row.label]}"
            assert cell == f"#{row.index + 1} {name}: {said}{wrong}"
    opened.js("document.querySelectorAll('.times')[2].querySelectorAll('i')[6].click()")
    assert current(opened) == "6"
    assert opened.errors == []


def test_prompts_and_replies_unfold_and_are_only_text(tab: Page, tmp_path: Path) -> None:
    rows = [
        Row("d", f"u{k}", k, "A", 0, None, [0.6, 0.4], fields=[FieldReply(0, 2, k, [0.1, 0.9])], merged=[0.3, 0.7])
        for k in range(2)
    ]
    table = table_from_rows(("x", "y"), rows, "test")
    first = Attempt(
        (("system", "Judge.\nWell."), ("user", HOSTILE)), HOSTILE, "no JSON: x", "m", (120, 30), 0.01, 1.5, False
    )
    second = Attempt((("user", "Again."),), '{"1": 1}', "", "m", (150, 10), None, 0.5, True)
    asked = Asked([[first, second]], np.zeros((2, 1), dtype=int))
    path = tmp_path / "page.html"
    data = reader_data([Shown("r", table, asked=asked)], {"u0": "words"})
    path.write_text(whole_page("conversation.html", data, title="t", facts=[]), encoding="utf-8")
    tab.errors.clear()
    tab.open(path)
    summary = tab.js("document.querySelector('.asked summary').textContent")
    assert summary == "prompt and reply of band 0 · 270 + 40 tokens · 2.0 s · price unknown · 1 repair turn"
    assert tab.js("document.querySelectorAll('.asked pre').length") == 0
    tab.tab.locator(".asked summary").first.click()
    tab.tab.wait_for_selector(".asked pre")
    texts = tab.js("[...document.querySelectorAll('.asked pre')].map(e => e.textContent)")
    hostile = HOSTILE.replace("\ud800", "?")
    assert texts == ["Judge.\nWell.", hostile, hostile, "Again.", '{"1": 1}']
    assert "no JSON" in tab.js("document.querySelector('.asked').textContent")
    assert tab.js("window.hacked") is None
    assert tab.js("document.querySelectorAll('img').length") == 0
    assert tab.errors == []


def test_on_a_phone_gain_and_p_are_in_sight(tab: Page, report: Path) -> None:
    tab.errors.clear()
    tab.open(report, width=390)
    assert tab.js("document.documentElement.scrollWidth") <= 390
    for head in ("Δ acc", "p (Holm)"):
        right = tab.js(
            f"[...document.querySelectorAll('#t0 .sortable th')].find(e => e.textContent === '{head}')"
            ".getBoundingClientRect().right"
        )
        assert right <= 390
    assert tab.errors == []


def test_free_llms_draw_no_axis_of_cost(tmp_path: Path) -> None:
    for paid, charts in ((0.0, 0), (1.25, 1)):
        runs = tmp_path / str(paid)
        write_run(runs, "sdt", "gpt-4o", 0, cost=paid)
        (table,) = compare_runs(find_runs([runs]).runs)
        drawn = sections.cost(table)
        assert drawn.count("<svg") == charts
        assert ">-0" not in drawn
        assert ("free of charge" in drawn) == (charts == 0)
