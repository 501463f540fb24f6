from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lantern.report.html import report_html
from lantern.report.pages import page as whole_page
from lantern.report.reader import Shown, reader_data
from lantern.results.comparison import compare_runs
from lantern.results.load import find_runs
from lantern.tables import FieldReply, PredictionTable, Row
from tests.report.browser import Page, browser
from tests.results.made_runs import write_run

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
    shown = Shown("</script>my chat", PredictionTable.from_rows(("x</script>", "y"), rows, "predict"))
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
