"""The weighting stage: fit on one predictions table, apply to another."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lantern.errors import UserError
from lantern.files import atomic
from lantern.tables import PredictionTable, Row
from lantern.weighting.baselines import FieldMean, LogisticStacking, SingleBand, TemperatureScaling, VanillaAlone
from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import WeightingInputs, build_inputs, window_of
from lantern.weighting.module import AttentionWeighting
from lantern.weighting.training import fitting, negative_log_likelihood, train

log = logging.getLogger(__name__)

CHECKPOINT = "weighting.ckpt"
_SCHEMA = 1
_LEARNED = {"attention": ("band", "attention"), "band": ("band",), "stacking": ("stacking",)}


@dataclass
class Merge:
    """What a weighting says of a table."""

    probabilities: np.ndarray
    """``[N, C]`` merged probabilities."""
    weights: np.ndarray | None
    """``[N, 1 + t]`` weight of [vanilla, band 0 ... t-1]; None for a merge that has no weights (stacking)."""


@dataclass
class FittedWeighting:
    """A weighting that can be applied to any table of the same classes and coverage."""

    config: WeightingConfig
    classes: tuple[str, ...]
    coverage: int
    window: int
    score_range: tuple[float, float] | None
    choice: str
    """The merge in use: ``config.name``, or a simpler one that the guard let stand."""
    module: nn.Module
    report: dict[str, Any] = field(default_factory=dict)
    """Plain values for the result: utterances fitted on, held-out log-loss of each candidate, reason of the choice."""

    def inputs(self, table: PredictionTable) -> WeightingInputs:
        """Tensors of *table* as the module wants them."""
        if table.classes != self.classes:
            raise UserError(
                f"the weighting was fitted on classes {', '.join(self.classes)}; the table has "
                f"{', '.join(table.classes)}"
            )
        return build_inputs(table, coverage=self.coverage, window=self.window, score_range=self.score_range)

    def predict(self, table: PredictionTable) -> Merge:
        """Merged probabilities and weights of every row, labelled or not; labels are not looked at."""
        return _predict(self.module, self.inputs(table), table)

    def state(self) -> dict[str, Any]:
        """Plain containers and tensors only, loadable with ``torch.load(weights_only=True)``."""
        return {
            "schema": _SCHEMA,
            "config": asdict(self.config),
            "classes": list(self.classes),
            "coverage": self.coverage,
            "window": self.window,
            "score_range": None if self.score_range is None else list(self.score_range),
            "choice": self.choice,
            "report": self.report,
            "module": self.module.state_dict(),
        }

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        with atomic(path) as partial:
            torch.save(self.state(), partial)

    @classmethod
    def load(cls, path: Path) -> FittedWeighting:
        """Read what :meth:`save` wrote; a missing or foreign file is a :class:`UserError`."""
        if not path.is_file():
            raise UserError(f"no weighting checkpoint at {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{path} is not a weighting checkpoint ({type(error).__name__})") from None
        if not isinstance(state, dict) or state.get("schema") != _SCHEMA:
            raise UserError(f"{path} is not a weighting checkpoint of schema {_SCHEMA}")
        config = WeightingConfig(**state["config"])
        classes, coverage, choice = tuple(state["classes"]), state["coverage"], state["choice"]
        module = _build(choice, config, len(classes), coverage)
        module.load_state_dict(state["module"])
        score_range = state["score_range"] and (state["score_range"][0], state["score_range"][1])
        return cls(config, classes, coverage, state["window"], score_range, choice, module.eval(), state["report"])


def fit_weighting(
    config: WeightingConfig,
    table: PredictionTable,
    *,
    seed: int = 0,
    score_range: tuple[float, float] | None = (1.0, 5.0),
    folder: Path | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> FittedWeighting:
    """Fit the configured weighting on *table* (out-of-fold or development predictions, never in-sample ones).

    Args:
        config: which merge and how it is regularised.
        table: refined predictions; rows without a label or without any reply do not enter the loss.
        seed: makes the fit reproducible; the caller's random states are left as they were.
        score_range: lowest and highest dimension score on the corpus scale; None when the corpus has no scores.
        folder: where to write ``weighting.ckpt``; nothing is written when None.
        trainer: extra arguments of the ``lightning.Trainer`` of the final fit, for example a logger.

    Raises:
        UserError: a learned weighting is asked for and no row is labelled, or the table is in-sample.
    """
    if table.split == "train":
        raise UserError(
            "a weighting cannot be fitted on the predictions for dialogues that the vanilla model trained on; give it "
            "out-of-fold or development predictions"
        )
    coverage, window = table.coverage, window_of(table)
    choice, reason = config.name, "nothing to fit"
    with fitting(seed):
        inputs = build_inputs(table, coverage=coverage, window=window, score_range=score_range)
        labelled = inputs.labels >= 0
        usable = labelled & inputs.mask.any(dim=1)
        report: dict[str, Any] = {"labelled": int(labelled.sum()), "fitted_on": int(usable.sum()), "held_out": None}
        if config.name in _LEARNED:
            if not report["labelled"]:
                raise UserError(
                    f"weighting.name={config.name} has to be fitted, but no row of the {table.split or 'fit'} table is "
                    "labelled; use weighting.name=mean or weighting.name=vanilla"
                )
            choice, reason = _choose(config, inputs.select(usable), _dialogues(table, usable), report)
        module = _build(choice, config, len(table.classes), coverage)
        if choice in _LEARNED:
            train(module, inputs.select(usable), config, trainer)
            if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
                choice, reason, module = "vanilla", "the fit diverged", VanillaAlone()
    report.update(choice=choice, reason=reason, parameters=sum(p.numel() for p in module.parameters()))
    if choice != config.name:
        log.warning("weighting.name=%s: %s is used instead (%s)", config.name, choice, reason)
    fitted = FittedWeighting(config, table.classes, coverage, window, score_range, choice, module.eval(), report)
    if folder is not None:
        fitted.save(folder / CHECKPOINT)
    return fitted


def apply_weighting(fitted: FittedWeighting, table: PredictionTable) -> tuple[PredictionTable, dict[str, Any]]:
    """A copy of *table* with ``weights``, ``merged`` and ``explanation`` filled, and a summary of the weights by band.

    A row without a single reply keeps its vanilla probabilities exactly.
    """
    merge = fitted.predict(table)
    weights = [None] * len(table) if merge.weights is None else merge.weights.tolist()
    rows = [
        replace(row, weights=weight, merged=merged)
        for row, weight, merged in zip(table.rows, weights, merge.probabilities.tolist(), strict=True)
    ]
    for row in rows:
        row.explanation = explain(row, table.classes)
    filled = PredictionTable(table.classes, rows, table.split)
    return filled, {"choice": fitted.choice, **weight_summary(filled)}


def explain(row: Row, classes: tuple[str, ...]) -> str:
    """One sentence on how the merged prediction of *row* came about."""
    assert row.merged is not None

    def top(vector: list[float]) -> str:
        best = max(range(len(vector)), key=vector.__getitem__)
        return f"{classes[best]} {vector[best]:.2f}"

    replies = {reply.band: reply.probabilities for reply in row.fields if reply.probabilities is not None}
    if not replies:
        return f"vanilla {top(row.vanilla)} stands: no usable reply"
    text = f"vanilla {top(row.vanilla)}, merged {top(row.merged)}"
    if row.weights is None:
        return text
    heaviest = max(range(len(row.weights)), key=row.weights.__getitem__)
    said = "vanilla" if heaviest == 0 else f"band {heaviest - 1}, {top(replies[heaviest - 1])}"
    return f"{text}; most weight ({row.weights[heaviest]:.2f}) on {said}"


def weight_summary(table: PredictionTable) -> dict[str, Any]:
    """Mean weight of each source over all rows, and where the source was there; plain values."""
    rows = [row for row in table.rows if row.weights is not None]
    if not rows:
        return {"rows": 0, "sources": []}
    weights = np.array([row.weights for row in rows])
    _, mask = PredictionTable(table.classes, rows).refined()
    present = np.concatenate((np.ones((len(rows), 1), dtype=bool), mask), axis=1)
    sources = []
    for k in range(weights.shape[1]):
        there = weights[present[:, k], k] if k < present.shape[1] else weights[:0, k]
        sources.append(
            {
                "source": "vanilla" if k == 0 else f"band {k - 1}",
                "present": len(there),
                "mean": float(weights[:, k].mean()),
                "mean_present": float(there.mean()) if len(there) else None,
                "sd_present": float(there.std()) if len(there) else None,
            }
        )
    return {"rows": len(rows), "sources": sources}


def compare_baselines(
    fit_table: PredictionTable,
    apply_table: PredictionTable,
    *,
    config: WeightingConfig | None = None,
    seed: int = 0,
    score_range: tuple[float, float] | None = (1.0, 5.0),
    fitted: FittedWeighting | None = None,
) -> dict[str, np.ndarray]:
    """Merged probabilities ``[N, C]`` of *apply_table* for every merge that is always reported.

    Keys: ``vanilla``, ``temperature``, ``band0`` ... , ``mean``, ``band``, ``stacking`` (the last three as plain
    methods, without the guard) and ``attention`` (as configured). *fitted* spares the attention's second fit.
    """
    config = config or WeightingConfig()
    coverage, window = fit_table.coverage, window_of(fit_table)
    target = build_inputs(apply_table, coverage=coverage, window=window, score_range=score_range)
    modules: dict[str, nn.Module] = {"vanilla": VanillaAlone()}
    with fitting(seed):
        inputs = build_inputs(fit_table, coverage=coverage, window=window, score_range=score_range)
        labelled = inputs.labels >= 0
        usable = labelled & inputs.mask.any(dim=1)
        modules["temperature"] = TemperatureScaling(scale=config.temperature_scale)
        if labelled.any():
            train(modules["temperature"], inputs.select(labelled), config)
        modules |= {f"band{k}": SingleBand(k) for k in range(coverage)}
        for name in ("mean", "band", "stacking"):
            modules[name] = _build(name, config, len(fit_table.classes), coverage)
            if name in _LEARNED and usable.any():
                train(modules[name], inputs.select(usable), config)
    merged = {
        name: _predict(module, target, None if name == "temperature" else apply_table).probabilities
        for name, module in modules.items()
    }
    if fitted is None or fitted.config.name != "attention":
        fitted = fit_weighting(replace(config, name="attention"), fit_table, seed=seed, score_range=score_range)
    merged["attention"] = fitted.predict(apply_table).probabilities
    return merged


def _build(name: str, config: WeightingConfig, classes: int, coverage: int) -> nn.Module:
    if name in ("attention", "band"):
        return AttentionWeighting(
            classes,
            coverage,
            hidden=config.hidden,
            pool=config.pool,
            attend=name == "attention",
            use_dimensions=config.use_dimensions,
            recalibrate=config.recalibrate,
            unanchor=config.unanchor,
            floor=config.floor,
            scales=(config.attention_scale, config.bias_scale, config.temperature_scale),
        )
    if name == "stacking":
        return LogisticStacking(classes, coverage, floor=config.floor, scale=config.stacking_scale)
    return FieldMean() if name == "mean" else VanillaAlone()


def _predict(module: nn.Module, inputs: WeightingInputs, table: PredictionTable | None) -> Merge:
    """Run *module*; rows without a reply are copied from *table*, bit by bit, when it is given."""
    with torch.inference_mode():
        logs, weights = module(inputs)
    probabilities = logs.exp().numpy()
    if table is not None:
        alone = ~inputs.mask.any(dim=1).numpy() if not isinstance(module, VanillaAlone) else slice(None)
        probabilities[alone] = table.vanilla[alone]
    return Merge(probabilities, None if weights is None else weights.numpy())


def _dialogues(table: PredictionTable, usable: torch.Tensor) -> np.ndarray:
    names = [row.dialogue for row, use in zip(table.rows, usable.tolist(), strict=True) if use]
    return np.unique(names, return_inverse=True)[1] if names else np.zeros(0, dtype=np.int64)


def _choose(
    config: WeightingConfig,
    inputs: WeightingInputs,
    dialogues: np.ndarray,
    report: dict[str, Any],
) -> tuple[str, str]:
    """The richest candidate whose held-out log-loss is worth it, and why."""
    if not len(inputs):
        return "vanilla", "no labelled utterance has a reply"
    if not config.guard:
        return config.name, "guard off"
    groups = int(dialogues.max()) + 1
    if groups < 2:
        return "vanilla", "one dialogue cannot be held out from itself"
    candidates = ("temperature", *_LEARNED[config.name])
    losses = {name: np.zeros(len(inputs)) for name in candidates}
    fold = np.random.default_rng(0).permutation(groups)[dialogues] % min(config.folds, groups)
    for k in range(min(config.folds, groups)):
        inside, outside = torch.from_numpy(fold != k), torch.from_numpy(fold == k)
        for name in candidates:
            module = (
                TemperatureScaling(scale=config.temperature_scale)
                if name == "temperature"
                else _build(name, config, inputs.vanilla.shape[1], inputs.mask.shape[1])
            )
            train(module, inputs.select(inside), config)
            held = inputs.select(outside)
            with torch.no_grad():
                losses[name][fold == k] = negative_log_likelihood(module(held)[0], held.labels).numpy()
    report["held_out"] = {name: float(loss.mean()) for name, loss in losses.items()}
    best = "temperature"
    for name in candidates[1:]:
        gain = np.bincount(dialogues, losses[best] - losses[name], groups)
        error = float(np.sqrt(groups / (groups - 1) * np.square(gain - gain.mean()).sum()))
        if gain.sum() > config.margin * error:
            best = name
    if best == "temperature":
        return (
            "vanilla",
            "no learned merge has a lower held-out log-loss than the vanilla prediction at its temperature",
        )
    return best, "lowest held-out log-loss" if best == config.name else f"{config.name} does not improve on {best}"
