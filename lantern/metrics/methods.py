"""The methods that every result reports beside the run's own merge, and the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

VANILLA, WEIGHTED = "vanilla", "weighted"


@dataclass(frozen=True, slots=True)
class Method:
    """One way to predict an utterance's class."""

    key: str
    """Its key among the methods of a result."""
    title: str
    band: int | None = None
    """The band whose replies it uses alone; None for all others."""


def single_band(band: int) -> Method:
    """The replies of one band alone."""
    return Method(f"band{band}", f"band {band} alone", band)


def all_methods(coverage: int) -> list[Method]:
    """Every method of a result with *coverage* bands: the vanilla model first, the run's own merge last."""
    return [
        Method(VANILLA, "vanilla"),
        Method("temperature", "vanilla, tempered"),
        *(single_band(band) for band in range(coverage)),
        Method("mean", "uniform mean"),
        Method("band", "band scalars"),
        Method("stacking", "stacking"),
        Method("attention", "attention"),
        Method(WEIGHTED, "weighted"),
    ]


def present_methods(coverage: int, keys: Iterable[str]) -> list[Method]:
    """Those of :func:`all_methods` that are among *keys*."""
    known = set(keys)
    return [method for method in all_methods(coverage) if method.key in known]
