"""The simulation study: does the weighting reach the known best merge, and does it do no harm?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lantern.metrics.paired import mean_sd
from lantern.weighting.config import StudyConfig, WeightingConfig
from lantern.weighting.simulation import World, accuracy, draw
from lantern.weighting.stage import fit_weighting

SKILLED: dict[str, World] = {
    "skills 0.5, 1.0, 1.5 by band": World(),
    "the same, replies under-confident": World(gain=0.5),
    "the same, replies repeat the vanilla prediction": World(anchor=0.7),
    "the same, noise of the fields correlated 0.3": World(correlation=0.3),
    "the same, 40 % of the replies missing": World(missing=0.4),
    "two bands, skills 0.7 and 1.6": World(skills=(0.7, 1.6)),
    "skills 1.5, worthless in cut fields": World(skills=(1.5, 1.5), short=0.0),
    "hard votes, right in 50, 65 and 80 %": World(kind="votes", skills=(0.5, 0.65, 0.8)),
    "replies favour one class": World(gain=1.0, favour=4.0),
    "letters, the LLM favours one, one order of classes": World(favour=8.0, decimals=6),
    "letters, the LLM favours one, the order moves on": World(favour=2.0, rotating=True, decimals=6),
    "equal skills 1.0": World(skills=(1.0, 1.0, 1.0)),
}
"""Worlds in which the LLM knows something, by what they are."""
USELESS: dict[str, World] = {
    "random vectors": World(kind="random"),
    "always the same class": World(kind="oneclass"),
    "uniform": World(kind="uniform"),
    "uniform, the vanilla model favours a class": World(kind="uniform", tilt=1.5),
    "one random class, sure": World(kind="onehot"),
    "a sharpened copy of the vanilla prediction": World(kind="copy"),
}
"""Worlds in which it knows nothing."""
OVERFIT = 3.4
"""Skill that the vanilla model seems to have on the dialogues it trained on; its true one is that of the world."""


@dataclass(frozen=True, slots=True)
class WorldResult:
    """One world over all seeds; accuracies in per cent, a value per seed."""

    name: str
    useful: bool
    vanilla: list[float]
    mean: list[float]
    weighted: list[float]
    bayes: list[float]
    in_sample: list[float]
    """The weighting when it was fitted on predictions for dialogues that the vanilla model trained on; only for the
    first world, else empty."""
    choices: list[str]
    """The merge that the guard chose: the configured one, ``band`` or ``vanilla``."""

    @property
    def share(self) -> float | None:
        """Gain of the weighting over that of the Bayes-optimal merge, of the means over seeds; None without a gain."""
        return self._share(self.weighted)

    @property
    def share_in_sample(self) -> float | None:
        """The same for the weighting that was fitted in-sample."""
        return self._share(self.in_sample)

    def _share(self, reached: list[float]) -> float | None:
        if not self.useful or not reached:
            return None
        base = np.mean(self.vanilla)
        return float((np.mean(reached) - base) / (np.mean(self.bayes) - base))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: mean and standard deviation over seeds, and the shares."""
        names = ("vanilla", "mean", "weighted", "bayes", "in_sample")
        summary: dict[str, Any] = {name: mean_sd(values) for name in names if (values := getattr(self, name))}
        gain = [a - b for a, b in zip(self.weighted, self.vanilla, strict=True)]
        return {
            "world": self.name,
            "useful": self.useful,
            **summary,
            "gain": mean_sd(gain),
            "choices": dict(sorted(Counter(self.choices).items())),
            "share_of_bayes_gain": self.share,
            "share_of_bayes_gain_in_sample": self.share_in_sample,
        }


def study(
    config: StudyConfig, weighting: WeightingConfig, progress: Callable[[str, int, int], None] | None = None
) -> list[WorldResult]:
    """Every world over ``config.seeds`` seeds from ``config.first_seed``.

    Per seed the weighting is fitted on ``config.fit`` utterances and scored on ``config.test`` new ones, against
    the vanilla prediction, the uniform mean of the fields and the Bayes-optimal merge, which knows the skills. In the
    first world the same is done with a weighting that was fitted in-sample, where the vanilla model looks as if its
    skill were :data:`OVERFIT`. *progress* is called with the world, the seeds done and all seeds.
    """
    worlds = [(name, world, True) for name, world in SKILLED.items()]
    worlds += [(f"useless LLM: {name}", world, False) for name, world in USELESS.items()]
    return [_world(name, world, useful, config, weighting, progress) for name, world, useful in worlds]


def _world(
    name: str,
    world: World,
    useful: bool,
    config: StudyConfig,
    weighting: WeightingConfig,
    progress: Callable[[str, int, int], None] | None,
) -> WorldResult:
    accuracies: dict[str, list[float]] = {key: [] for key in ("vanilla", "mean", "weighted", "bayes", "in_sample")}
    choices = []
    for number, seed in enumerate(range(config.first_seed, config.first_seed + config.seeds), 1):
        honest, _ = draw(world, config.fit, seed=2 * seed)
        target, bayes = draw(world, config.test, seed=2 * seed + 1)
        fitted = fit_weighting(weighting, honest, seed=seed)
        choices.append(fitted.choice)
        merged = {
            "vanilla": target.vanilla,
            "mean": target.uniform_mean(),
            "weighted": fitted.predict(target).probabilities,
            "bayes": bayes,
        }
        if name == next(iter(SKILLED)):
            flattered, _ = draw(replace(world, vanilla=OVERFIT), config.fit, seed=2 * seed)
            merged["in_sample"] = fit_weighting(weighting, flattered, seed=seed).predict(target).probabilities
        for key, probabilities in merged.items():
            accuracies[key].append(accuracy(probabilities, target))
        if progress is not None:
            progress(name, number, config.seeds)
    return WorldResult(name, useful, **accuracies, choices=choices)
