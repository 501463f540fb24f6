"""Backbones in compiled form: one graph for all shapes, the same numbers, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lantern.errors import UserError
from lantern.models.batch import Backbone, Batch, Sizes
from lantern.models.registry import backbone_config, build_backbone

SIZES = Sizes({"text": 16, "audio": 5}, classes=4, speakers=2, class_weights=(1.0, 2.0, 0.5, 1.5))
OPTIONS: dict[str, dict[str, Any]] = {
    "sdt": {"hidden": 16, "heads": 4},
    "corect": {"hidden": 8, "graph_heads": 2, "text_feedforward": 32}
    | dict.fromkeys(("text_layers", "self_attention_layers", "crossmodal_layers"), 1),
}
LENGTHS = [[9, 6, 11], [20, 7, 13, 2], [5, 5], [12, 1], [30, 41, 8]]
"""The third without padding, the fourth with fewer utterances than a tile."""


def make_batch(lengths: list[int]) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    features = {name: torch.randn(*mask.shape, size) for name, size in SIZES.dims.items()}
    labels = torch.randint(-1, SIZES.classes, mask.shape)
    return Batch(features, torch.randint(2, mask.shape), mask, labels, torch.full((*mask.shape, 3), torch.nan))


def build(name: str, **options: Any) -> Backbone:
    return build_backbone(name, vars(backbone_config(name, {**OPTIONS.get(name, {}), **options})), SIZES)


def step(model: Backbone, batch: Batch) -> list[Tensor]:
    """Logits, and gradients where there are any, with the same dropout each time."""
    torch.manual_seed(5)
    model.zero_grad()
    output = model(batch)
    if output.logits.requires_grad:
        (output.logits.square().mean() + (0 if output.auxiliary_loss is None else output.auxiliary_loss)).backward()
    return [output.logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_one_graph_without_a_break_computes_batches_of_all_shapes(name: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, again = build(name), build(name)
    again.load_state_dict(model.state_dict())
    batches = [make_batch(lengths) for lengths in LENGTHS]
    again.compile(backend="aot_eager_decomp_partition")  # all but the C++ compiler, which takes minutes
    for training in (True, False):
        for batch in batches:
            with torch.set_grad_enabled(training):
                want, got = step(model.train(training), batch), step(again.train(training), batch)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2  # one with gradients and dropout, one without
    assert not counters["graph_break"]


def test_a_model_of_the_same_kind_needs_no_graph_of_its_own() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        torch.manual_seed(seed)
        model = build("sdt")
        model.compile(backend="eager")
        step(model, make_batch([4, 7]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("lengths", [[4], [1, 1]])
def test_a_single_dialogue_or_utterance_is_computed_without_compilation(lengths: list[int]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build("sdt")
    model.compile(backend="eager")
    assert step(model, make_batch(lengths))[0].isfinite().all()
    assert not torch._dynamo.utils.counters["stats"]


@pytest.mark.parametrize(("name", "options"), [("gru", {}), ("corect", {"text_encoder": "lstm"})])
def test_a_recurrent_network_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"trainer\.compile=true"):
        build(name, **options).compile()
