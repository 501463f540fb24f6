"""Precomputed arrays, one file per utterance. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.errors import UserError
from lantern.features.extractors.array_files import load_array, not_finite
from lantern.features.types import Item, Recipe, Result, Unusable


class Arrays:
    """``<utterance>.npy``: ``[D]``, or ``[T, D]``, which is averaged over time."""

    batch = 16

    def __init__(self, recipe: Recipe) -> None:
        layer = "mean over time where there is time"
        self.card = FeatureCard("unknown (precomputed arrays)", "unknown", 0, 0, layer=layer)

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per array."""
        return [_vector(item) for item in items]


def _vector(item: Item) -> Result:
    assert item.path is not None
    try:
        array = load_array(item.path)
    except UserError as error:
        return Unusable(f"unreadable: {str(error).removeprefix(f'{item.path}: ')}")
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        return Unusable(f"an array {array.dtype} {list(array.shape)}, expected numbers [D] or [time, D]")
    if place := not_finite(array):
        return Unusable(f"values that are not finite: {list(place)} is {array[place]}")
    vector = array.astype(np.float64).mean(axis=0) if array.ndim == 2 else array
    return vector.astype(np.float32)
