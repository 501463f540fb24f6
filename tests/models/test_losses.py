from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lantern.metrics.dimensions import concordance
from lantern.models.losses import ccc_loss, class_loss, mse_loss

NAN = math.nan


def test_class_loss_is_over_labelled_rows_weighted_by_their_class() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, -1, 2, 1, -1, 2])
    weights = torch.tensor([2.0, 0.5, 1.0])
    each = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
    kept = labels >= 0
    torch.testing.assert_close(class_loss(logits, labels, None), each[kept].mean())
    share = weights[labels[kept]]
    torch.testing.assert_close(class_loss(logits, labels, weights), (each[kept] * share).sum() / share.sum())


@pytest.mark.parametrize(
    ("labels", "weights"), [([-1, -1], None), ([-1, -1], [1.0, 1.0]), ([1, 1], [1.0, 0.0]), ([1, -1], [1.0, 0.0])]
)
def test_class_loss_without_anything_to_learn_is_zero_with_a_graph(
    labels: list[int], weights: list[float] | None
) -> None:
    logits = torch.randn(2, 2, requires_grad=True)
    loss = class_loss(logits, torch.tensor(labels), None if weights is None else torch.tensor(weights))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ccc_loss_agrees_with_the_metric_over_rated_rows() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(12, 3), torch.randn(12, 3)
    target[0, 0] = target[3:7, 1] = NAN
    target[1:, 2] = NAN  # one rated row has no concordance
    expected = []
    for column in (0, 1):
        known = ~torch.isnan(target[:, column])
        found = concordance(predicted[known, column].numpy(), target[known, column].numpy())
        assert found is not None
        expected.append(1 - found)
    assert float(ccc_loss(predicted, target)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_mse_loss_is_the_mean_over_rated_entries() -> None:
    predicted = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[0.0, NAN, 1.0], [NAN, 3.0, NAN]])
    assert float(mse_loss(predicted, target)) == pytest.approx((1 + 4 + 9) / 3)


@pytest.mark.parametrize("loss", [ccc_loss, mse_loss])
def test_dimension_losses_have_finite_gradients_whatever_is_rated(loss: object) -> None:
    assert callable(loss)
    for target in (torch.full((4, 3), NAN), torch.ones(4, 3)):
        predicted = torch.ones(4, 3, requires_grad=True)
        value = loss(predicted, target)
        value.backward()
        assert math.isfinite(float(value.detach()))
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all()
    assert float(loss(torch.ones(4, 3), torch.full((4, 3), NAN))) == 0
