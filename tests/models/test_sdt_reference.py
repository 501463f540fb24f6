"""SDT in another setting than the golden vectors: against a plain reading of the published model, encoder by encoder.

7 classes, 9 speakers, identity gates, temperature 8, no class weights: the published MELD setting at small sizes.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.models.batch import Batch
from lantern.models.sdt.model import Model
from lantern.models.sdt.published import export_published, load_published

HIDDEN, INNER, HEADS, CLASSES, SPEAKERS, TAU = 24, 24, 3, 7, 9, 8
DIMS = {"t": 7, "a": 5, "v": 9}
INPUT = {"t": "textf_input", "a": "acouf_input", "v": "visuf_input"}
SIDES = {"t": ["t_t", "a_t", "v_t"], "a": ["a_a", "t_a", "v_a"], "v": ["v_v", "t_v", "a_v"]}
ARGUMENTS = {"dataset": "MELD", "temp": TAU, "n_classes": CLASSES, "n_speakers": SPEAKERS, "n_head": HEADS}


def random_state(identity: bool) -> dict[str, Tensor]:
    torch.manual_seed(5)
    state = {"speaker_embeddings.weight": torch.randn(SPEAKERS + 1, HIDDEN)}
    state["speaker_embeddings.weight"][-1] = 0

    def linear(name: str, outputs: int, inputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs) * 1.5 / math.sqrt(inputs)
        state[f"{name}.bias"] = torch.randn(outputs) * 0.3

    for m, size in DIMS.items():
        state[f"{INPUT[m]}.weight"] = torch.randn(HIDDEN, size, 1) / math.sqrt(size)
        linear(f"features_reduce_{m}", HIDDEN, 3 * HIDDEN)
        linear(f"{m}_output_layer.2", CLASSES, HIDDEN)
        for name in SIDES[m]:
            layer = f"{name}.transformer_inter.0"
            for part in ("linear_q", "linear_k", "linear_v", "linear"):
                linear(f"{layer}.self_attn.{part}", HIDDEN, HIDDEN)
            linear(f"{layer}.feed_forward.w_1", INNER, HIDDEN)
            linear(f"{layer}.feed_forward.w_2", HIDDEN, INNER)
            for norm in ("feed_forward.layer_norm", "layer_norm"):
                state[f"{layer}.{norm}.weight"] = 1 + 0.2 * torch.randn(HIDDEN)
                state[f"{layer}.{norm}.bias"] = 0.2 * torch.randn(HIDDEN)
            state[f"{name}_gate.fc.weight"] = torch.eye(HIDDEN) if identity else torch.randn(HIDDEN, HIDDEN) / 5
    state["last_gate.fc.weight"] = torch.randn(HIDDEN, HIDDEN) / 5
    linear("all_output_layer", CLASSES, HIDDEN)
    return state


def reference(state: dict[str, Tensor], features: dict[str, Tensor], speakers: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Teacher logits and student logits of one dialogue of ``[L, D_m]`` features."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def heads(x: Tensor) -> Tensor:
        return x.view(len(x), HEADS, -1).transpose(0, 1)

    length = len(speakers)
    channel = torch.arange(HIDDEN, dtype=torch.float64)
    angle = torch.arange(length)[:, None] / 10000 ** ((channel - channel % 2) / HIDDEN)
    position = torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
    context = position + state["speaker_embeddings.weight"][speakers]
    x = {m: features[m] @ state[f"{INPUT[m]}.weight"][..., 0].T + context for m in DIMS}
    reduced, students = [], []
    for m, names in SIDES.items():
        gated = []
        for name in names:
            layer, (source, target) = f"{name}.transformer_inter.0", name.split("_")
            query = heads(linear(f"{layer}.self_attn.linear_q", x[target])) / math.sqrt(HIDDEN / HEADS)
            key = heads(linear(f"{layer}.self_attn.linear_k", x[source]))
            value = heads(linear(f"{layer}.self_attn.linear_v", x[source]))
            attended = ((query @ key.mT).softmax(-1) @ value).transpose(0, 1).reshape(length, HIDDEN)
            out = linear(f"{layer}.self_attn.linear", attended) + x[target]
            norm = f"{layer}.feed_forward.layer_norm"
            inner = F.layer_norm(out, (HIDDEN,), state[f"{norm}.weight"], state[f"{norm}.bias"], 1e-6)
            inner = F.gelu(linear(f"{layer}.feed_forward.w_1", inner), approximate="tanh")
            out = out + linear(f"{layer}.feed_forward.w_2", inner)
            gated.append(out * linear(f"{name}_gate.fc", out).sigmoid())
        reduced.append(linear(f"features_reduce_{m}", torch.cat(gated, dim=-1)))
        students.append(linear(f"{m}_output_layer.2", reduced[-1].relu()))
    stack = torch.stack(reduced)
    fused = (linear("last_gate.fc", stack).softmax(dim=0) * stack).sum(dim=0)
    return linear("all_output_layer", fused), students


@pytest.mark.parametrize("identity", [True, False])
def test_model_is_the_plain_reading(identity: bool) -> None:
    state = {name: value.requires_grad_() for name, value in random_state(identity).items()}
    lengths = [6, 11, 1]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    features = {m: torch.randn(*mask.shape, size) for m, size in DIMS.items()}
    speakers = torch.randint(0, SPEAKERS, mask.shape)
    labels = torch.randint(0, CLASSES, mask.shape).masked_fill(~mask, -1)

    rows = [
        reference(state, {m: x[i, :length] for m, x in features.items()}, speakers[i, :length])
        for i, length in enumerate(lengths)
    ]
    teacher = torch.cat([row[0] for row in rows])
    students = [torch.cat(parts) for parts in zip(*(row[1] for row in rows))]
    target = (teacher / TAU).softmax(-1)
    auxiliary = sum(
        F.cross_entropy(s, labels[mask]) + F.kl_div((s / TAU).log_softmax(-1), target, reduction="batchmean")
        for s in students
    )
    (F.cross_entropy(teacher, labels[mask]) + auxiliary).backward()

    model: Model = load_published({name: value.detach() for name, value in state.items()}, ARGUMENTS)
    assert model.config.gate == ("identity" if identity else "learned")
    names = {"text": "t", "audio": "a", "visual": "v"}
    batch = Batch(
        {name: features[m] for name, m in names.items()}, speakers, mask, labels, torch.full((*mask.shape, 3), math.nan)
    )
    output = model(batch)
    assert output.auxiliary_loss is not None
    torch.testing.assert_close(output.logits, teacher, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.auxiliary_loss, auxiliary, atol=1e-5, rtol=1e-5)
    (F.cross_entropy(output.logits, labels[mask]) + output.auxiliary_loss).backward()
    ours = export_published(model, gradients=True)
    gates = {f"{name}_gate.fc.weight" for names in SIDES.values() for name in names} if identity else set()
    assert set(ours) == {name for name, value in state.items() if value.grad is not None} - gates
    for name, grad in ours.items():
        torch.testing.assert_close(grad, state[name].grad, atol=1e-5, rtol=1e-4)
