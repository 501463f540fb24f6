"""Finished runs side by side: ``python -m experiments.compare runs --out report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import Parser, command, screen

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.results.comparison import Comparison


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.compare",
        description="Tables and an HTML report over finished runs, made from their folders alone. Runs of different "
        "corpora, label sets, protocols or test parts never share a table.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders of run folders")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write table.csv, table.tex, table.md and report.html there"
    )
    parser.add_argument(
        "--with-text",
        action="store_true",
        help="the report shows the turns' text even where the corpus's licence forbids passing it on",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Read the runs, print a table per comparison, write the files."""
    given = _parser().parse_args(arguments)
    from lantern.environment import prepare
    from lantern.files import check_place

    if given.out is not None:
        check_place("--out", given.out, folder=True)
    prepare(1)  # the matrices are small: a second BLAS thread costs more than it brings

    from lantern.results.comparison import compare_runs
    from lantern.results.load import find_runs

    console = screen(150)
    found = find_runs(given.runs)
    for line in found.skipped:
        console.print(f"  {line}", style="yellow", soft_wrap=True)
    tables = compare_runs(found.runs)
    _print(console, tables)
    if given.out is not None:
        _write(console, tables, found.skipped, given.out, given.with_text)
    return 0


def _print(console: Console, tables: list[Comparison]) -> None:
    from lantern.report.terminal import print_lines, print_table, print_verdicts
    from lantern.report.text_tables import LEGEND, PAPER, heading
    from lantern.results.columns import Place, cells, heads

    for table in tables:
        rows = [cells(line, Place.COMPARE) for line in table.lines]
        print_table(console, heading(table), heads(Place.COMPARE), rows)
        print_lines(console, table.notes)
        print_lines(console, [PAPER] if table.paper_style else [], "yellow")
        print_verdicts(console, table.verdicts)
    console.print()
    console.print(f"  {LEGEND}", style="dim")


def _write(console: Console, tables: list[Comparison], skipped: list[str], out: Path, with_text: bool) -> None:
    from lantern.files import atomic
    from lantern.report.html import report_html
    from lantern.report.text_tables import to_csv, to_latex, to_markdown

    page, notes = report_html(tables, skipped, with_text)
    texts = {"table.csv": to_csv(tables), "table.tex": to_latex(tables), "table.md": to_markdown(tables)}
    for name, text in {**texts, "report.html": page}.items():
        with atomic(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    for note in notes:
        console.print(f"  {note}", style="yellow", soft_wrap=True)
    console.print(f"  written to {out}: {', '.join([*texts, 'report.html'])}", soft_wrap=True)


if __name__ == "__main__":
    command(main)
