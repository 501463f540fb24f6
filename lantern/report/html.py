"""The HTML report: one file that opens without a network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from lantern.report import sections
from lantern.report.provenance import provenance
from lantern.report.reader import ReaderData, Shown, embedded_json, keep_first
from lantern.report.text_tables import heading
from lantern.results.comparison import Comparison, Line
from lantern.results.load import Run
from lantern.results.texts import texts_of

MOST_SHOWN = 20
"""Run folders whose turns the reader holds: more would make a page that a phone cannot open."""
MOST_TURNS = 100_000
"""Turns that the reader holds over all its runs: 72 characters each with two bands and six classes, and their words."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, body: str, reader: dict[str, Any] | None = None) -> str:
    """A whole page around *body*, with a dialogue reader at ``<div class="reader"></div>`` where *reader* is given.

    *reader* is what :class:`~lantern.report.reader.ReaderData` makes of any predictions tables.
    """
    data = (
        "" if reader is None else f'<script type="application/json" id="reader-data">{embedded_json(reader)}</script>'
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_asset('report.css')}</style></head>"
        f"<body>{body}{data}<script>{_asset('report.js')}</script></body></html>\n"
    )


def report_html(tables: Sequence[Comparison], skipped: Sequence[str], with_text: bool) -> tuple[str, list[str]]:
    """The report over *tables*, and what its reader should be told: why turns have no text, which runs are left out."""
    reader, notes = _reader(tables, with_text)
    runs = [run for table in tables for run in table.folders]
    dates = sorted(str(run.result.get("time", ""))[:10] for run in runs)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    many = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    links, body = [], []
    for number, table in enumerate(tables):
        name = f"{number + 1} " if len(tables) > 1 else ""
        links.append(f'<a href="#t{number}">{name}{escape(table.runs[0].result["corpus"]["name"])}</a>')
        body.append(_article(number, name, table))
    links += ['<a href="#reader">dialogues</a>']
    if len(tables) > 1:
        body.insert(0, "<p class='warn'>The runs were not all measured in the same way: numbers may be compared within "
                       f"each of the {len(tables)} parts below, not across them.</p>")  # fmt: skip
    body += [f"<p class='note'>{escape(line)}</p>" for line in skipped]
    body.append(
        f'<section id="reader"><h2>Dialogues</h2>{"".join(sections.tag("p", note) for note in notes)}'
        '<div class="reader"></div><noscript>The dialogue reader needs JavaScript.</noscript></section>'
    )
    made = time.strftime("%Y-%m-%d", time.gmtime())
    header = (
        f"<header><h1>Lantern report</h1><p>{many}, {escape(when)}; written {made}</p>"
        f'<nav>{"".join(links)}<button type="button" id="theme">theme: system</button></nav></header>'
    )
    return page("Lantern report", f"{header}<main>{''.join(body)}</main>", reader), notes


def _article(number: int, name: str, table: Comparison) -> str:
    choose = "".join(f'<option value="{k}">{escape(line.name)}</option>' for k, line in enumerate(table.lines))
    whole = [("Summary", sections.summary(table)), ("Backbone × LLM", sections.grid(table))]
    whole.append(("Cost against gain", sections.cost(table)))
    panels = "".join(
        f'<div class="panel" data-line="{k}"><h4 class="which">{escape(line.name)}</h4>{_panel(line)}</div>'
        for k, line in enumerate(table.lines)
    )
    detail = (
        f'<section><h3>One setting</h3><label class="pick">setting <select class="lines">{choose}</select></label>'
        f"{panels}</section>"
    )
    parts = "".join(f"<section><h3>{title}</h3>{content}</section>" for title, content in whole)
    end = f"<section><h3>Protocol and provenance</h3>{provenance(table)}</section>"
    return f'<article id="t{number}"><h2>{name}{escape(heading(table))}</h2>{parts}{detail}{end}</article>'


def _panel(line: Line) -> str:
    drawn = [sections.reliability(line), sections.weights(line), sections.lengths(line)]
    drawn += [sections.failures(line), sections.flips(line)]
    return (
        f"<h4>Methods</h4>{sections.methods(line)}<h4>Confusion</h4>{sections.confusion(line)}"
        f"<div class='row'>{''.join(drawn)}</div><h4>Slices</h4>{sections.slices(line)}"
    )


def _reader(tables: Sequence[Comparison], with_text: bool) -> tuple[dict[str, Any], list[str]]:
    data, notes = ReaderData(), []
    chosen, left = _chosen(tables)
    texts: dict[str, dict[str, str]] = {}
    cut: list[str] = []
    for run, name in chosen:
        corpus = run.result["corpus"]
        key = str(corpus.get("fingerprint"))
        if key not in texts:
            found = texts_of(run, with_text)
            texts[key] = found.by_id
            notes += [found.note] if found.note else []
        whole = run.table()
        table = keep_first(whole, MOST_TURNS // len(chosen))
        if len(table) < len(whole):
            cut.append(f"{len(table):,} of {len(whole):,}")
        data.add(Shown(name, table), texts[key])
    if cut:
        notes.append(f"the reader holds the first dialogues of a run only: {cut[0]} turns")
    if left:
        notes.append(
            f"{left} more runs are not in the reader, which holds {len(chosen)}: the first seeds of each setting"
        )
    return data.as_dict(), notes


def _chosen(tables: Sequence[Comparison]) -> tuple[list[tuple[Run, str]], int]:
    """At most :data:`MOST_SHOWN` run folders: the first seed of every setting, then the second ones, by table and row.

    Pooled folds come together, and one run is always shown.
    """
    lines = [line for table in tables for line in table.lines]
    ranked = [(seed, place, line) for place, line in enumerate(lines) for seed in range(len(line.runs))]
    ranked.sort(key=lambda item: item[:2])
    folders = list(itertools.accumulate(len(line.runs[seed].parts) or 1 for seed, _, line in ranked))
    kept = [item for item, count in zip(ranked, folders, strict=True) if count <= MOST_SHOWN] or ranked[:1]
    ordered = sorted(kept, key=lambda item: (item[1], item[0]))
    numbers = {id(line): number for number, table in enumerate(tables, 1) for line in table.lines}
    named = []
    for seed, _, line in ordered:
        run = line.runs[seed]
        where = f"{numbers[id(line)]} " if len(tables) > 1 else ""
        named.append((run, f"{where}{line.name}, seed {run.seed}"))
    return named, len(ranked) - len(kept)


def _asset(name: str) -> str:
    return (resources.files("lantern.report") / "assets" / name).read_text(encoding="utf-8")
