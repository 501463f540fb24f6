from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lantern.environment import prepare

prepare()


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., list[str]]:
    """Overrides of a run that takes a second or two, all of it under ``tmp_path``."""

    def overrides(*more: str) -> list[str]:
        return [
            "backbone=gru",
            "llm=simulated",
            "corpus.dialogues=15",
            "backbone.hidden=16",
            "backbone.epochs=4",
            "weighting.epochs=3",
            "weighting.fit_on=dev",
            f"runs={tmp_path}/runs",
            *more,
        ]

    return overrides
