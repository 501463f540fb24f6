"""CORECT against vectors recorded from the published implementation, run on random parameters and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lantern.errors import UserError
from lantern.models.batch import Batch
from lantern.models.corect import Model, load_published
from lantern.models.corect.graph import EdgeRule
from lantern.models.corect.published import rename

GOLDEN = Path(__file__).parent.parent / "golden" / "corect"
VECTORS = sorted(path.stem for path in GOLDEN.glob("golden_*way*.json"))
EDGES = json.loads((GOLDEN / "golden_edges.json").read_text())
TOLERANCE = 5e-5
SLOW_GRADIENT = 1e-6  # official gradients that are zero up to rounding


class Golden:
    def __init__(self, name: str) -> None:
        self.info: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
        self.tensors = load_file(GOLDEN / f"{name}.safetensors")
        self.config: dict[str, Any] = self.info["config"]
        self.state = {k.removeprefix("state."): v for k, v in self.tensors.items() if k.startswith("state.")}

    def model(self, exact: bool = True) -> Model:
        return load_published(self.state, self.config, exact_published=exact)

    def batch(self, garbage: bool = False) -> Batch:
        lengths = self.tensors["in.text_len_tensor"]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        labels = torch.full(mask.shape, -1)
        labels[mask] = self.tensors["in.label_tensor"]
        names = [n for n in ("text", "audio", "visual") if f"in.{n}_tensor" in self.tensors]
        features = {n: self.tensors[f"in.{n}_tensor"].clone() for n in names}
        speakers = self.tensors["in.speaker_tensor"].clone()
        if garbage:
            speakers[~mask] = 1
            for value in features.values():
                value[~mask] = float("nan")
        scores = torch.full((*mask.shape, 3), float("nan"))
        return Batch(features=features, speakers=speakers, mask=mask, labels=labels, scores=scores)


@pytest.fixture(scope="module", params=VECTORS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def check(golden: Golden, stages: dict[str, Tensor], prefix: str) -> int:
    compared = 0
    for key, want in golden.tensors.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name == "loss" or name.endswith("official_order"):
            continue
        got = stages[name]
        if want.is_floating_point():
            torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0, msg=lambda m, k=key: f"{k}: {m}")
        else:
            assert torch.equal(got, want), key
        compared += 1
    return compared


@pytest.mark.parametrize("garbage", [False, True])
def test_every_stage_of_the_unmasked_evaluation(golden: Golden, garbage: bool) -> None:
    batch = golden.batch(garbage)
    with torch.no_grad():
        out = golden.model()(batch, stages=True)
    assert check(golden, out.stages, "out.") >= 10
    loss = F.cross_entropy(out.logits, batch.labels[batch.mask])
    torch.testing.assert_close(loss, golden.tensors["out.loss"].squeeze(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("garbage", [False, True])
def test_masked_targets(golden: Golden, garbage: bool) -> None:
    with torch.no_grad():
        out = golden.model(exact=False)(golden.batch(garbage), stages=True)
    assert check(golden, out.stages, "masked.") >= 5


def test_gradients_of_the_first_step(golden: Golden) -> None:
    model, batch = golden.model().train(), golden.batch()
    F.cross_entropy(model(batch).logits, batch.labels[batch.mask]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    compared = 0
    for name, norm in golden.info["train_mode_grad_l2_norm_step0"].items():
        ours = rename(name, golden.config)
        if ours is None:
            continue
        grad = gradients[ours]
        assert grad is not None, name
        assert float(grad.norm()) == pytest.approx(norm, rel=1e-3, abs=SLOW_GRADIENT), name
        compared += 1
    assert compared == len(gradients)
    for key, want in golden.tensors.items():
        if key.startswith("train.grad."):
            ours = rename(key.removeprefix("train.grad."), golden.config)
            assert ours is not None
            torch.testing.assert_close(gradients[ours], want, atol=TOLERANCE, rtol=1e-4)
    buffers = dict(model.named_buffers())
    for name in ("running_mean", "running_var"):
        want = golden.tensors[f"train.bn.{name}_after_step0"]
        torch.testing.assert_close(buffers[f"graph.norm.{name}"], want, atol=TOLERANCE, rtol=0)


def test_five_training_steps(golden: Golden) -> None:
    model, batch = golden.model().train(), golden.batch()
    rate, decay = golden.config["learning_rate"], golden.config["weight_decay"]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(batch).logits, batch.labels[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses == pytest.approx(golden.info["train_mode_loss_5_adam_steps"], abs=1e-4)


def rule_of(case: dict[str, Any]) -> EdgeRule:
    kind = case["edge_type"] if case.get("edge_type") in ("temp", "multi", "temp_multi") else None
    assert kind is not None
    return EdgeRule(
        modalities=len(case["modalities"]),
        temporal="temp" in kind,
        multimodal="multi" in kind,
        first=None if case["wp"] < 0 else -case["wp"],
        last=None if case["wf"] < 0 else case["wf"] - 1,
    )


def edge_cases() -> list[dict[str, Any]]:
    return list(EDGES["cases"])
