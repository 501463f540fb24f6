"""How far a sweep is: ``python -m experiments.status runs``."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.cli.console import Parser, command, screen


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.status",
        description="Every run of a sweep: its state, stage, calls and cost. Reads folders only, from any machine that "
        "sees them.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), help="a sweep (runs/sweeps/<id>), or runs: its latest"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Print the table."""
    given = _parser().parse_args(arguments)

    from experiments.cli.sweeps import state_table
    from lantern.results.sweep import find_sweep

    console = screen()
    sweep = find_sweep(given.folder)
    console.print(str(sweep.folder), style="bold", soft_wrap=True)
    console.print(state_table(sweep.titles(), sweep.states(), width=console.width))
    return 0


if __name__ == "__main__":
    command(main)
