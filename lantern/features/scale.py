"""Bring features of many units to one scale. No torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.folder import Corpus

LIMIT = 10.0


def standardise(
    corpus: Corpus, features: np.ndarray, present: np.ndarray, card: FeatureCard
) -> tuple[np.ndarray, FeatureCard]:
    """*features* ``[N, D]`` with mean 0 and sd 1 on the training dialogues, cut off at 10 sd; the card says so.

    Without training dialogues, or without features of them, the whole corpus is measured. A dimension that does not
    vary there becomes 0.
    """
    chosen = np.zeros(len(present), dtype=bool)
    for dialogue in corpus.splits.get("train", ()):
        chosen[corpus.rows[dialogue]] = True
    where = "training dialogues"
    if not (chosen & present).any():
        chosen, where = np.ones(len(present), dtype=bool), "whole corpus"
    measured = features[chosen & present].astype(np.float64)
    mean, sd = measured.mean(axis=0), measured.std(axis=0)
    varies = sd > 1e-6 * np.maximum(1.0, np.abs(mean))
    scaled = np.where(varies, (features - mean) / np.where(varies, sd, 1.0), 0.0)
    scaled = np.clip(scaled, -LIMIT, LIMIT) * present[:, None]
    return scaled.astype(np.float32), replace(card, version=f"{card.version}; standardised on the {where}")
