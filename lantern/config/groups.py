"""Where the configuration files are, and which choices each group has, read from the files alone."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIR = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
"""Lantern's own files: inside the installed package, or beside it in a checkout."""
GROUPS = ("corpus", "backbone", "tuned", "llm", "prompt", "weighting", "protocol", "trainer", "tracking", "experiment")
FINETUNE_GROUPS = ("corpus", "encoder", "backbone", "protocol", "trainer")
"""Of ``experiments.finetune_text``."""


def folders() -> list[Path]:
    """Folders with configuration files: ``configs`` in the current folder, whose files come first, and Lantern's."""
    local = Path("configs").resolve()
    return [local, CONFIG_DIR] if local.is_dir() and local != CONFIG_DIR else [CONFIG_DIR]


def choices(group: str) -> list[str]:
    """Names of the files of *group*; of ``tuned`` any file may be taken too."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})
