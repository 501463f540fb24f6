"""Names of the configuration groups and their choices, read from the files alone."""

from __future__ import annotations

from pathlib import Path

CONFIG_DIR = Path(__file__).resolve().parent.parent.parent / "configs"
GROUPS = ("corpus", "backbone", "llm", "prompt", "weighting", "protocol", "trainer", "tracking", "experiment")


def choices(group: str) -> list[str]:
    """Names of the files under ``configs/<group>/``."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
