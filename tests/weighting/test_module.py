from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lantern.errors import FailureKind, UserError
from lantern.tables import KINDS, FieldReply, PredictionTable, Row
from lantern.weighting.baselines import FieldMean, LogisticStacking, TemperatureScaling
from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import WeightingInputs, agreement, build_inputs
from lantern.weighting.module import AttentionWeighting
from lantern.weighting.simulation import CLASSES, World, draw, softmax
from lantern.weighting.stage import width_of
from lantern.weighting.training import WeightingTask
from tests.rows import table_from_rows


def inputs_of(table: PredictionTable) -> WeightingInputs:
    return build_inputs(table, coverage=table.coverage, width=width_of(table), score_range=(1.0, 5.0))


def permuted(inputs: WeightingInputs, order: torch.Tensor) -> WeightingInputs:
    """The same utterances with their fields listed in another *order* ``[T]``."""
    moved = {name: getattr(inputs, name)[:, order] for name in ("refined", "mask", "band", "descriptors")}
    return replace(inputs, **moved)


def awakened(pool: str = "linear", coverage: int = 3) -> AttentionWeighting:
    """A module whose every parameter is away from its start."""
    torch.manual_seed(0)
    module = AttentionWeighting(len(CLASSES), coverage, WeightingConfig(pool=pool))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.7)
    return module


@pytest.fixture(scope="module")
def inputs() -> WeightingInputs:
    table, _ = draw(World(missing=0.4), 200, seed=1)
    assert table.fields is not None
    failures = table.fields.failures.copy()
    failures[0] = KINDS.index(FailureKind.REFUSAL)
    return inputs_of(replace(table, fields=replace(table.fields, failures=failures)))


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


def by_hand(module: AttentionWeighting, inputs: WeightingInputs, row: int) -> tuple[np.ndarray, np.ndarray]:
    """What the documentation of the module says of one utterance, in loops: probabilities and weights."""
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    vanilla, floor = inputs.vanilla[row].numpy(), module.floor
    fields = [k for k in range(inputs.mask.shape[1]) if inputs.mask[row, k]]
    sources = [vanilla, *(inputs.refined[row, k].numpy() for k in fields)]
    described = [np.zeros(3), *(inputs.descriptors[row, k].numpy() for k in fields)]
    places = [0, *(int(inputs.band[row, k]) + 1 for k in fields)]

    def scaled(vector: np.ndarray) -> np.ndarray:
        return 1 - 2 * np.log(np.maximum(vector, floor)) / np.log(floor)

    query = p["query.weight"] @ np.concatenate([scaled(vanilla), inputs.dimensions[row].numpy()]) + p["query.bias"]
    scores = []
    for vector, facts, place in zip(sources, described, places, strict=True):
        agrees = [np.minimum(vanilla, vector).sum(), float(vanilla.argmax() == vector.argmax())]
        key = p["key.weight"] @ np.concatenate([scaled(vector), 6 * np.concatenate([facts, agrees])])
        scores.append(p["bias"][place] + query @ key / np.sqrt(module.config.hidden))
    alpha = softmax(np.array(scores))
    warm, warm_llm = np.exp(p["log_temperature"])
    least = 1e-12 if module.config.pool == "linear" else floor
    logs = [np.log(np.maximum(vanilla, least)) / warm]
    repeated = p["anchor"] * np.log(np.maximum(vanilla, floor))
    logs += [(np.log(np.maximum(vector, least)) + p["offset"] - repeated) / warm_llm for vector in sources[1:]]
    if module.config.pool == "log":
        merged = softmax(sum(a * log for a, log in zip(alpha, logs)))
    else:
        merged = sum(a * softmax(log) for a, log in zip(alpha, logs)) ** np.exp(p["log_exponent"])
        merged = merged / merged.sum()
    weights = np.zeros(1 + inputs.mask.shape[1])
    weights[[0, *(k + 1 for k in fields)]] = alpha
    return (merged if fields else vanilla), weights


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_the_merge_is_what_its_documentation_says(pool: str, inputs: WeightingInputs) -> None:
    module = awakened(pool)
    with torch.no_grad():
        for parameter in (module.query.weight, module.key.weight):
            parameter.mul_(0.3)  # or one source would take all
    shuffled = permuted(inputs, torch.tensor([2, 0, 1])).select(torch.arange(20))
    merged, weights = (value.detach().numpy() for value in module(shuffled))
    for row in range(20):
        expected, alpha = by_hand(module, shuffled, row)
        np.testing.assert_allclose(np.exp(merged[row]), expected, atol=1e-9)
        np.testing.assert_allclose(weights[row], alpha, atol=1e-9)


@pytest.mark.parametrize(("pool", "flag"), [("linear", True), ("linear", False), ("log", True)])
def test_the_penalty_is_the_density_of_the_priors(pool: str, flag: bool) -> None:
    scales = (0.5, 3.0, 2.0)
    torch.manual_seed(0)
    config = WeightingConfig(pool=pool, recalibrate=flag, unanchor=flag, offsets=flag)
    config.attention_scale, config.bias_scale, config.temperature_scale = scales
    module = AttentionWeighting(6, 3, config)
    # Only what is used is learned, and the others stay where they are.
    assert module.log_exponent.requires_grad == (flag and pool == "linear")
    assert module.anchor.requires_grad == flag
    assert module.offset.requires_grad == flag
    attention, bias, temperature = scales
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    expected = 0.0
    for name, value in module.named_parameters():
        scale = bias if name == "bias" else attention if name.startswith(("query", "key")) else temperature
        wide = 6.0 if name == "query.bias" else 1.0
        expected += float((value.detach() / (scale * wide)).square().sum()) / 2
    assert float(module.penalty().detach()) == pytest.approx(expected)


def test_the_prior_counts_once_however_many_utterances_there_are(inputs: WeightingInputs) -> None:
    module = awakened()
    for count in (10, 200):
        part = inputs.select(torch.arange(count))
        gold = module(part)[0].gather(1, part.labels.unsqueeze(1))
        loss = WeightingTask(module).training_step(part, 0)
        torch.testing.assert_close(loss, (module.penalty() - gold.sum()) / count)


def test_baselines_are_what_their_documentation_says(inputs: WeightingInputs) -> None:
    cold = TemperatureScaling(WeightingConfig())
    vector = TemperatureScaling(WeightingConfig(temperature_scale=2.0), len(CLASSES))
    stacking = LogisticStacking(len(CLASSES), 3, WeightingConfig(stacking_scale=0.3))
    torch.manual_seed(1)
    with torch.no_grad():
        cold.log_temperature.fill_(0.7)
        for parameter in (*stacking.parameters(), *vector.parameters()):
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    sharpened = inputs.vanilla.numpy() ** np.exp(-0.7)
    expected = sharpened / sharpened.sum(1, keepdims=True)
    np.testing.assert_allclose(cold(inputs)[0].exp().detach().numpy(), expected, atol=1e-9)
    scaled = {name: value.detach().numpy() for name, value in vector.named_parameters()}
    logits = (np.log(inputs.vanilla.numpy()) + scaled["offset"]) / np.exp(scaled["log_temperature"])
    np.testing.assert_allclose(vector(inputs)[0].exp().detach().numpy(), softmax(logits), atol=1e-9)
    squares = sum(np.square(value).sum() for value in scaled.values())
    assert float(vector.penalty().detach()) == pytest.approx(squares / (2 * 2.0**2))
    p = {name: value.detach().numpy() for name, value in stacking.named_parameters()}
    shuffled = permuted(inputs, torch.tensor([1, 2, 0]))
    shuffled.refined[~shuffled.mask] = torch.eye(6, dtype=torch.float64)[0]  # which is not to be looked at
    merged = stacking(shuffled)[0].exp().detach().numpy()
    for row in range(20):
        vanilla = shuffled.vanilla[row].numpy()
        logits = np.exp(p["log_slope"]) * np.log(np.maximum(vanilla, stacking.floor)) + p["offsets"][0]
        for k in np.flatnonzero(shuffled.mask[row].numpy()):
            band, log = int(shuffled.band[row, k]), np.log(np.maximum(shuffled.refined[row, k].numpy(), stacking.floor))
            logits = logits + (log - log.mean()) @ p["coefficients"][band] + p["offsets"][band + 1]
        replied = bool(shuffled.mask[row].any())
        np.testing.assert_allclose(merged[row], softmax(logits) if replied else vanilla, atol=1e-9)


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_permuting_fields_with_their_descriptors_changes_nothing(pool: str, inputs: WeightingInputs) -> None:
    module, order = awakened(pool), torch.tensor([2, 0, 1])
    merged, weights = module(inputs)
    other, moved = module(permuted(inputs, order))
    assert torch.allclose(merged, other, atol=1e-12)
    assert torch.allclose(weights[:, 1:][:, order], moved[:, 1:], atol=1e-12)
    stacking = LogisticStacking(len(CLASSES), 3, WeightingConfig(stacking_scale=0.3))
    torch.nn.init.normal_(stacking.coefficients)
    assert torch.allclose(stacking(inputs)[0], stacking(permuted(inputs, order))[0], atol=1e-12)
    swapped = permuted(inputs, order)
    swapped.band = inputs.band
    assert not torch.allclose(merged, module(swapped)[0], atol=1e-3)


def test_starts_as_the_plain_mean_of_all_sources_that_are_there(inputs: WeightingInputs) -> None:
    merged, weights = AttentionWeighting(len(CLASSES), 3)(inputs)
    count = 1 + inputs.mask.sum(1, keepdim=True)
    mean = (inputs.vanilla + (inputs.refined * inputs.mask.unsqueeze(-1)).sum(1)) / count
    assert torch.allclose(merged.exp(), mean, atol=1e-9)
    assert torch.allclose(weights[:, :1], 1 / count.double())


def test_starts_as_the_geometric_mean_with_the_log_pool(inputs: WeightingInputs) -> None:
    module = AttentionWeighting(len(CLASSES), 3, WeightingConfig(pool="log"))
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
    empty = inputs_of(replace(table, fields=None))
    merged, weights = awakened(coverage=0)(empty)
    assert torch.allclose(merged.exp(), empty.vanilla, atol=1e-12)
    assert torch.equal(weights, torch.ones(5, 1, dtype=torch.float64))


@pytest.mark.parametrize("pool", ["linear", "log"])
def test_gradients_are_finite_with_missing_replies_and_hard_zeros(pool: str) -> None:
    table, _ = draw(World(missing=0.5), 60, seed=0)
    assert table.fields is not None
    vanilla, refined = table.vanilla.copy(), table.fields.probabilities.copy()
    vanilla[:20] = np.eye(6)[0]
    refined[:20] = np.where(table.fields.mask[:20, :, None], np.eye(6)[5], 0.0)
    hard = replace(table, vanilla=vanilla, fields=replace(table.fields, probabilities=refined))
    module, inputs = awakened(pool), inputs_of(hard)
    (module(inputs)[0].gather(1, inputs.labels.unsqueeze(1)).sum() + module.penalty()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_size_and_the_dimension_switch(inputs: WeightingInputs) -> None:
    module = AttentionWeighting(6, 3)
    assert 200 < sum(p.numel() for p in module.parameters()) < 5000
    blind, seeing = AttentionWeighting(6, 3, WeightingConfig(use_dimensions=False)), awakened()
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
    merged, weights = FieldMean(1)(inputs)
    there = inputs.mask[:, 1]
    assert torch.allclose(merged[there].exp(), inputs.refined[there, 1])
    assert torch.allclose(merged[~there].exp(), inputs.vanilla[~there])


def test_baselines_start_at_vanilla(inputs: WeightingInputs) -> None:
    for module in (TemperatureScaling(WeightingConfig()), LogisticStacking(6, 3, WeightingConfig(floor=1e-9))):
        assert torch.allclose(module(inputs)[0].exp(), inputs.vanilla, atol=1e-6)


def test_a_reply_is_described_by_its_field() -> None:
    start = Row("d", "d_0", 0, "A", 0, None, [1 / 6] * 6)
    kept = [FieldReply(1, 4, 3, [0.1] * 4 + [0.3, 0.3], repaired=True), FieldReply(0, 1, 0, [0.5] * 2 + [0.0] * 4)]
    failed = FieldReply(2, 30, 15, None, failure=FailureKind.REFUSAL)
    table = table_from_rows(CLASSES, [replace(start, fields=[*kept, failed])])
    found = build_inputs(table, coverage=3, width=12, score_range=None)
    assert found.mask.tolist() == [[True, True, False]]
    assert found.band.tolist() == [[0, 1, 2]]
    assert found.refined[0, 1].tolist() == kept[0].probabilities
    # Share of the window, place in the field from 0 to 1, repaired; nothing is told of a reply that is missing.
    assert found.descriptors[0].tolist() == [[1 / 12, 0.0, 0.0], [4 / 12, 1.0, 1.0], [0.0, 0.0, 0.0]]
    whole = FieldReply(2, 30, 15, [1 / 6] * 6)
    table = table_from_rows(CLASSES, [replace(start, fields=[*kept, whole])])
    longer = build_inputs(table, coverage=3, width=12, score_range=None)
    assert longer.descriptors[0, 2].tolist() == [1.0, 15 / 29, 0.0]
    with pytest.raises(
        UserError, match=r"has 3 fields per utterance, but .* fitted with 2; use the same refine\.coverage"
    ):
        build_inputs(table, coverage=2, width=12, score_range=None)


def test_agreement_and_dimension_features() -> None:
    vanilla = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    other = torch.tensor([[[0.7, 0.3], [0.2, 0.8]]], dtype=torch.float64)
    assert torch.allclose(agreement(vanilla, other), torch.tensor([[[1.0, 1.0], [0.5, 0.0]]], dtype=torch.float64))
    table, _ = draw(World(), 3, seed=0)
    table = replace(table, predicted_scores=np.array([[1.0, 3.0, 5.0], [np.nan] * 3, [3.0] * 3]))
    inputs = inputs_of(table)
    assert inputs.dimensions[0].tolist() == [-1, 0, 1]
    assert inputs.dimensions[1].tolist() == [0, 0, 0]
    assert not inputs_of(replace(table, predicted_scores=None)).dimensions.any()
    assert not build_inputs(table, coverage=3, width=12, score_range=None).dimensions.any()
    with pytest.raises(ValueError, match="must rise"):
        build_inputs(table, coverage=3, width=12, score_range=(5.0, 1.0))
