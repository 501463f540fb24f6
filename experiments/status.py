"""How far a sweep is: ``python -m experiments.status runs``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from experiments.console import Parser, command


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
    from rich.console import Console

    from experiments.sweeps import state_table
    from lantern.results.sweep import find_sweep

    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    sweep = find_sweep(given.folder)
    console.print(f"[bold]{sweep.folder}[/bold]", soft_wrap=True)
    console.print(state_table(sweep.titles(), sweep.states()))
    return 0


if __name__ == "__main__":
    command(main)
