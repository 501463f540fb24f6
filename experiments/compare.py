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
        "--bundle",
        type=Path,
        metavar="DIR",
        help="write a page of results there, and beside it all that experiments.replay needs to compute them again "
        "without the corpus and the LLM; refused where the corpus's licence forbids passing it on",
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

    for option, place in {"--out": given.out, "--bundle": given.bundle}.items():
        if place is not None:
            check_place(option, place, folder=True)
    prepare(1)  # the matrices are small: a second BLAS thread costs more than it brings

    from lantern.results.comparison import compare_runs
    from lantern.results.load import find_runs

    console = screen(150)
    found = find_runs(given.runs)
    for line in found.skipped:
        console.print(f"  {line}", style="yellow", soft_wrap=True)
    tables = compare_runs(found.runs)
    print_tables(console, tables)
    if given.out is not None:
        write_files(console, tables, found.skipped, given.out, given.with_text)
    return 0 if given.bundle is None else _publish(console, tables, given.bundle)


def print_tables(console: Console, tables: list[Comparison]) -> None:
    """Every table with its verdicts, and what its columns mean."""
    from lantern.report.terminal import print_lines, print_table, print_verdicts
    from lantern.report.text_tables import PAPER, heading, legend
    from lantern.results.columns import Place, cells, heads

    for table in tables:
        rows = [cells(line, Place.COMPARE, table.lines) for line in table.lines]
        print_table(console, heading(table), heads(Place.COMPARE, table.lines), rows)
        print_lines(console, table.notes)
        print_lines(console, [PAPER] if table.paper_style else [], "yellow")
        print_verdicts(console, table.verdicts)
    console.print()
    console.print(f"  {legend(tables)}", style="dim")


def write_files(console: Console, tables: list[Comparison], skipped: list[str], out: Path, with_text: bool) -> None:
    """The tables in all formats and the report, into the folder *out*."""
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


def _publish(console: Console, tables: list[Comparison], folder: Path) -> int:
    """Make the bundle, and replay it once: what is published can be replayed."""
    import tempfile

    from lantern.pipeline.replay.bundle import read_bundle
    from lantern.pipeline.replay.make import make_bundle
    from lantern.pipeline.replay.replay import checked, replay

    make_bundle(tables, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(f"  published in {folder}, {size / 2**20:.1f} MB; replaying it", soft_wrap=True)
    bundle = read_bundle(folder)
    with tempfile.TemporaryDirectory() as place:
        result = checked(bundle, replay(bundle, Path(place) / "runs"))
    console.print(f"  {result}", style="yellow" if result.differing else "", soft_wrap=True)
    if result.differing:
        advice = "delete the metrics.json of these runs and repeat their commands, which trains and sends nothing again"
        console.print(f"  another version of Lantern evaluated them: {advice}", style="yellow", soft_wrap=True)
    return 1 if result.differing else 0


if __name__ == "__main__":
    command(main)
