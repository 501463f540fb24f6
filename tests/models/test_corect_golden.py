"""CORECT against vectors recorded from the published implementation, run on random parameters and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lantern.errors import UserError
from lantern.models.batch import Batch, Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.graph import EdgeRule
from lantern.models.corect.model import Model
from lantern.models.corect.published import load_published, published_name, rename

GOLDEN = Path(__file__).parent.parent / "golden" / "corect"
VECTORS = sorted(path.stem for path in GOLDEN.glob("golden_*way*.json"))
EDGES = json.loads((GOLDEN / "golden_edges.json").read_text())
TOLERANCE = 5e-5
VANISHING = 1e-6  # some official gradients are zero up to rounding


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
            assert got.shape == want.shape, key
            assert float((got - want).abs().max()) <= TOLERANCE, key
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


def lift_kinks(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Move what is within rounding of a ReLU's kink to its positive side.

    One unit of the recorded run is at -4.5e-8 (in double precision too), another one at 1.9e-7 with two threads, and
    rounding takes them to the other side.
    """
    return output + (output.abs() < 1e-6) * 2e-6


def test_gradients_of_the_first_step(golden: Golden) -> None:
    model, batch = golden.model().train(), golden.batch()
    for name, module in model.named_modules():
        if name.endswith("fc1"):
            module.register_forward_hook(lift_kinks)
    F.cross_entropy(model(batch).logits, batch.labels[batch.mask]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    compared = 0
    for name, norm in golden.info["train_mode_grad_l2_norm_step0"].items():
        ours = rename(name, golden.config)
        if ours is None:
            continue
        grad = gradients[ours]
        assert grad is not None, name
        assert float(grad.norm()) == pytest.approx(norm, rel=1e-5, abs=VANISHING), name
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
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(golden.info["train_mode_loss_5_adam_steps"], abs=1e-4)


def rule_of(case: dict[str, Any]) -> EdgeRule:
    return EdgeRule(
        modalities=len(case["modalities"]),
        temporal="temp" in case["edge_type"],
        multimodal="multi" in case["edge_type"],
        first=None if case["wp"] < 0 else -case["wp"],
        last=None if case["wf"] < 0 else case["wf"] - 1,
    )


def test_every_recorded_graph() -> None:
    assert len(EDGES["cases"]) == 243
    for case in EDGES["cases"]:
        rule = rule_of(case)
        index, kind = rule.edges(torch.tensor(case["lengths"]))
        if "error" in case:  # the published code stops where no edge is left; here the graph is just empty
            assert index.shape == (2, 0), case
            assert kind.shape == (0,), case
            continue
        assert rule.relations == case["num_relations"]
        assert index.shape == (2, case["num_edges"])
        assert kind.bincount(minlength=rule.relations).tolist() == case["edges_per_relation"]
        if "edge_index" in case:
            assert index.tolist() == case["edge_index"]
            assert kind.tolist() == case["edge_type_ids"]


def test_relation_numbers() -> None:
    for letters, kinds in EDGES["relation_numbering"].items():
        for kind, numbers in kinds.items():
            rule = rule_of({"modalities": letters, "edge_type": kind, "wp": 1, "wf": 1})
            for key, number in numbers.items():
                direction = int(key[:-2])
                assert rule.relation(int(key[-2]), int(key[-1]), direction) == number


@pytest.mark.parametrize("exact", [True, False])
def test_rules_from_options(exact: bool) -> None:
    rule = EdgeRule.of(Config(past_window=11, future_window=5, exact_published=exact), 3)
    assert (rule.first, rule.last) == (-11, 4 if exact else 5)
    rule = EdgeRule.of(Config(past_window=-1, future_window=-1, edges="temporal", exact_published=exact), 3)
    assert (rule.first, rule.last, rule.relations) == (None, None, 9)


@pytest.fixture
def recorded() -> Golden:
    return Golden(VECTORS[0])


def test_unknown_parameter_is_named(recorded: Golden) -> None:
    with pytest.raises(UserError, match=r"unknown parameter 'clf.lin9.weight'"):
        load_published({**recorded.state, "clf.lin9.weight": torch.ones(1)}, recorded.config)
    with pytest.raises(UserError, match=r"unknown parameter 'crossmodal.layers.aa.layer_norm.bias'"):
        load_published({**recorded.state, "crossmodal.layers.aa.layer_norm.bias": torch.ones(1)}, recorded.config)


@pytest.mark.parametrize(
    "name", ["clf.lin2.weight", "crossmodal.layers.ta.layer_norm.bias", "graph_model.gnn.conv1.root"]
)
def test_missing_parameter_is_named(recorded: Golden, name: str) -> None:
    state = {key: value for key, value in recorded.state.items() if key != name}
    with pytest.raises(UserError, match=f"lacks parameter '{name}'"):
        load_published(state, recorded.config)


def test_misshapen_parameter_is_named(recorded: Golden) -> None:
    state = {**recorded.state, "graph_model.gnn.bn.weight": torch.ones(3)}
    with pytest.raises(UserError, match=r"'graph_model.gnn.bn.weight' has shape \[3\]"):
        load_published(state, recorded.config)


def test_window_is_read_with_the_masked_graph(recorded: Golden) -> None:
    masked = load_published(recorded.state, recorded.config | {"exact_published": False})
    assert masked.config.future_window == recorded.config["wf"] - 1
    with pytest.raises(UserError, match="wf=0"):
        load_published(recorded.state, recorded.config | {"wf": 0, "exact_published": False})


ROUND_TRIPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"modalities": ["text", "audio"], "past_window": 3, "future_window": 1}, {"modalities": "at", "wp": 3, "wf": 1}),
    (
        {"modalities": ["audio", "visual"], "edges": "temporal", "graph_heads": 3, "use_speaker": False},
        {"modalities": "av", "edge_type": "temp", "use_speaker": False},
    ),
    (
        {"modalities": ["text", "visual"], "edges": "multimodal", "crossmodal_heads": 4, "self_attention_heads": 1},
        {"modalities": "tv", "edge_type": "multi", "crossmodal_nheads": 4, "self_att_nheads": 1},
    ),
    ({"modalities": ["visual"], "past_window": -1, "future_window": -1}, {"modalities": "v", "wp": -1, "wf": -1}),
    ({"graph_transformer": False, "crossmodal_layers": 1, "self_attention_layers": 4}, {}),
    ({"crossmodal": False, "text_encoder": "ffn", "future_window": 0}, {"wf": 0}),
    ({"graph": False, "text_encoder": "lstm", "text_layers": 1}, {"encoder_nlayers": 1}),
    ({"text_heads": 2, "text_layers": 3, "text_feedforward": 20}, {"text_encoder_nhead": 2}),
]


@pytest.mark.parametrize(("options", "published"), ROUND_TRIPS, ids=str)
def test_settings_are_read_from_names_and_shapes(options: dict[str, Any], published: dict[str, Any]) -> None:
    torch.manual_seed(0)
    batch = Golden(VECTORS[0]).batch()
    dims = {"text": 10, "audio": 6, "visual": 8}
    model = Model(
        Config(**({"hidden": 16, "text_feedforward": 24, "exact_published": True} | options)),
        Sizes(dims=dims, classes=4, speakers=2),
    ).eval()
    state = {published_name(name, published): value for name, value in model.state_dict().items()}
    state |= {"clf.lin_7.weight": torch.ones(7, 16), "crossmodal.layers.mem_a.version": torch.ones(1)}
    loaded = load_published(state, published)
    assert torch.equal(loaded(batch).logits, model(batch).logits)


def test_modality_subset_ignores_the_unused_encoder(recorded: Golden) -> None:
    torch.manual_seed(0)
    hidden, heads = recorded.config["hidden_size"], recorded.config.get("graph_transformer_nheads", 7)
    config = recorded.config | {"modalities": "tv", "modality_slot_order": ["text", "visual"]}
    state = {
        name.replace("layers.at.", "layers.tv.").replace("layers.ta.", "layers.vt.").replace("mem_a", "mem_v"): value
        for name, value in recorded.state.items()
        if not name.startswith(("crossmodal", "clf"))
    }
    state["graph_model.gnn.conv1.weight"] = state["graph_model.gnn.conv1.weight"][:8]
    width = 2 * hidden * heads
    state |= {"clf.lin1.weight": torch.randn(hidden, width), "clf.lin1.bias": torch.zeros(hidden)}
    state |= {"clf.lin2.weight": torch.randn(4, hidden), "clf.lin2.bias": torch.zeros(4)}
    model = load_published(state, config)
    assert model.modalities == ["text", "visual"]
    assert model(recorded.batch()).logits.shape == (15, 4)
