"""``python -m experiments.finetune_text``."""

from __future__ import annotations

from experiments.cli.console import command
from experiments.finetune_text import main

if __name__ == "__main__":
    command(main)
