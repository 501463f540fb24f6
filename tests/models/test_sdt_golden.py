"""SDT against vectors computed by the published implementation (torch 1.4.0)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lantern.errors import UserError
from lantern.models.batch import Batch
from lantern.models.sdt.model import Model
from lantern.models.sdt.published import export_published, fill_published, load_published, published_stages

GOLDEN = Path(__file__).parent.parent / "golden" / "sdt"
CASES = sorted(GOLDEN.glob("*.json"))


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads(request.param.read_text()), load_file(request.param.with_suffix(".safetensors"))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def golden_batch(tensors: dict[str, Tensor]) -> Batch:
    mask = tensors["input.umask"].bool()
    names = {"text": "textf", "audio": "acouf", "visual": "visuf"}
    features = {m: tensors[f"input.{name}"].transpose(0, 1) for m, name in names.items()}
    return Batch(
        features={m: x.masked_fill(~mask[..., None], float("nan")) for m, x in features.items()},
        speakers=tensors["input.qmask"].argmax(dim=-1),
        mask=mask,
        labels=tensors["input.label"].masked_fill(~mask, -1),
        scores=torch.full((*mask.shape, 3), float("nan")),
    )


def assert_near(name: str, actual: Tensor, expected: Tensor, atol: float, rtol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def total_loss(model: Model, batch: Batch) -> Tensor:
    output = model(batch)
    assert output.auxiliary_loss is not None
    labels = batch.labels[batch.mask]
    return F.cross_entropy(output.logits, labels, model.class_weights, ignore_index=-1) + output.auxiliary_loss


def test_outputs_and_intermediate_results(case: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    meta, tensors = case
    model, batch = load_published(part(tensors, "state."), meta), golden_batch(tensors)
    output = model(batch, stages=True)
    ours = published_stages(output.stages)
    for name, expected in part(tensors, "out.").items():
        assert_near(name, ours[name], expected[batch.mask], 2e-6, 0)
    for name, expected in part(tensors, "act.").items():
        by_position = expected.transpose(1, 2) if name.endswith("f_input") else expected
        assert_near(name, ours[name], by_position[batch.mask], 5e-6, 1e-5)
    assert output.hidden is output.stages["fused"]
    assert output.logits.argmax(-1).tolist() == ours["all_prob"].argmax(-1).tolist()


@pytest.mark.parametrize("detached", [False, True])
def test_gradients(case: tuple[dict[str, Any], dict[str, Tensor]], detached: bool) -> None:
    meta, tensors = case
    model = load_published(part(tensors, "state."), meta["model_args"] | {"detach_teacher": detached})
    loss = total_loss(model, golden_batch(tensors))
    assert loss.item() == pytest.approx(meta["loss"]["values_float64"]["total"], abs=5e-6)
    loss.backward()
    ours = export_published(model, gradients=True)
    expected = part(tensors, "grad_detached." if detached else "grad.")
    learned = {
        name for name in expected if model.gates is not None or "_gate.fc" not in name or name.startswith("last")
    }
    assert set(ours) == learned
    for name in learned:
        assert_near(name, ours[name], expected[name], 1e-5, 1e-4)


@pytest.mark.parametrize("detached", [False, True])
def test_five_steps_of_adam(case: tuple[dict[str, Any], dict[str, Tensor]], detached: bool) -> None:
    meta, tensors = case
    model = load_published(part(tensors, "state."), meta["model_args"] | {"detach_teacher": detached}).train()
    batch = golden_batch(tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = total_loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    losses.append(total_loss(model, batch).item())
    kind = "detached" if detached else "not_detached"
    assert losses == pytest.approx(meta["trajectory"][f"total_{kind}"], abs=1e-4)
    ours = export_published(model)
    after = part(tensors, "after5_detached." if detached else "after5.")
    compared = [name for name in after if name in ours]
    assert len(compared) >= 5
    for name in compared:
        assert_near(name, ours[name], after[name], 2e-5, 1e-4)


def test_class_weights_of_the_published_run_are_known(case: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    meta, tensors = case
    model = load_published(part(tensors, "state."), meta["model_args"])
    if meta["loss"]["class_weights"] is None:
        assert model.class_weights is None
    else:
        assert model.class_weights is not None
        assert model.class_weights.tolist() == pytest.approx(meta["loss"]["class_weights"])


def test_published_weights_that_do_not_fit() -> None:
    meta, tensors = json.loads(CASES[0].read_text()), load_file(CASES[0].with_suffix(".safetensors"))
    state = part(tensors, "state.")
    for missing in ("all_output_layer.weight", "t_a_gate.fc.weight", "v_t.transformer_inter.0.self_attn.linear_k.bias"):
        with pytest.raises(UserError, match=missing):
            load_published({k: v for k, v in state.items() if k != missing}, meta)
    for unknown in ("t_a.transformer_inter.1.layer_norm.weight", "t_a_gates.fc.weight", "encoder"):
        with pytest.raises(UserError, match=unknown):
            load_published(state | {unknown: torch.zeros(16)}, meta)
    with pytest.raises(UserError, match=r"features_reduce_a\.bias.*\[3\].*\[16\]"):
        load_published(state | {"features_reduce_a.bias": torch.zeros(3)}, meta)
    with pytest.raises(UserError, match="n_speakers=9"):
        load_published(state, meta["model_args"] | {"n_speakers": 9})
    with pytest.raises(UserError, match=r"backbone\.heads=3"):
        load_published(state, meta["model_args"] | {"n_head": 3})


def test_never_used_parameters_may_be_missing_and_identity_gates_are_recognised() -> None:
    meta, tensors = json.loads(CASES[0].read_text()), load_file(CASES[0].with_suffix(".safetensors"))
    state = {k: v for k, v in part(tensors, "state.").items() if "pos_emb" not in k and "0.layer_norm" not in k}
    assert load_published(state, meta).config.gate == "learned"
    for name in state:
        if name.endswith("_gate.fc.weight") and not name.startswith("last"):
            state[name] = torch.eye(16)
    assert load_published(state, meta).config.gate == "learned"
    meld = load_published(state, meta["model_args"] | {"dataset": "MELD", "temp": 8})
    learned = load_published(state, meta["model_args"])
    assert meld.config.gate == "identity"
    assert meld.config.temperature == 8
    assert meld.class_weights is None
    batch = golden_batch(tensors)
    torch.testing.assert_close(meld(batch).logits, learned(batch).logits)
    loss = total_loss(meld, batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in meld.parameters())


def test_fill_published_refuses_what_does_not_fit() -> None:
    meta, tensors = json.loads(CASES[0].read_text()), load_file(CASES[0].with_suffix(".safetensors"))
    state = part(tensors, "state.")
    expected = load_published(state, meta)
    with pytest.raises(UserError, match=r"backbone\.gate=identity.*_gate"):
        fill_published(Model(replace(expected.config, gate="identity"), expected.sizes), state)
    with pytest.raises(UserError, match=r"must be \[3, 32\]"):
        fill_published(Model(replace(expected.config, hidden=32), expected.sizes), state)
