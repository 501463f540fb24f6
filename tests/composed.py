"""Configurations for tests of what comes after: one that several tests want is composed once.

Hydra takes longer to compose than most of these tests for all the rest. Tests of the composition itself call
:func:`lantern.config.compose.compose`.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

from lantern.config.compose import compose as compose_anew
from lantern.config.groups import CONFIG_DIR, folders
from lantern.config.schema import RunConfig


def compose(overrides: list[str]) -> RunConfig:
    """As :func:`lantern.config.compose.compose`; the caller may change what it gets."""
    if folders() != [CONFIG_DIR] or any(override.startswith("tuned=") for override in overrides):
        return compose_anew(overrides)  # it reads files that a test has written
    config = copy.deepcopy(_composed(tuple(one for one in overrides if not one.startswith("runs="))))
    for override in overrides:
        if override.startswith("runs="):  # a folder of each test's own
            config.runs = override.removeprefix("runs=")
    return config


@functools.cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    return compose_anew(list(overrides))


def tiny_run(place: Path, *more: str) -> list[str]:
    """Overrides of a run that takes a second or two, all of it under *place*."""
    return [
        "backbone=gru",
        "llm=simulated",
        "corpus.dialogues=15",
        "trainer.epochs=4",
        "trainer.workers=1",
        "weighting.epochs=3",
        "weighting.guard=false",
        "weighting.fit_on=dev",
        f"runs={place}/runs",
        *more,
    ]
