"""What W&B's own command reads from its offline files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def inspect(path: Path, *options: str) -> str:
    """What W&B's own command reads from an offline run."""
    program = Path(sys.executable).parent / "wandb"
    done = subprocess.run(
        [program, "leet", "inspect", "--json", *options, path], capture_output=True, text=True, check=False
    )
    if "No such command" in done.stderr:
        pytest.skip("this wandb has no leet inspect")
    assert done.returncode == 0, done.stderr
    return done.stdout


def only_log(folder: Path) -> Path:
    """The one offline run in *folder*."""
    (log,) = folder.rglob("*.wandb")
    return log


class Recorded:
    """The records of an offline run by their type."""

    def __init__(self, log: Path) -> None:
        self.records = [json.loads(line) for line in inspect(log).splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def id(self) -> str:
        return self.of("run")[0]["run_id"]

    @property
    def exit_codes(self) -> list[int]:
        return [one["exit_code"] for one in self.of("exit")]

    def curve(self, stage: str, metric: str) -> list[int]:
        """The epochs, in order, that have a value of *metric*."""
        items = [record["item"] for record in self.of("history")]
        return [item[f"{stage}/epoch"] for item in items if metric in item]
