"""The HTML report: one file that opens without a network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lantern.files import atomic
from lantern.report import sections
from lantern.report.pages import page
from lantern.report.provenance import provenance
from lantern.report.reader import ReaderData, Shown, keep_first
from lantern.report.text_tables import PAPER, heading
from lantern.results.comparison import Comparison
from lantern.results.load import Run
from lantern.results.texts import Asked, Texts, asked_by, texts_of

MOST_SHOWN = 20
"""Run folders whose turns the reader holds: more would make a page that a phone cannot open."""
MOST_TURNS = 100_000
"""Turns that the reader holds over all its runs: 72 characters each with two bands and six classes, and their words."""

MOST_WORDS = 6_000_000
"""Characters of prompts and replies that the reader holds over all its runs."""
_FULL = "prompts and replies of some runs are not shown: those of the first ones fill the page"


def report_html(tables: Sequence[Comparison], skipped: Sequence[str], with_text: bool) -> tuple[str, list[str]]:
    """The report over *tables*, and notes for its reader: why turns have no text, which runs are left out."""
    reader, notes = _reader(tables, with_text)
    runs = [run for table in tables for run in table.folders]
    dates = sorted(str(run.result.get("time", ""))[:10] for run in runs)
    text = page(
        "report.html",
        reader,
        title="Lantern report",
        runs=f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}",
        dates=dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        written=time.strftime("%Y-%m-%d", time.gmtime()),
        paper=PAPER,
        tables=list(tables),
        skipped=skipped,
        notes=notes,
        heading=heading,
        sections=sections,
        provenance=provenance,
    )
    return text, notes


def write_report(tables: Sequence[Comparison], path: Path, with_text: bool = False) -> list[str]:
    """Write :func:`report_html` to *path* in one step; returns the notes for its reader."""
    text, notes = report_html(tables, [], with_text)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return notes


def _reader(tables: Sequence[Comparison], with_text: bool) -> tuple[dict[str, Any], list[str]]:
    data, notes = ReaderData(), []
    chosen, left = _chosen(tables)
    texts: dict[str, Texts] = {}
    cut: list[str] = []
    unasked: dict[str, None] = {}
    for run, name in chosen:
        corpus = run.result["corpus"]
        key = str(corpus.get("fingerprint"))
        if key not in texts:
            texts[key] = texts_of(run, with_text)
            notes += [texts[key].note] if texts[key].note else []
        whole = run.table()
        table = keep_first(whole, MOST_TURNS // len(chosen))
        if len(table) < len(whole):
            cut.append(f"{len(table):,} of {len(whole):,}")
        asked, corpus = None, texts[key].corpus
        if corpus is not None and run.llm != "none":
            found = asked_by(run, corpus, table) if data.words < MOST_WORDS else _FULL
            asked = found if isinstance(found, Asked) else None
            unasked |= {found: None} if isinstance(found, str) else {}
        data.add(Shown(name, table, run.folder.name, asked), texts[key].by_id)
    notes += unasked
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
