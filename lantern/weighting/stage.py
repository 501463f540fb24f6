"""The weighting stage: fit on one predictions table, apply to another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lantern.errors import UserError
from lantern.files import atomic
from lantern.metrics.methods import single_band
from lantern.tables import PredictionTable
from lantern.weighting.baselines import FieldMean, LogisticStacking, TemperatureScaling, VanillaAlone
from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import WeightingInputs, build_inputs
from lantern.weighting.module import AttentionWeighting
from lantern.weighting.training import fit, fitting, negative_log_likelihood, train

log = logging.getLogger(__name__)

CHECKPOINT = "weighting.ckpt"
_SCHEMA = 3
_LEARNED = {"attention": ("band", "attention"), "band": ("band",), "stacking": ("stacking",)}


@dataclass
class Merge:
    """The predictions of a weighting."""

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
    width: int
    score_range: tuple[float, float] | None
    choice: str
    """The merge in use: ``config.name``, or the simpler one that the guard chose."""
    module: nn.Module
    report: dict[str, Any] = field(default_factory=dict)
    """Plain values for the result: utterances fitted on, held-out log-loss of each candidate, reason of the choice."""

    def inputs(self, table: PredictionTable) -> WeightingInputs:
        """Tensors of *table* for the module."""
        if table.classes != self.classes:
            raise UserError(
                f"the weighting was fitted on classes {', '.join(self.classes)}; the table has "
                f"{', '.join(table.classes)}"
            )
        return build_inputs(table, coverage=self.coverage, width=self.width, score_range=self.score_range)

    def predict(self, table: PredictionTable) -> Merge:
        """Merged probabilities and weights of every row, labelled or not; labels are not used."""
        return _predict(self.module, self.inputs(table))

    def state(self) -> dict[str, Any]:
        """Plain containers and tensors only, loadable with ``torch.load(weights_only=True)``."""
        return {
            "schema": _SCHEMA,
            "config": asdict(self.config),
            "classes": list(self.classes),
            "coverage": self.coverage,
            "width": self.width,
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
        except Exception as error:  # noqa: BLE001  torch raises what it likes for a file that is not its own
            raise UserError(f"{path} is not a weighting checkpoint ({type(error).__name__})") from None
        if not isinstance(state, dict) or type(state.get("schema")) is not int or state["schema"] not in (2, _SCHEMA):
            raise UserError(f"{path} is not a weighting checkpoint of schema {_SCHEMA}")
        try:
            if state["schema"] == 2:  # from before the offsets
                state["config"]["offsets"] = False
                if "bias" in state["module"]:
                    state["module"]["offset"] = torch.zeros(len(state["classes"]), dtype=torch.float64)
            config = WeightingConfig(**state["config"])
            classes, coverage, choice = tuple(state["classes"]), int(state["coverage"]), state["choice"]
            module = _build(choice, config, len(classes), coverage)
            module.load_state_dict(state["module"])
            ends = state["score_range"]
            score_range = None if ends is None else (float(ends[0]), float(ends[1]))
            width, report = int(state["width"]), dict(state["report"])
            if not all(bool(torch.isfinite(value).all()) for value in module.state_dict().values()):
                raise ValueError("a weight is not a finite number")
        except Exception as error:  # noqa: BLE001  as above: the values are those of another program
            why = " ".join(str(error).split())[:100]
            raise UserError(
                f"{path} is not a weighting checkpoint of this version ({type(error).__name__}: {why})"
            ) from None
        return cls(config, classes, coverage, width, score_range, choice, module.eval(), report)


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
        UserError: a learned weighting needs labels and the table has none, or the table is in-sample.
    """
    if table.split == "train":
        raise UserError(
            "a weighting cannot be fitted on the predictions for dialogues that the vanilla model trained on; give it "
            "out-of-fold or development predictions"
        )
    coverage, width = table.coverage, width_of(table)
    choice, reason = config.name, "nothing to fit"
    with fitting(seed):
        inputs = build_inputs(table, coverage=coverage, width=width, score_range=score_range)
        usable = inputs.usable
        labelled = int((inputs.labels >= 0).sum())
        report: dict[str, Any] = {"labelled": labelled, "fitted_on": int(usable.sum()), "held_out": None}
        if config.name in _LEARNED:
            if not labelled:
                raise UserError(
                    f"weighting.name={config.name} has to be fitted, but no row of the {table.split or 'fit'} table is "
                    "labelled; use weighting.name=mean or weighting.name=vanilla"
                )
            choice, reason = _choose(config, inputs.select(usable), table.dialogues[usable.numpy()], report)
        module = _build(choice, config, len(table.classes), coverage)
        if choice in _LEARNED:
            train(module, inputs.select(usable), config, trainer)
            if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
                choice, reason, module = "vanilla", "the fit diverged", VanillaAlone()
    report.update(choice=choice, reason=reason, parameters=sum(p.numel() for p in module.parameters()))
    if choice != config.name:
        log.warning("weighting.name=%s: %s is used instead (%s)", config.name, choice, reason)
    fitted = FittedWeighting(config, table.classes, coverage, width, score_range, choice, module.eval(), report)
    if folder is not None:
        fitted.save(folder / CHECKPOINT)
    return fitted


def apply_weighting(fitted: FittedWeighting, table: PredictionTable) -> tuple[PredictionTable, dict[str, Any]]:
    """*table* with weights and merged probabilities, and a summary of the weights by band.

    A row without a single reply keeps its vanilla probabilities exactly.
    """
    merge = fitted.predict(table)
    filled = replace(table, weights=merge.weights, merged=merge.probabilities)
    return filled, {"choice": fitted.choice, **weight_summary(filled)}


def width_of(table: PredictionTable) -> int:
    """Width of the table's fields; 1 for a table without any."""
    return 1 if table.fields is None else table.fields.width


def weight_summary(table: PredictionTable) -> dict[str, Any]:
    """Mean weight of each source over all rows, and over the rows that have the source; plain values."""
    if table.weights is None or table.fields is None or not len(table):
        return {"rows": 0, "sources": []}
    weights, mask = table.weights, table.fields.mask
    present = np.concatenate((np.ones((len(table), 1), dtype=bool), mask), axis=1)
    sources = []
    for k in range(weights.shape[1]):
        some = weights[present[:, k], k]
        sources.append(
            {
                "source": "vanilla" if k == 0 else f"band {k - 1}",
                "present": len(some),
                "mean": float(weights[:, k].mean()),
                "mean_present": float(some.mean()) if len(some) else None,
                "sd_present": float(some.std()) if len(some) else None,
            }
        )
    return {"rows": len(table), "sources": sources}


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
    coverage, width = fit_table.coverage, width_of(fit_table)
    target = build_inputs(apply_table, coverage=coverage, width=width, score_range=score_range)
    modules: dict[str, nn.Module] = {"vanilla": VanillaAlone()}
    with fitting(seed):
        inputs = build_inputs(fit_table, coverage=coverage, width=width, score_range=score_range)
        labelled, usable = inputs.labels >= 0, inputs.usable
        bands = {single_band(k).key: FieldMean(k) for k in range(coverage)}
        for name in ("temperature", *bands, "mean", "band", "stacking"):
            modules[name] = bands.get(name) or _build(name, config, len(fit_table.classes), coverage)
            rows = labelled if name == "temperature" else usable
            if name in ("temperature", *_LEARNED) and rows.any():
                fit(modules[name], inputs.select(rows), config)
    merged = {name: _predict(module, target).probabilities for name, module in modules.items()}
    if fitted is None or fitted.config.name != "attention":
        fitted = fit_weighting(replace(config, name="attention"), fit_table, seed=seed, score_range=score_range)
    merged["attention"] = fitted.predict(apply_table).probabilities
    return merged


def _build(name: str, config: WeightingConfig, classes: int, coverage: int) -> nn.Module:
    if name in ("temperature", "vector"):
        return TemperatureScaling(config, classes if name == "vector" else None)
    if name in ("attention", "band"):
        return AttentionWeighting(classes, coverage, config, attend=name == "attention")
    if name == "stacking":
        return LogisticStacking(classes, coverage, config)
    return FieldMean() if name == "mean" else VanillaAlone()


def _predict(module: nn.Module, inputs: WeightingInputs) -> Merge:
    """Run *module*; what is vanilla by definition is so bit by bit."""
    with torch.inference_mode():
        logs, weights = module(inputs)
    probabilities = logs.exp().numpy()
    if isinstance(module, VanillaAlone):
        probabilities = inputs.vanilla.numpy()
    elif not isinstance(module, TemperatureScaling):
        alone = ~inputs.answered.numpy()
        probabilities[alone] = inputs.vanilla.numpy()[alone]
    return Merge(probabilities, None if weights is None else weights.numpy())


def held_out_losses(
    config: WeightingConfig, inputs: WeightingInputs, group: np.ndarray, candidates: Sequence[str]
) -> dict[str, np.ndarray]:
    """Log-loss ``[N]`` of every labelled utterance in *inputs* under each candidate fitted without its group.

    Args:
        config: how the candidates are regularised, and ``folds``.
        inputs: labelled utterances.
        group: number of the dialogue of each utterance, from 0, ``[N]``; at least two.
        candidates: ``temperature`` or ``vector`` (the vanilla prediction alone, rescaled), ``band``, ``attention``,
            ``stacking``.
    """
    losses = {name: np.zeros(len(inputs)) for name in candidates}
    groups = int(group.max()) + 1
    fold = np.random.default_rng(0).permutation(groups)[group] % min(config.folds, groups)
    for k in range(min(config.folds, groups)):
        inside, outside = torch.from_numpy(fold != k), torch.from_numpy(fold == k)
        for name in candidates:
            module = _build(name, config, inputs.vanilla.shape[1], inputs.mask.shape[1])
            fit(module, inputs.select(inside), config)
            held = inputs.select(outside)
            with torch.no_grad():
                losses[name][fold == k] = negative_log_likelihood(module(held)[0], held.labels).numpy()
    return losses


def _choose(
    config: WeightingConfig, inputs: WeightingInputs, dialogues: np.ndarray, report: dict[str, Any]
) -> tuple[str, str]:
    """The richest candidate whose held-out log-loss is low enough, and why; *dialogues* are their ids, ``[N]``.

    With offsets, a merge must also be better than the vanilla prediction with offsets of its own: what those correct
    without any reply is no gain from the LLM.
    """
    if not len(inputs):
        return "vanilla", "no labelled utterance has a reply"
    if not config.guard:
        return config.name, "guard off"
    names, group = np.unique(dialogues.astype(str), return_inverse=True)
    groups = len(names)
    if groups < 2:
        return "vanilla", "cross-validation needs at least two dialogues"
    alone = ("temperature", "vector") if config.offsets else ("temperature",)
    candidates = (*alone, *_LEARNED[config.name])
    losses = held_out_losses(config, inputs, group, candidates)
    report["held_out"] = {name: float(loss.mean()) for name, loss in losses.items()}
    best = candidates[0]
    for name in candidates[1:]:
        gain = np.bincount(group, losses[best] - losses[name], groups)
        error = float(np.sqrt(groups / (groups - 1) * np.square(gain - gain.mean()).sum()))
        if gain.sum() > config.margin * error:
            best = name
    if best in alone:
        scaled = "temperature" if best == "temperature" else "temperature and class offsets"
        reason = f"no learned merge has a lower held-out log-loss than the vanilla prediction at its {scaled}"
        return "vanilla", reason
    return best, "lowest held-out log-loss" if best == config.name else f"{config.name} does not improve on {best}"
