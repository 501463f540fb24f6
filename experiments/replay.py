"""Published results computed again: ``python -m experiments.replay docs/results/meld``."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.cli.console import Parser, command, screen


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.replay",
        description="Fits the weighting of published results again, from the vanilla predictions and the LLM's answers "
        "in their bundle, and makes the same table and report: no LLM, no corpus, no network. The last line says "
        "whether every number is equal to the published one; exit code 1 if not.",
    )
    parser.add_argument("bundle", type=Path, help="a folder that experiments.compare --bundle wrote")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where run folders, tables and report go; default: runs/replay/<name>"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Check the bundle, replay its runs, print the table, write the files, compare with what is published."""
    given = _parser().parse_args(arguments)
    from lantern.environment import prepare
    from lantern.files import check_place

    out = given.out or Path("runs") / "replay" / given.bundle.absolute().name
    check_place("--out", out, folder=True)
    prepare(1)  # the matrices are small: a second BLAS thread costs more than it brings

    from experiments.compare import print_tables, write_files
    from lantern.pipeline.replay.bundle import read_bundle
    from lantern.pipeline.replay.replay import checked, replay

    console = screen(150)
    bundle = read_bundle(given.bundle)
    tables = replay(bundle, out, lambda line: console.print(f"  {line}", soft_wrap=True))
    print_tables(console, tables)
    write_files(console, tables, [], out, with_text=False)
    result = checked(bundle, tables)
    console.print(f"  {result}", style="yellow" if result.differing else "bold", soft_wrap=True)
    return 1 if result.differing else 0


if __name__ == "__main__":
    command(main)
