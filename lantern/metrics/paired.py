"""Is the difference of two models on the same utterances more than chance? NumPy alone, for a quick start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from lantern.metrics.classification import f1_of_counts

METRICS = ("accuracy", "weighted_f1")
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """Metric of B minus metric of A, as a fraction of 1, with a percentile interval over resampled dialogues."""

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the smaller share of resamples on either side of zero, ``(k + 1) / (resamples + 1)``."""
    standard_error: float
    resamples: int
    dialogues: int
    rows: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric of one model, as a fraction of 1, with a percentile interval over resampled dialogues."""

    value: float
    low: float
    high: float
    dialogues: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact McNemar test of two classifiers on the same utterances."""

    only_a: int
    """Utterances that only A gets right."""
    only_b: int
    """Utterances that only B gets right."""
    p_value: float


def paired_bootstrap(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    dialogues: Sequence[str] | np.ndarray,
    classes: int,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Cluster bootstrap over dialogues of the difference in accuracy and weighted F1 (Efron & Tibshirani 1993).

    Dialogues are drawn with replacement and every utterance of a drawn dialogue comes along, since utterances of one
    dialogue are not independent. The difference is the mean over seeds. All models see the same resamples, so the 95 %
    interval tells how far that mean would move with other test dialogues; the spread over seeds is not in it.

    Args:
        pairs: per seed the ``[N]`` classes of model A (for example vanilla) and of model B.
        labels: ``[N]``, -1 where not scored.
        dialogues: ``[N]`` dialogue of each utterance.
        classes: ``C``.

    Raises:
        ValueError: no pairs, the shapes do not fit or no row is labelled.
    """
    counts = _counts(pairs, labels, dialogues, classes)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for sums in _resampled(counts, resamples, seed):
        for name, (value_a, value_b) in _mean_metrics(sums).items():
            drawn[name].append(value_b - value_a)
    result = {}
    whole = _mean_metrics(counts.sum(0)[None])
    for name, (value_a, value_b) in whole.items():
        differences = np.concatenate(drawn[name])
        low, high = np.quantile(differences, (0.025, 0.975))
        side = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum())
        result[name] = Difference(
            metric=name,
            a=float(value_a[0]),
            b=float(value_b[0]),
            difference=float(value_b[0] - value_a[0]),
            low=float(low),
            high=float(high),
            p_value=float(min(1.0, 2 * (side + 1) / (resamples + 1))),
            standard_error=float(differences.std(ddof=1)) if resamples > 1 else 0.0,
            resamples=resamples,
            dialogues=len(counts),
            rows=int(counts[:, 2, :, 0].sum()),
        )
    return result


def intervals(
    predicted: Sequence[np.ndarray],
    labels: np.ndarray,
    dialogues: Sequence[str] | np.ndarray,
    classes: int,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Interval] | None:
    """Accuracy and weighted F1 of one model, means over seeds, as :func:`paired_bootstrap` resamples dialogues.

    None for a single dialogue, which cannot be resampled.

    Args:
        predicted: per seed the ``[N]`` classes.
        labels, dialogues, classes: as there.

    Raises:
        ValueError: as there.
    """
    # Each model is its own partner: what is drawn are values then, not differences.
    counts = _counts([(one, one) for one in predicted], labels, dialogues, classes)[..., ::2]
    if len(counts) < 2:
        return None
    drawn = [_metrics(sums) for sums in _resampled(counts, resamples, seed)]
    result = {}
    for name, values in _metrics(counts.sum(0)[None]).items():
        low, high = np.quantile(np.concatenate([one[name].mean(1) for one in drawn]), (0.025, 0.975))
        result[name] = Interval(float(values.mean()), float(low), float(high), len(counts))
    return result


def _counts(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    dialogues: Sequence[str] | np.ndarray,
    classes: int,
) -> np.ndarray:
    """Utterances that are right, predicted and gold, ``[dialogues, 3, C, A B A B ...]``.

    All that the metrics need of the confusion matrices of each dialogue: fewer columns to add up when it is drawn.
    """
    if not pairs:
        raise ValueError("there are no predictions to compare")
    names = np.asarray(dialogues)
    counts = []
    for predicted_a, predicted_b in pairs:
        a, b, gold, kept = _aligned(predicted_a, predicted_b, labels)
        if names.shape != kept.shape:
            raise ValueError(f"{names.shape} dialogues for {kept.shape} labels")
        _, group = np.unique(names[kept], return_inverse=True)
        groups = int(group.max()) + 1
        for predicted in (a, b):
            right = predicted == gold
            rows = (group[right], gold[right]), (group, predicted), (group, gold)
            each = [np.bincount(g * classes + c, minlength=groups * classes).reshape(groups, classes) for g, c in rows]
            counts.append(np.stack(each, axis=1).astype(float))
    return np.stack(counts, axis=-1)


def _resampled(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums ``[R, 3, C, models]`` of *counts* over drawn dialogues, some hundred resamples at a time."""
    rng, groups = np.random.default_rng(seed), len(counts)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        times = rng.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(float)
        yield (times @ counts.reshape(groups, -1)).reshape(size, *counts.shape[1:])


def mcnemar(predicted_a: np.ndarray, predicted_b: np.ndarray, labels: np.ndarray) -> McNemar:
    """Exact two-sided test of ``[N]`` predictions against ``[N]`` labels (-1: not scored); p is 1 without discord.

    Utterances count as independent; the bootstrap over dialogues does not assume that.
    """
    a, b, gold, _ = _aligned(predicted_a, predicted_b, labels)
    only_a, only_b = int(((a == gold) & (b != gold)).sum()), int(((a != gold) & (b == gold)).sum())
    p_value = min(1.0, 2 * _coin(min(only_a, only_b), only_a + only_b)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p_value)


def _coin(heads: int, tosses: int) -> float:
    """Probability of at most so many *heads*: the sum's last term times one plus the ratios of the others to it."""
    lower = np.arange(heads, 0, -1)
    last = math.lgamma(tosses + 1) - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1) - tosses * math.log(2)
    return math.exp(last) * float(1 + np.cumprod(lower / (tosses - lower + 1)).sum())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family of comparisons (Holm 1979), in the order given."""
    adjusted, running = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_effect(
    rows: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> float:
    """Smallest true difference of accuracy (fraction of 1) that a paired test on this split finds with *power*.

    ``(z_{1-α/2} + z_power) · √(discordance · design_effect / rows)``, the normal approximation of McNemar's test
    (Connor 1987), capped at *discordance*, which a difference cannot exceed.

    Args:
        rows: labelled utterances.
        discordance: share of utterances that exactly one of the two models gets right; 0.1 is usual here.
        design_effect: variance inflation because utterances of one dialogue are alike (1: none).
    """
    if rows < 1 or not 0 <= discordance <= 1 or not 0 < alpha < 1 or not 0 < power < 1 or design_effect <= 0:
        raise ValueError("rows must be positive, discordance, alpha and power shares, design_effect above 0")
    reach = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return float(min(discordance, reach * math.sqrt(discordance * design_effect / rows)))


def compare(
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    labels: np.ndarray,
    dialogues: Sequence[str] | np.ndarray,
    classes: int,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Bootstrap, McNemar and the split's minimum detectable effect for one pair of models; plain JSON values.

    The design effect is the bootstrap's variance of the accuracy difference over that of independent utterances.
    """
    pairs = [(predicted_a, predicted_b)]
    bootstrap = paired_bootstrap(pairs, labels, dialogues, classes, resamples=resamples, seed=seed)
    test = mcnemar(predicted_a, predicted_b, labels)
    rows = bootstrap["accuracy"].rows
    discordance = (test.only_a + test.only_b) / rows
    independent = (discordance - bootstrap["accuracy"].difference ** 2) / rows
    effect = bootstrap["accuracy"].standard_error ** 2 / independent if independent > 0 else 1.0
    effect = max(1.0, effect)
    return {
        **{name: asdict(difference) for name, difference in bootstrap.items()},
        "mcnemar": asdict(test),
        "discordance": discordance,
        "design_effect": effect,
        "minimum_detectable_effect": minimum_detectable_effect(rows, discordance, design_effect=effect),
    }


def mean_sd(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds; ``sd`` is None for a single seed."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("no values to average")
    return {
        "n": int(array.size),
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if array.size > 1 else None,
    }


def _aligned(
    predicted_a: np.ndarray, predicted_b: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    a, b, gold = np.asarray(predicted_a), np.asarray(predicted_b), np.asarray(labels)
    if not a.shape == b.shape == gold.shape or gold.ndim != 1:
        raise ValueError(f"predictions {a.shape}, {b.shape} and labels {gold.shape} must all be [N]")
    kept = gold >= 0
    if not kept.any():
        raise ValueError(f"none of the {len(gold)} rows is labelled; there is nothing to compare")
    return a[kept].astype(np.int64), b[kept].astype(np.int64), gold[kept].astype(np.int64), kept


def _mean_metrics(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per metric the values of A and B ``[R]``, averaged over pairs: counts ``[R, 3, C, A B A B ...]``."""
    found = _metrics(counts)
    return {name: (values[:, 0::2].mean(1), values[:, 1::2].mean(1)) for name, values in found.items()}


def _metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Per metric the values ``[R, models]`` of counts ``[R, 3, C, models]``."""
    hits, predicted, gold = counts[:, 0], counts[:, 1], counts[:, 2]
    rows = gold.sum(1)
    weighted = (f1_of_counts(hits, predicted, gold) * gold).sum(1) / rows
    return {"accuracy": hits.sum(1) / rows, "weighted_f1": weighted}
