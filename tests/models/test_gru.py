"""The GRU baseline: shapes, padding, direction, precision, bad options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lantern.errors import UserError
from lantern.models.batch import Batch, Sizes
from lantern.models.gru.config import Config
from lantern.models.gru.model import Model

SIZES = Sizes({"text": 6, "audio": 4}, classes=3, speakers=2)


def make_batch(lengths: list[int], garbage: float = float("nan")) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    random = torch.Generator().manual_seed(3)
    features = {m: torch.randn(*mask.shape, size, generator=random) for m, size in SIZES.dims.items()}
    features = {m: x.masked_fill(~mask[..., None], garbage) for m, x in features.items()}
    labels = torch.randint(0, 3, mask.shape, generator=random).masked_fill(~mask, -1)
    return Batch(features, torch.zeros_like(labels), mask, labels, torch.full((*mask.shape, 3), float("nan")))


@pytest.mark.parametrize(("bidirectional", "layers"), [(True, 1), (False, 2)])
def test_a_dialogue_depends_on_nothing_but_itself(bidirectional: bool, layers: int) -> None:
    model = Model(Config(hidden=8, layers=layers, bidirectional=bidirectional), SIZES).eval()
    lengths = [3, 0, 5, 1]
    batch = make_batch(lengths)
    output = model(batch, stages=True)
    assert output.hidden.shape == (9, model.hidden_size)
    assert output.logits.shape == (9, 3)
    assert output.stages["projected"].shape == (9, 8)
    assert output.auxiliary_loss is None
    rows = output.hidden.split(lengths)
    for row, length in enumerate(lengths):
        if length:
            part = (slice(row, row + 1), slice(length))
            single = Batch(
                {m: x[part] for m, x in batch.features.items()},
                batch.speakers[part],
                batch.mask[part],
                batch.labels[part],
                batch.scores[part],
            )
            torch.testing.assert_close(model(single).hidden, rows[row])


def test_one_direction_sees_the_past_only() -> None:
    batch, changed = make_batch([6]), make_batch([6])
    changed.features["text"][0, 4] += 1
    for bidirectional in (False, True):
        model = Model(Config(hidden=8, bidirectional=bidirectional), SIZES).eval()
        same = torch.isclose(model(batch).hidden, model(changed).hidden).all(dim=1)
        assert same[:4].all() != bidirectional
        assert not same[4]


@pytest.mark.parametrize("autocast", [False, True])
def test_training(autocast: bool) -> None:
    torch.manual_seed(0)
    model = Model(Config(hidden=16), SIZES).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = make_batch([4, 1, 6])
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(batch).logits.float(), batch.labels[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_batch_without_utterances() -> None:
    batch = make_batch([2])
    batch.mask.fill_(False)
    assert Model(Config(hidden=8), SIZES)(batch).logits.shape == (0, 3)


@pytest.mark.parametrize(("name", "value"), [("hidden", 0), ("layers", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_bad_options_are_refused_as_spelt_on_the_command_line(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"backbone\.{name}={value}"):
        Config(**{name: value})


def test_no_modality() -> None:
    with pytest.raises(UserError, match="no modality"):
        Model(Config(), Sizes({}, classes=3, speakers=2))
