from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lantern.errors import UserError
from lantern.tables import Fields, PredictionTable
from lantern.weighting import stage, training
from lantern.weighting.config import WEIGHTINGS, WeightingConfig
from lantern.weighting.features import WeightingInputs
from lantern.weighting.simulation import CLASSES, World, accuracy, draw
from lantern.weighting.stage import (
    CHECKPOINT,
    FittedWeighting,
    apply_weighting,
    compare_baselines,
    fit_weighting,
    weight_summary,
)
from tests.rows import table_from_rows


@pytest.fixture(scope="module")
def tables() -> tuple[PredictionTable, PredictionTable]:
    return draw(World(), 600, seed=0)[0], draw(World(), 2000, seed=1)[0]


@pytest.fixture(scope="module")
def fitted(tables: tuple[PredictionTable, PredictionTable]) -> FittedWeighting:
    return fit_weighting(WeightingConfig(guard=False), tables[0], seed=3)


def unlabelled(table: PredictionTable) -> PredictionTable:
    return replace(table, labels=np.full(len(table), -1))


def marked(table: PredictionTable, marks: Mapping[str, float]) -> PredictionTable:
    """*table* whose valence, mapped to [-1, 1], is the mark of the dialogue."""
    scores = np.full((len(table), 3), 3.0)
    scores[:, 0] = [3 + 2 * marks[name] for name in table.dialogues]
    return replace(table, predicted_scores=scores)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_sums_to_one_and_leaves_failed_rows_alone(
    name: str, tables: tuple[PredictionTable, PredictionTable]
) -> None:
    fit, target = tables[0], draw(World(missing=0.5), 300, seed=5)[0]
    assert target.fields is not None
    mask = target.fields.mask
    silent = ~mask.any(axis=1)
    assert silent.any()
    filled, summary = apply_weighting(fit_weighting(WeightingConfig(name=name, guard=False), fit), target)
    assert filled.merged is not None
    assert filled.merged.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(filled.merged[silent], filled.vanilla[silent])
    assert (filled.weights is None) == (name == "stacking")
    if filled.weights is not None:
        assert filled.weights.sum(axis=1) == pytest.approx(1)
        assert not filled.weights[:, 1:][~mask].any()
    assert summary["choice"] == name
    assert (target.merged, target.weights) == (None, None)
    assert json.loads(json.dumps(summary)) == summary


def test_skilled_llm_beats_vanilla_mean_and_comes_near_the_optimum() -> None:
    table, bayes = draw(World(), 4000, seed=11)
    fit, _ = draw(World(), 1000, seed=10)
    merged = {
        name: accuracy(fit_weighting(WeightingConfig(name=name), fit).predict(table).probabilities, table)
        for name in ("attention", "mean", "vanilla")
    }
    best = accuracy(bayes, table)
    assert merged["attention"] > merged["mean"] + 2
    assert (merged["attention"] - merged["vanilla"]) / (best - merged["vanilla"]) > 0.93


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("random", "uniform", "onehot")), "oneclass", "copy"],
)
def test_useless_llm_costs_next_to_nothing_on_200_utterances(kind: str) -> None:
    world, lost = World(kind=kind), []
    for seed in range(2):
        fit, target = draw(world, 200, seed=seed)[0], draw(world, 2000, seed=100 + seed)[0]
        merged = fit_weighting(WeightingConfig(), fit, seed=seed).predict(target).probabilities
        lost.append(accuracy(target.vanilla, target) - accuracy(merged, target))
    assert np.mean(lost) <= 0.2


@pytest.mark.parametrize("name", ["band", pytest.param("attention", marks=pytest.mark.slow)])
@pytest.mark.parametrize("world", [World(gain=1.0, favour=4.0), World(favour=8.0, decimals=6)])
def test_offsets_undo_a_preference_for_a_class(name: str, world: World) -> None:
    fit, (target, bayes) = draw(world, 1000, seed=4)[0], draw(world, 4000, seed=5)
    vanilla, best = accuracy(target.vanilla, target), accuracy(bayes, target)

    def share(offsets: bool) -> tuple[FittedWeighting, float]:
        fitted = fit_weighting(WeightingConfig(name=name, offsets=offsets), fit)
        return fitted, (accuracy(fitted.predict(target).probabilities, target) - vanilla) / (best - vanilla)

    assert share(False)[1] < 0.5
    fitted, reached = share(True)
    assert reached > 0.95
    learned = fitted.module.get_parameter("offset").detach()
    others = learned[[k for k in range(len(CLASSES)) if CLASSES[k] != "neutral"]]
    assert (others - learned[CLASSES.index("neutral")]).numpy() == pytest.approx(world.favour, rel=0.25)


def test_what_offsets_correct_in_the_vanilla_model_is_no_gain_from_the_llm() -> None:
    fit = draw(World(kind="uniform", tilt=1.5), 1000, seed=0)[0]
    fitted = fit_weighting(WeightingConfig(), fit)
    held_out = fitted.report["held_out"]
    assert held_out["band"] < held_out["temperature"] - 0.05
    assert fitted.choice == "vanilla"
    assert "class offsets" in fitted.report["reason"]


def test_attention_learns_that_cut_fields_are_worthless() -> None:
    world = World(skills=(1.5, 1.5), short=0.0)
    fit, target = draw(world, 1500, seed=0)[0], draw(world, 3000, seed=1)[0]
    learned = fit_weighting(WeightingConfig(), fit)
    assert learned.choice == "attention"
    weights = learned.predict(target).weights
    assert weights is not None
    assert target.fields is not None
    cut, mask = target.fields.lengths == 4, target.fields.mask
    assert weights[:, 1:][cut & mask].mean() < 0.5 * weights[:, 1:][~cut & mask].mean()
    band = fit_weighting(WeightingConfig(name="band"), fit).predict(target).probabilities
    assert accuracy(learned.predict(target).probabilities, target) > accuracy(band, target)


def test_same_seed_same_result_and_the_callers_random_state_is_untouched(
    tables: tuple[PredictionTable, PredictionTable], fitted: FittedWeighting
) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    again = fit_weighting(WeightingConfig(guard=False), tables[0], seed=3)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert np.array_equal(again.predict(tables[1]).probabilities, fitted.predict(tables[1]).probabilities)
    assert again.report == fitted.report


def test_labels_are_not_looked_at_when_applying(
    tables: tuple[PredictionTable, PredictionTable], fitted: FittedWeighting
) -> None:
    blind = unlabelled(tables[1])
    assert np.array_equal(fitted.predict(blind).probabilities, fitted.predict(tables[1]).probabilities)


def test_unlabelled_rows_do_not_enter_the_fit(tables: tuple[PredictionTable, PredictionTable]) -> None:
    half = replace(tables[0], labels=np.where(np.arange(600) < 300, tables[0].labels, -1))
    config = WeightingConfig(name="band")
    a = fit_weighting(config, half)
    b = fit_weighting(config, tables[0].select(slice(300)))
    assert np.array_equal(a.predict(tables[1]).probabilities, b.predict(tables[1]).probabilities)
    assert a.report["fitted_on"] == b.report["fitted_on"] < 301


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_checkpoint_round_trip(name: str, tables: tuple[PredictionTable, PredictionTable], tmp_path: Path) -> None:
    before = fit_weighting(WeightingConfig(name=name, hidden=8, guard=False), tables[0], folder=tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["choice"] == before.choice
    after = FittedWeighting.load(tmp_path / CHECKPOINT)
    assert np.array_equal(before.predict(tables[1]).probabilities, after.predict(tables[1]).probabilities)
    assert (after.config, after.score_range, after.report) == (before.config, before.score_range, before.report)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_checkpoint_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weighting checkpoint"):
        FittedWeighting.load(tmp_path / "none")
    torch.save({"schema": 99}, tmp_path / "other")
    (tmp_path / "damaged").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="damaged is not a weighting checkpoint"):
        FittedWeighting.load(tmp_path / "damaged")
    with pytest.raises(UserError, match="schema"):
        FittedWeighting.load(tmp_path / "other")


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_checkpoint_from_before_the_offsets_gives_the_same_predictions(
    name: str, tables: tuple[PredictionTable, PredictionTable], tmp_path: Path
) -> None:
    before = fit_weighting(WeightingConfig(name=name, hidden=8, guard=False, offsets=False), tables[0])
    state = before.state() | {"schema": 2}
    del state["config"]["offsets"]
    state["module"].pop("offset", None)
    torch.save(state, tmp_path / CHECKPOINT)
    after = FittedWeighting.load(tmp_path / CHECKPOINT)
    assert after.config == before.config
    assert np.array_equal(before.predict(tables[1]).probabilities, after.predict(tables[1]).probabilities)


def test_degenerate_fit_tables() -> None:
    table, _ = draw(World(), 60, seed=0)
    blind = replace(unlabelled(table), split="dev")
    with pytest.raises(UserError, match=r"weighting\.name=attention.*dev table"):
        fit_weighting(WeightingConfig(), blind)
    assert fit_weighting(WeightingConfig(name="mean"), blind).choice == "mean"
    failed = replace(table, fields=Fields.empty(60, 3, 6, 12))
    silent = fit_weighting(WeightingConfig(), failed)
    assert silent.choice == "vanilla"
    assert np.array_equal(silent.predict(failed).probabilities, failed.vanilla)
    one = table.select(slice(1))
    assert fit_weighting(WeightingConfig(), one).choice == "vanilla"
    assert fit_weighting(WeightingConfig(guard=False), one).choice == "attention"
    single_class = replace(table, labels=np.full(60, 2))
    assert np.isfinite(fit_weighting(WeightingConfig(), single_class).predict(table).probabilities).all()
    unrefined = replace(table, fields=None)
    merged = fit_weighting(WeightingConfig(), unrefined).predict(unrefined)
    assert np.array_equal(merged.probabilities, unrefined.vanilla)
    assert merged.weights is not None
    assert merged.weights.shape == (60, 1)
    assert fit_weighting(WeightingConfig(), table).predict(table.select(slice(0))).probabilities.shape == (0, 6)


class Fixed(torch.nn.Module):
    """Log-likelihood of the gold class: -1, and for a *better* merge what stands in the inputs on top."""

    def __init__(self, better: bool) -> None:
        super().__init__()
        self.better = better

    def forward(self, inputs: WeightingInputs) -> tuple[torch.Tensor, None]:
        gain = inputs.dimensions[:, :1] if self.better else torch.zeros(len(inputs), 1)
        return (gain - 1).expand(-1, inputs.vanilla.shape[1]), None


@pytest.mark.parametrize(
    ("gains", "margin", "choice"),
    [
        # Of the sum 1.2 over four dialogues the standard error is sqrt(4 / 3 * 0.72) = 0.98.
        ((0.9, 0.3, 0.3, -0.3), 1.0, "band"),
        ((0.9, 0.3, 0.3, -0.3), 1.2, "band"),
        ((0.9, 0.3, 0.3, -0.3), 1.25, "vanilla"),
        ((-0.9, -0.3, -0.3, 0.3), 0.0, "vanilla"),
        ((0.0, 0.0, 0.0, 0.0), 0.0, "vanilla"),
        ((0.1, 0.1, 0.1, 0.1), 9.0, "band"),
    ],
)
def test_the_guard_wants_a_gain_of_so_many_standard_errors_over_dialogues(
    gains: tuple[float, ...], margin: float, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_build", lambda name, *_: Fixed(better=name not in ("temperature", "vector")))
    for way in ("fit", "train"):
        monkeypatch.setattr(stage, way, lambda module, *_: module)
    table, _ = draw(World(missing=0.0), 12, seed=0, length=3)
    table = marked(table, {f"d{number}": gain / 3 for number, gain in enumerate(gains)})
    fitted = fit_weighting(WeightingConfig(name="band", margin=margin, folds=3), table)
    assert fitted.choice == choice
    held_out = fitted.report["held_out"]
    assert held_out == pytest.approx({"temperature": 1.0, "vector": 1.0, "band": 1 - sum(gains) / 12})


def test_no_dialogue_is_held_out_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = draw(World(missing=0.0), 60, seed=0, length=6)
    marks = {name: float(number % 40) / 20 - 1 for number, name in enumerate(table.dialogues)}
    table = marked(table, marks)
    fits: list[set[float]] = []

    class Watched(Fixed):
        def forward(self, inputs: WeightingInputs) -> tuple[torch.Tensor, None]:
            held.append((fits[-1], set(inputs.dimensions[:, 0].tolist())))
            return super().forward(inputs)

    def train(module: torch.nn.Module, inputs: WeightingInputs, *_: object) -> torch.nn.Module:
        fits.append(set(inputs.dimensions[:, 0].tolist()))
        return module

    held: list[tuple[set[float], set[float]]] = []
    monkeypatch.setattr(stage, "_build", lambda *_: Watched(better=False))
    monkeypatch.setattr(stage, "fit", train)
    fit_weighting(WeightingConfig(name="band", folds=4), table)
    assert len(held) == 3 * 4
    assert all(not inside & outside for inside, outside in held)
    assert sum(len(outside) for _, outside in held) == 3 * len(marks)


def test_a_diverged_fit_falls_back_to_vanilla(
    tables: tuple[PredictionTable, PredictionTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(module: torch.nn.Module, *_: object) -> torch.nn.Module:
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))
        return module

    for way in ("fit", "train"):
        monkeypatch.setattr(stage, way, explode)
    for guard in (False, True):
        fitted = fit_weighting(WeightingConfig(guard=guard), tables[0])
        assert fitted.choice == "vanilla"
        assert np.array_equal(fitted.predict(tables[1]).probabilities, tables[1].vanilla)


def test_tables_that_do_not_fit_are_refused(fitted: FittedWeighting) -> None:
    wider, _ = draw(World(skills=(1.0,) * 4), 5, seed=0)
    with pytest.raises(UserError, match=r"has 4 fields per utterance, but .* fitted with 3"):
        fitted.predict(wider)
    with pytest.raises(UserError, match="fitted on classes"):
        fitted.predict(table_from_rows(("a", "b"), []))


def test_baselines_side_by_side(tables: tuple[PredictionTable, PredictionTable], fitted: FittedWeighting) -> None:
    fit, target = tables
    merged = compare_baselines(fit, target, fitted=fitted)
    assert list(merged) == [
        "vanilla",
        "temperature",
        "band0",
        "band1",
        "band2",
        "mean",
        "band",
        "stacking",
        "attention",
    ]
    for probabilities in merged.values():
        assert probabilities.shape == (2000, 6)
        assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(merged["vanilla"], target.vanilla)
    assert np.array_equal(merged["temperature"].argmax(1), target.vanilla.argmax(1))
    assert np.array_equal(merged["attention"], fitted.predict(target).probabilities)
    assert accuracy(merged["band2"], target) > accuracy(merged["band0"], target)
    assert target.fields is not None
    there = target.fields.mask[:, 2]
    assert np.allclose(merged["band2"][there], target.fields.probabilities[there, 2])


def test_stacking_agrees_with_scikit_learn_when_hardly_regularised() -> None:
    from sklearn.linear_model import LogisticRegression

    fit, target = draw(World(missing=0.0), 2000, seed=0)[0], draw(World(missing=0.0), 2000, seed=1)[0]
    config = WeightingConfig(name="stacking", guard=False, stacking_scale=5.0, epochs=40)
    ours = fit_weighting(config, fit).predict(target).probabilities

    def features(table: PredictionTable) -> np.ndarray:
        assert table.fields is not None
        logs = np.log(np.maximum(table.fields.probabilities, 1e-3))
        vanilla = np.log(np.maximum(table.vanilla, 1e-3))
        return np.concatenate((vanilla[:, None], logs), axis=1).reshape(len(table), -1)

    theirs = LogisticRegression(C=1e3, max_iter=3000).fit(features(fit), fit.labels).predict(features(target))
    assert (ours.argmax(1) == theirs).mean() > 0.95


def test_weight_summary_by_hand(tables: tuple[PredictionTable, PredictionTable]) -> None:
    filled, summary = apply_weighting(fit_weighting(WeightingConfig(name="mean"), tables[0]), tables[1])
    weights = filled.weights
    assert weights is not None
    assert filled.fields is not None
    assert [s["source"] for s in summary["sources"]] == ["vanilla", "band 0", "band 1", "band 2"]
    assert [s["mean"] for s in summary["sources"]] == pytest.approx(weights.mean(0).tolist())
    mask = filled.fields.mask
    assert summary["sources"][1]["mean_present"] == pytest.approx(weights[mask[:, 0], 1].mean())
    assert weight_summary(tables[1]) == {"rows": 0, "sources": []}


def test_every_row_is_explained(tables: tuple[PredictionTable, PredictionTable]) -> None:
    target = draw(World(missing=0.5), 300, seed=5)[0]
    rows = list(apply_weighting(fit_weighting(WeightingConfig(name="mean"), tables[0]), target)[0])
    silent = next(row for row in rows if all(f.probabilities is None for f in row.fields))
    heard = next(row for row in rows if all(f.probabilities is not None for f in row.fields))
    top = int(np.argmax(silent.vanilla))
    assert silent.explain(CLASSES) == f"vanilla {CLASSES[top]} {silent.vanilla[top]:.2f} is kept: no usable reply"
    assert heard.merged is not None
    best = int(np.argmax(heard.merged))
    explanation = heard.explain(CLASSES)
    assert explanation is not None
    assert f"merged {CLASSES[best]} {heard.merged[best]:.2f}; most weight (0.33) on band 0, " in explanation


def test_quiet_and_without_files(
    tables: tuple[PredictionTable, PredictionTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    levels = logging.getLogger("lightning.pytorch").level
    with torch.inference_mode():
        fit_weighting(WeightingConfig(guard=False, epochs=1), tables[0])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger("lightning.pytorch").level == levels


def test_a_logger_can_be_given(tables: tuple[PredictionTable, PredictionTable], tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    config = WeightingConfig(guard=False, epochs=2)
    fit_weighting(config, tables[0], trainer={"logger": CSVLogger(tmp_path), "log_every_n_steps": 1})
    assert "weighting/loss" in next(tmp_path.rglob("metrics.csv")).read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "lin"}, r"weighting\.pool=lin is not one of linear, log\. Did you mean"),
        ({"name": "atention"}, r"weighting\.name=atention.*Did you mean 'attention'"),
        ({"hidden": 0}, r"weighting\.hidden=0"),
        ({"folds": 1}, r"weighting\.folds=1"),
        ({"floor": 0.5}, r"weighting\.floor=0\.5"),
        ({"attention_scale": 0.0}, r"weighting\.attention_scale"),
        ({"margin": -1.0}, r"weighting\.margin"),
    ],
)
def test_bad_settings_name_their_spelling(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WeightingConfig(**settings)  # type: ignore[arg-type]


def test_config_is_a_structured_config() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.merge(OmegaConf.structured(WeightingConfig), {"pool": "log", "hidden": 4})
    assert OmegaConf.to_object(config) == WeightingConfig(pool="log", hidden=4)


@pytest.mark.parametrize("name", ["temperature", "vector", "band", "attention", "stacking"])
def test_the_fits_of_a_cross_validation_equal_those_of_a_trainer(
    name: str, tables: tuple[PredictionTable, PredictionTable]
) -> None:
    table, config = tables[0], WeightingConfig()
    with training.fitting(0):
        inputs = stage.build_inputs(table, coverage=table.coverage, width=stage.width_of(table), score_range=(1, 5))
        inputs = inputs.select(inputs.usable)
        plain = stage._build(name, config, len(table.classes), table.coverage)
        trained = deepcopy(plain)
        training.fit(plain, inputs, config)
        training.train(trained, inputs, config)
    for key, value in trained.state_dict().items():
        assert torch.equal(plain.state_dict()[key], value), key
