"""What the simulated LLM's replies are worth to whoever knows how they were drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lantern.refine.backends.simulated import SimulatedConfig, evidence
from lantern.tables import ANSWERED, KINDS, Fields, PredictionTable
from lantern.weighting.simulation import softmax

CLASSES = ("a", "b", "c")


def drawn(
    config: SimulatedConfig, dialogues: int, turns: int = 6, missing: float = 0.1
) -> tuple[PredictionTable, np.ndarray]:
    """Fields of width 4 at stride 2, drawn as the backend draws them; and the skill of each, ``[N, 2]``."""
    rng = np.random.default_rng(0)
    n = dialogues * turns
    labels, indices = rng.integers(3, size=n), np.tile(np.arange(turns), dialogues).astype(np.int32)
    origins = np.stack([indices // 2 * 2 - 2, indices // 2 * 2], axis=1)
    starts = np.maximum(origins, 0)
    lengths = np.minimum(origins + 4, turns) - starts
    skill = config.skill * (lengths / 4) ** config.context_exponent * config.band_decay ** np.arange(2)
    logits = config.noise * rng.normal(size=(n, 2, 3)) + skill[..., None] * np.eye(3)[labels][:, None]
    failed = rng.random((n, 2)) < missing
    fields = Fields(
        4,
        np.where(failed[..., None], 0.0, softmax(logits)),
        np.where(failed, KINDS.index(KINDS[0]), ANSWERED).astype(np.int8),
        lengths.astype(np.int32),
        (indices[:, None] - starts).astype(np.int32),
        np.zeros((n, 2), dtype=bool),
        np.full((n, 2), np.nan),
        np.full((n, 2), np.nan),
    )
    names = np.array([f"d{i // turns}" for i in range(n)], dtype=object)
    table = PredictionTable(
        CLASSES,
        dialogues=names,
        utterances=np.array([f"{name}_{i}" for i, name in enumerate(names)], dtype=object),
        indices=indices,
        speakers=names,
        labels=labels,
        scores=np.full((n, 3), np.nan),
        vanilla=np.full((n, 3), 1 / 3),
        fields=fields,
    )
    return table, skill


def test_evidence_is_the_log_likelihood_of_the_normal_distribution() -> None:
    config = SimulatedConfig(skill=1.5, noise=0.8)
    table, skill = drawn(config, 20)
    found = evidence(config, table)
    assert found is not None
    assert table.fields is not None
    for row in range(len(table)):
        total = np.zeros(3)
        for band in np.flatnonzero(table.fields.mask[row]):
            logits = np.log(table.fields.probabilities[row, band]) + 7.0  # whatever a softmax has taken away
            means = skill[row, band] * np.eye(3)
            total -= ((logits - means) ** 2).sum(axis=1) / (2 * config.noise**2)
        assert found[row] - found[row, 0] == pytest.approx(total - total[0])


def test_nobody_who_knows_less_does_better() -> None:
    config = SimulatedConfig()
    table, _ = drawn(config, 2000)
    found = evidence(config, table)
    assert found is not None
    assert table.fields is not None

    def accuracy(scores: np.ndarray) -> float:
        return float((scores.argmax(axis=1) == table.labels).mean())

    bands = [accuracy(np.where(table.fields.mask[:, k, None], table.fields.probabilities[:, k], 0)) for k in (0, 1)]
    assert accuracy(found) > max(accuracy(table.uniform_mean()), *bands) + 0.005
    calibrated = softmax(found).max(axis=1)
    assert calibrated.mean() == pytest.approx(accuracy(found), abs=0.01)


def test_lines_of_context_make_a_field_longer() -> None:
    config = SimulatedConfig(context_exponent=1.0, band_decay=1.0, noise=1.0)
    table, _ = drawn(config, 1, missing=0.0)
    plain, wide = evidence(config, table), evidence(config, table, before=2)
    assert plain is not None
    assert wide is not None
    assert table.fields is not None
    logs = np.log(table.fields.probabilities[2])  # the third turn: fields of turns 1-4 and 3-6
    assert plain[2] == pytest.approx(config.skill * (logs[0] + logs[1]))
    assert wide[2] == pytest.approx(config.skill * (4 / 6 * logs[0] + logs[1]))


def test_it_is_not_known_of_replies_that_copy_or_have_no_noise() -> None:
    table, _ = drawn(SimulatedConfig(), 1)
    assert evidence(SimulatedConfig(trust=0.5), table) is None
    assert evidence(SimulatedConfig(noise=0.0), table) is None
    assert evidence(SimulatedConfig(), replace(table, fields=None)) is None
