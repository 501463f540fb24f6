from __future__ import annotations

import pytest
import torch

from lantern.predictions import PredictionTable
from lantern.weighting.baselines import FieldMean, LogisticStacking, SingleBand, TemperatureScaling
from lantern.weighting.features import WeightingInputs, agreement, build_inputs, window_of
from lantern.weighting.module import AttentionWeighting
from lantern.weighting.simulation import CLASSES, World, draw


def inputs_of(table: PredictionTable) -> WeightingInputs:
    return build_inputs(table, coverage=table.coverage, window=window_of(table), score_range=(1.0, 5.0))


def awakened(pool: str = "linear", coverage: int = 3) -> AttentionWeighting:
    """A module whose every parameter is away from its start."""
    torch.manual_seed(0)
    module = AttentionWeighting(len(CLASSES), coverage, pool=pool)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.7)
    return module


@pytest.fixture(scope="module")
def inputs() -> WeightingInputs:
    table, _ = draw(World(missing=0.4), 200, seed=1)
    for reply in table.rows[0].fields:
        reply.probabilities = None
    return inputs_of(table)


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_sums_to_one_and_missing_fields_get_exactly_nothing(pool: str, inputs: WeightingInputs) -> None:
    module = awakened(pool)
    merged, weights = module(inputs)
    assert torch.allclose(merged.exp().sum(1), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert (weights[:, 1:][~inputs.mask] == 0).all()
    assert (weights[:, 1:][inputs.mask] > 0).all()
    changed = inputs.select(torch.arange(200))
    changed.refined[~changed.mask] = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    changed.descriptors[~changed.mask] = 9.0
    assert torch.equal(module(changed)[0], merged)


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_permuting_fields_with_their_descriptors_changes_nothing(pool: str, inputs: WeightingInputs) -> None:
    module, order = awakened(pool), torch.tensor([2, 0, 1])
    merged, weights = module(inputs)
    other, moved = module(inputs.permute_fields(order))
    assert torch.allclose(merged, other, atol=1e-12)
    assert torch.allclose(weights[:, 1:][:, order], moved[:, 1:], atol=1e-12)
    stacking = LogisticStacking(len(CLASSES), 3)
    torch.nn.init.normal_(stacking.coefficients)
    assert torch.allclose(stacking(inputs)[0], stacking(inputs.permute_fields(order))[0], atol=1e-12)
    swapped = inputs.permute_fields(order)
    swapped.band = inputs.band
    assert not torch.allclose(merged, module(swapped)[0], atol=1e-3)


def test_starts_as_the_plain_mean_of_all_sources_that_are_there(inputs: WeightingInputs) -> None:
    merged, weights = AttentionWeighting(len(CLASSES), 3)(inputs)
    count = 1 + inputs.mask.sum(1, keepdim=True)
    mean = (inputs.vanilla + (inputs.refined * inputs.mask.unsqueeze(-1)).sum(1)) / count
    assert torch.allclose(merged.exp(), mean, atol=1e-9)
    assert torch.allclose(weights[:, :1], 1 / count.double())


def test_starts_as_the_geometric_mean_with_the_log_pool(inputs: WeightingInputs) -> None:
    module = AttentionWeighting(len(CLASSES), 3, pool="log")
    logs = (inputs.refined.clamp_min(1e-3).log() * inputs.mask.unsqueeze(-1)).sum(1)
    expected = ((inputs.vanilla.clamp_min(1e-3).log() + logs) / (1 + inputs.mask.sum(1, keepdim=True))).softmax(-1)
    replied = inputs.mask.any(1)
    assert torch.allclose(module(inputs)[0].exp()[replied], expected[replied])


@pytest.mark.parametrize("pool", ["linear", "log"])
@pytest.mark.parametrize("coverage", [1, 2, 5])
def test_any_coverage_and_a_single_utterance(pool: str, coverage: int) -> None:
    table, _ = draw(World(skills=(1.0,) * coverage, missing=0.0), 1, seed=0)
    merged, weights = awakened(pool, coverage)(inputs_of(table))
    assert merged.shape == (1, 6)
    assert weights.shape == (1, coverage + 1)
    assert torch.isfinite(merged).all()


def test_no_fields_at_all_is_vanilla() -> None:
    table, _ = draw(World(), 5, seed=0)
    for row in table.rows:
        row.fields = []
    empty = inputs_of(table)
    merged, weights = awakened(coverage=0)(empty)
    assert torch.allclose(merged.exp(), empty.vanilla, atol=1e-12)
    assert torch.equal(weights, torch.ones(5, 1, dtype=torch.float64))


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_gradients_are_finite_with_missing_replies_and_hard_zeros(pool: str) -> None:
    table, _ = draw(World(missing=0.5), 60, seed=0)
    for row in table.rows[:20]:
        row.vanilla = [1.0, 0, 0, 0, 0, 0]
        for reply in row.fields:
            if reply.probabilities is not None:
                reply.probabilities = [0, 0, 0, 0, 0, 1.0]
    module, inputs = awakened(pool), inputs_of(table)
    (module(inputs)[0].gather(1, inputs.labels.unsqueeze(1)).sum() + module.penalty()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_size_and_the_dimension_switch(inputs: WeightingInputs) -> None:
    module = AttentionWeighting(6, 3)
    assert 200 < sum(p.numel() for p in module.parameters()) < 5000
    blind, seeing = AttentionWeighting(6, 3, use_dimensions=False), awakened()
    assert blind.query.in_features == module.query.in_features - 3
    moved = inputs.select(torch.arange(200))
    moved.dimensions = -moved.dimensions
    assert not torch.allclose(seeing(inputs)[0], seeing(moved)[0])
    assert torch.equal(blind(inputs)[0], blind(moved)[0])


def test_mean_and_single_band_by_hand(inputs: WeightingInputs) -> None:
    merged, weights = FieldMean()(inputs)
    assert torch.allclose(merged[0].exp(), inputs.vanilla[0])
    full = int(inputs.mask.all(1).nonzero()[0])
    assert torch.allclose(merged[full].exp(), inputs.refined[full].mean(0))
    assert weights[full, 0] == 0
    merged, weights = SingleBand(1)(inputs)
    there = inputs.mask[:, 1]
    assert torch.allclose(merged[there].exp(), inputs.refined[there, 1])
    assert torch.allclose(merged[~there].exp(), inputs.vanilla[~there])


def test_baselines_start_at_vanilla(inputs: WeightingInputs) -> None:
    for module in (TemperatureScaling(), LogisticStacking(6, 3, floor=1e-9)):
        assert torch.allclose(module(inputs)[0].exp(), inputs.vanilla, atol=1e-6)


def test_agreement_and_dimension_features() -> None:
    vanilla = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    other = torch.tensor([[[0.7, 0.3], [0.2, 0.8]]], dtype=torch.float64)
    assert torch.allclose(agreement(vanilla, other), torch.tensor([[[1.0, 1.0], [0.5, 0.0]]], dtype=torch.float64))
    table, _ = draw(World(), 3, seed=0)
    table.rows[0].predicted_scores = [1.0, 3.0, 5.0]
    table.rows[1].predicted_scores = None
    inputs = inputs_of(table)
    assert inputs.dimensions[0].tolist() == [-1, 0, 1]
    assert inputs.dimensions[1].tolist() == [0, 0, 0]
    assert not build_inputs(table, coverage=3, window=12, score_range=None).dimensions.any()
    with pytest.raises(ValueError, match="must rise"):
        build_inputs(table, coverage=3, window=12, score_range=(5.0, 1.0))
