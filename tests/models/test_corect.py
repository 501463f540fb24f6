"""CORECT beyond the recorded vectors: padding, ragged training, PyG's convolutions, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.errors import UserError
from lantern.models.batch import Batch, Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.encoders import default_heads
from lantern.models.corect.graph import EdgeRule, Graph, Tiles, slot_major
from lantern.models.corect.model import Model
from lantern.models.dropout import dropout
from lantern.models.rows import Rows

SIZES = Sizes(dims={"text": 16, "audio": 5, "visual": 7}, classes=4, speakers=3)
SMALL: dict[str, Any] = {"hidden": 8, "graph_heads": 2, "text_feedforward": 32}


def make_batch(lengths: list[int], seed: int = 0, garbage: float | None = None, longest: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), longest or max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    features = {n: torch.randn(*shape, d, generator=generator) for n, d in SIZES.dims.items()}
    speakers = torch.randint(SIZES.speakers, shape, generator=generator)
    for value in features.values():
        value[~mask] = 0.0 if garbage is None else garbage
    return Batch(
        features=features,
        speakers=speakers.masked_fill(~mask, 0 if garbage is None else SIZES.speakers - 1),
        mask=mask,
        labels=torch.randint(SIZES.classes, shape, generator=generator).masked_fill(~mask, -1),
        scores=torch.full((*shape, 3), float("nan")),
    )


def alone(batch: Batch, row: int) -> Batch:
    length = int(batch.mask[row].sum())
    cut = (slice(row, row + 1), slice(length))
    return Batch(
        features={n: v[cut] for n, v in batch.features.items()},
        speakers=batch.speakers[cut],
        mask=batch.mask[cut],
        labels=batch.labels[cut],
        scores=batch.scores[cut],
    )


def build(sizes: Sizes = SIZES, **options: Any) -> Model:
    torch.manual_seed(3)
    return Model(Config(**(SMALL | options)), sizes)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"text_encoder": "lstm"},
    {"text_encoder": "ffn", "edges": "temporal"},
    {"edges": "multimodal", "use_speaker": False},
    {"past_window": -1, "future_window": -1},
    {"past_window": 2, "future_window": 0, "highway": True},
    {"graph": False},
    {"crossmodal": False, "graph_transformer": False},
    {"graph": False, "crossmodal": False},
    {"modalities": ["visual", "text"]},
    {"modalities": ["audio"]},
]


@pytest.mark.parametrize("garbage", [float("nan"), 1e6])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_dialogue_does_not_see_its_batch(options: dict[str, Any], garbage: float) -> None:
    model = build(**options).eval()
    batch = make_batch([4, 1, 9, 2], garbage=garbage, longest=12)
    together = model(batch)
    apart = [model(alone(batch, row)) for row in range(4)]
    torch.testing.assert_close(together.logits, torch.cat([o.logits for o in apart]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.hidden, torch.cat([o.hidden for o in apart]), atol=1e-5, rtol=1e-5)


def test_exact_mode_sees_padding_but_not_its_content() -> None:
    model = build(exact_published=True).eval()
    clean, dirty = make_batch([4, 1, 9]), make_batch([4, 1, 9], garbage=float("nan"))
    assert torch.equal(model(clean).logits, model(dirty).logits)
    assert not torch.allclose(model(clean).logits[:4], model(alone(clean, 0)).logits, atol=1e-3)


@pytest.mark.parametrize("options", [*VARIANTS, {"exact_published": True}], ids=str)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_on_ragged_batches(options: dict[str, Any], bfloat16: bool) -> None:
    model = build(**options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [make_batch(lengths, seed) for seed, lengths in enumerate([[3, 8, 1], [1], [5, 5]])]
    for _ in range(3):
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                out = model(batch)
            loss = F.cross_entropy(out.logits.float(), batch.labels[batch.mask])
            optimizer.zero_grad()
            loss.backward()
            assert torch.isfinite(loss)
            assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
            optimizer.step()


def test_an_lstm_on_a_processor_computes_in_single_precision() -> None:
    encoder = build(text_encoder="lstm").eval().encoders["text"]
    rows = Rows.of([4, 1, 9], 9, torch.device("cpu"))
    x = torch.randn(14, SIZES.dims["text"])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(x, rows)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, encoder(x, rows))


def test_training_lowers_the_loss() -> None:
    model, batch = build(dropout=0.1).train(), make_batch([6, 3, 9])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(batch).logits, batch.labels[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3


def test_output_shapes_and_stages() -> None:
    model, batch = build().eval(), make_batch([3, 5])
    out = model(batch, stages=True)
    assert out.hidden.shape == (8, model.hidden_size)
    assert out.logits.shape == (8, 4)
    assert out.auxiliary_loss is None
    assert torch.equal(model.classify(out.hidden), out.logits)
    shapes = {name: tuple(value.shape) for name, value in out.stages.items()}
    assert shapes["encoder.text"] == shapes["cross.text_audio"] == (2, 5, 8)
    assert shapes["nodes"] == shapes["rgcn"] == (24, 8)
    assert shapes["graph"] == (8, 48)
    assert shapes["features"] == (8, 48 + 48)
    assert not out.stages["encoder.text"][0, 3:].any()
    assert model(batch).stages == {}


def test_one_utterance_of_one_modality_trains() -> None:
    model = build(Sizes(dims={"audio": 5}, classes=2, speakers=1)).train()
    batch = make_batch([1])
    batch.speakers.zero_()
    assert bool(model(batch).logits.isfinite().all())


def test_a_missing_modality_is_zeros() -> None:
    model, batch = build().eval(), make_batch([4, 2])
    batch.present = {n: batch.mask.clone() for n in SIZES.dims}
    batch.present["audio"][0, 1] = False
    batch.features["audio"][0, 1] = 0.0
    assert bool(model(batch).logits.isfinite().all())


RULES = [
    EdgeRule(3, True, True, -11, 5),
    EdgeRule(3, True, True, -2, -1),
    EdgeRule(2, True, False, -1, -1),
    EdgeRule(3, True, False, 0, -1),
    EdgeRule(3, True, True, None, None),
    EdgeRule(2, True, True, None, 0),
    EdgeRule(3, False, True, None, None),
    EdgeRule(1, True, True, -3, 40),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("lengths", [[1], [4, 1, 7], [70, 1, 33, 40]])
def test_fast_graph_equals_message_passing(rule: EdgeRule, lengths: list[int]) -> None:
    torch.manual_seed(0)
    graph = Graph(rule, Config(**(SMALL | {"graph_heads": 3})))
    nn.init.normal_(graph.relational.bias)
    sizes = torch.tensor(lengths)
    rows = Rows.of(lengths, max(lengths), sizes.device)
    nodes = torch.randn(sum(lengths), rule.modalities, 8, requires_grad=True)
    direction = torch.randn(rule.modalities * sum(lengths), 24)

    def gradients(result: Tensor) -> list[Tensor]:
        inputs = [nodes, *(p for n, p in graph.named_parameters() if not n.startswith("norm"))]
        return [g for g in torch.autograd.grad(result, inputs, direction, allow_unused=True) if g is not None]

    convolved = graph.convolve(nodes, rows)
    fast = slot_major(graph.attend(convolved, Tiles.of(rule, lengths, sizes.device)))
    index, kind = rule.edges(sizes)
    # With pyg-lib, some versions of RGCNConv average over all incoming edges instead of per relation.
    want_convolved = graph.relational(slot_major(nodes), index, kind)
    assert graph.attention is not None
    slow = graph.attention(want_convolved, index)
    torch.testing.assert_close(slot_major(convolved), want_convolved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for got, want in zip(gradients(fast), gradients(slow), strict=True):
        torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)


def test_both_kinds_of_tiles_are_used() -> None:
    lengths, device = [70, 1, 33, 40], torch.device("cpu")
    assert Tiles.of(EdgeRule(3, True, True, -11, 5), lengths, device).targets.shape == (5, 32)
    assert Tiles.of(EdgeRule(3, True, True, None, None), lengths, device).targets.shape == (4, 70)
    assert Tiles.of(EdgeRule(3, True, True, -11, 5), [3, 2], device).targets.shape == (2, 3)
    assert Tiles.of(EdgeRule(3, True, True, -11, 5), [3, 2], device, compiled=True).targets.shape == (2, 32)


@pytest.mark.parametrize("p", [0.5, 0.25, 0.3])
def test_dropout_keeps_the_expected_share(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)
    out = dropout(x, p, True)
    assert float((out == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, True), out)
    assert torch.equal(dropout(x, p, False), x)


def test_parameter_count_at_the_published_size() -> None:
    sizes = Sizes(dims={"text": 768, "audio": 100, "visual": 512}, classes=6, speakers=2)
    unused = 16_913  # two linear layers of the published classifier that take no part
    assert sum(p.numel() for p in Model(Config(), sizes).parameters()) == 17_719_987 - unused


def test_head_count_of_the_text_transformer() -> None:
    assert [default_heads(width) for width in (768, 10, 100, 6, 13)] == [8, 10, 10, 1, 13]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"modalities": []}, r"backbone.modalities=\[\]"),
    ({"modalities": ["text", "vision"]}, r"backbone.modalities=\[text,vision\]"),
    ({"modalities": ["text", "text"]}, "names a modality twice"),
    ({"edges": "temporl"}, "backbone.edges=temporl is not one of .* Did you mean 'temporal'"),
    ({"text_encoder": "gru"}, "backbone.text_encoder=gru"),
    ({"past_window": -2}, "backbone.past_window=-2"),
    ({"future_window": -5}, "backbone.future_window=-5"),
    ({"hidden": 9}, "backbone.hidden=9 is not a multiple of backbone.crossmodal_heads=2"),
    ({"hidden": 0}, "backbone.hidden=0"),
    ({"dropout": 1.0}, r"backbone.dropout=1.0"),
    ({"text_heads": 4, "text_encoder": "ffn"}, "backbone.text_heads=4 has no meaning"),
    ({"hidden": 9, "crossmodal_heads": 3, "text_encoder": "lstm"}, "backbone.hidden=9 must be even"),
    (
        {"exact_published": True, "past_window": 0, "future_window": 0, "edges": "temporal"},
        "backbone.past_window=0 backbone.future_window=0",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**options)


def test_options_that_do_not_fit_the_corpus_are_refused() -> None:
    with pytest.raises(UserError, match="has no visual features"):
        build(Sizes(dims={"text": 16}, classes=2, speakers=1), modalities=["text", "visual"])
    with pytest.raises(UserError, match=r"backbone.text_heads=3 does not divide"):
        build(text_heads=3)
    with pytest.raises(UserError, match=r"backbone.self_attention_heads=3 does not divide 16"):
        build(self_attention_heads=3)


def test_modalities_are_used_by_name_not_by_order() -> None:
    assert build(modalities=["visual", "text"]).modalities == ["text", "visual"]
    assert build(Sizes(dims={"visual": 7, "text": 16}, classes=2, speakers=3)).modalities == ["text", "visual"]
