"""SDT beyond the published setting: padding, lengths, modalities, precision, missing labels, bad options."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.errors import UserError
from lantern.models.batch import Batch, Sizes
from lantern.models.dropout import keep_mask
from lantern.models.sdt.config import Config
from lantern.models.sdt.encoder import Dropout, StackedLinear, encoder_pairs
from lantern.models.sdt.loss import distillation, student_cross_entropy
from lantern.models.sdt.model import Model
from lantern.models.sdt.published import export_published

DIMS = {"text": 10, "audio": 6, "visual": 8}
SIZES = Sizes(DIMS, classes=4, speakers=3, class_weights=(1.0, 2.0, 0.5, 1.5))
SMALL = Config(hidden=16, heads=4)


def make_batch(lengths: list[int], seed: int = 0, garbage: float = 0.0, dims: dict[str, int] = DIMS) -> Batch:
    """Random dialogues; what stands in a dialogue depends on *seed* and its place in *lengths* only."""
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    features = {m: torch.full((len(lengths), longest, size), garbage) for m, size in dims.items()}
    speakers = torch.full(mask.shape, 1 if garbage == 0 else 77)
    labels = torch.full(mask.shape, -1)
    for row, length in enumerate(lengths):
        random = torch.Generator().manual_seed(1000 * seed + row)
        for m, size in dims.items():
            features[m][row, :length] = torch.randn(length, size, generator=random)
        speakers[row, :length] = torch.randint(0, 3, (length,), generator=random)
        labels[row, :length] = torch.randint(0, 4, (length,), generator=random)
    return Batch(features, speakers, mask, labels, torch.full((*mask.shape, 3), float("nan")))


def alone(batch: Batch, row: int) -> Batch:
    length = int(batch.lengths[row])
    part = (slice(row, row + 1), slice(length))
    return Batch(
        {m: x[part] for m, x in batch.features.items()},
        batch.speakers[part],
        batch.mask[part],
        batch.labels[part],
        batch.scores[part],
    )


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_a_dialogue_depends_on_nothing_but_itself(garbage: float) -> None:
    model = Model(SMALL, SIZES).eval()
    lengths = [5, 1, 9, 3]
    batch = make_batch(lengths, garbage=garbage)
    together = model(batch, stages=True)
    assert together.auxiliary_loss is not None
    assert together.auxiliary_loss.isfinite()
    for row, start in enumerate(itertools.accumulate(lengths, initial=0)):
        if row == len(lengths):
            break
        single = model(alone(batch, row), stages=True)
        rows = slice(start, start + lengths[row])
        torch.testing.assert_close(together.hidden[rows], single.hidden, atol=2e-6, rtol=1e-5)
        for name, value in single.stages.items():
            torch.testing.assert_close(together.stages[name][rows], value, atol=2e-6, rtol=1e-5, msg=name)
    clean = model(replace(make_batch(lengths), speakers=batch.speakers.where(batch.mask, 0)))
    assert torch.equal(clean.hidden, together.hidden)
    together.auxiliary_loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("gate", ["learned", "identity"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_on_ragged_batches_stays_finite(gate: str, precision: torch.dtype) -> None:
    model = Model(replace(SMALL, gate=gate, temperature=8.0, feed_forward=24), SIZES).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = [make_batch([7, 2, 5], 0, float("nan")), make_batch([1, 9], 1), make_batch([4], 2, 1e30)]
    epochs = []
    for _ in range(3):
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                output = model(batch)
                assert output.auxiliary_loss is not None
                loss = F.cross_entropy(output.logits.float(), batch.labels[batch.mask]) + output.auxiliary_loss
            assert loss.isfinite()
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            optimizer.step()
            total += loss.item()
        epochs.append(total)
    assert epochs[-1] < epochs[0]


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_whole_model_in_another_precision(precision: torch.dtype) -> None:
    model = Model(replace(SMALL, dropout=0.0), SIZES).train()
    batch = make_batch([5, 3], garbage=float("nan"))
    expected = model(batch).hidden
    output = model.to(precision)(batch)
    assert output.hidden.dtype == precision
    torch.testing.assert_close(output.hidden.float(), expected, atol=2e-2, rtol=2e-2)
    assert output.auxiliary_loss is not None
    output.auxiliary_loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("names", [c for n in (1, 2, 3) for c in itertools.combinations(DIMS, n)])
def test_any_set_of_modalities(names: tuple[str, ...]) -> None:
    dims = {m: DIMS[m] for m in reversed(names)}
    model = Model(SMALL, replace(SIZES, dims=dims)).train()
    output = model(make_batch([4, 2], dims=dims), stages=True)
    assert output.hidden.shape == (6, 16)
    assert output.logits.shape == (6, 4)
    assert model.modalities == list(names)
    assert len(model.encoder_names) == len(names) ** 2
    assert {f"encoder.{s}_{t}" for s in names for t in names} == {n for n in output.stages if n.startswith("encoder.")}
    assert all(len(value) == 6 for value in output.stages.values())
    torch.testing.assert_close(sum(output.stages[f"modality_weight.{m}"] for m in names), torch.ones(6, 16))
    if len(names) < 3:
        with pytest.raises(UserError, match="modalities"):
            export_published(model)


def test_encoders_are_stacked_by_target_own_modality_first() -> None:
    assert encoder_pairs(3) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 0), (1, 2), (2, 2), (2, 0), (2, 1)]
    names = Model(SMALL, SIZES).encoder_names
    assert names[:5] == ["text_text", "audio_text", "visual_text", "audio_audio", "text_audio"]


def test_dialogue_longer_than_the_published_table() -> None:
    model = Model(SMALL, SIZES).eval()
    batch = make_batch([700, 3])
    before = model(alone(batch, 1)).hidden
    output = model(batch)
    assert output.hidden.isfinite().all()
    assert len(model.positions) == 700
    torch.testing.assert_close(output.hidden[-3:], before, atol=2e-6, rtol=1e-5)
    assert not [name for name in model.state_dict() if "position" in name]
    Model(SMALL, SIZES).load_state_dict(model.state_dict())


def test_more_speakers_than_the_corpus_said() -> None:
    model = Model(SMALL, replace(SIZES, speakers=1)).eval()
    stages = model(make_batch([6]), stages=True).stages
    speakers = make_batch([6]).speakers[0]
    assert (stages["speaker"][speakers > 0] == 0).all()
    assert (stages["speaker"][speakers == 0] != 0).any()


def test_an_empty_dialogue_and_an_empty_batch() -> None:
    model = Model(SMALL, SIZES).train()
    batch = make_batch([4, 0])
    output = model(batch)
    assert output.auxiliary_loss is not None
    output.auxiliary_loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    nothing = model(replace(batch, mask=torch.zeros_like(batch.mask)))
    assert nothing.hidden.shape == (0, 16)
    assert nothing.auxiliary_loss == 0


def test_auxiliary_loss_is_over_labelled_utterances() -> None:
    model = Model(replace(SMALL, student_weight=0.7, distill_weight=0.3, temperature=2.0), SIZES).eval()
    batch = make_batch([5, 3])
    batch.labels[0, 1:4] = -1
    output = model(batch, stages=True)
    labels = batch.labels[batch.mask]
    rows = labels >= 0
    assert rows.sum() == 5
    weights = torch.tensor(SIZES.class_weights)
    students = [output.stages[f"student_logits.{m}"][rows] for m in model.modalities]
    hard = sum(F.cross_entropy(s, labels[rows], weights) for s in students)
    soft = sum(
        F.kl_div(
            output.stages[f"student_kl_log_prob.{m}"][rows],
            output.stages["teacher_kl_prob"][rows],
            reduction="batchmean",
        )
        for m in model.modalities
    )
    assert output.auxiliary_loss is not None
    torch.testing.assert_close(output.auxiliary_loss, 0.7 * hard + 0.3 * soft)
    batch.labels.fill_(-1)
    assert model(batch).auxiliary_loss == 0


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_underflowing_teacher_probability(scale: float) -> None:
    teacher = torch.tensor([[scale, 0.0, -scale], [0.0, 1.0, 2.0]], requires_grad=True)
    students = torch.tensor([[[0.0, scale, 0.0], [-scale, 0.0, 0.0]]] * 2, requires_grad=True)
    assert (teacher.softmax(-1) == 0).any()
    loss = distillation(teacher, students)
    loss.backward()
    assert loss.isfinite()
    assert teacher.grad is not None
    assert teacher.grad.isfinite().all()
    assert students.grad is not None
    assert students.grad.isfinite().all()
    teacher.grad = None
    distillation(teacher, students, detach_teacher=True).backward()
    assert teacher.grad is None


def test_cross_entropy_of_classes_without_weight() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = student_cross_entropy(logits, torch.tensor([1, 1, 1]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("dropout", [0.5, 0.25, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_mask_has_the_asked_distribution(dropout: float, dtype: torch.dtype) -> None:
    shape = (7, 301, 67)
    mask = keep_mask(shape, dropout, torch.empty(0, dtype=dtype))
    assert mask.dtype == dtype
    assert mask.shape == shape
    kept = (mask != 0).double()
    count = kept.numel()
    assert abs(kept.mean().item() - (1 - dropout)) < 5 * math.sqrt(dropout * (1 - dropout) / count)
    # Neighbours share a 64-bit draw: each of the eight bytes must be fair, and independent of the next.
    flat = kept.flatten()[: count // 8 * 8].view(-1, 8)
    bound = 5 * math.sqrt(dropout * (1 - dropout) / len(flat))
    assert ((flat.mean(dim=0) - (1 - dropout)).abs() < bound).all()
    correlation = torch.corrcoef(flat.T) - torch.eye(8, dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(len(flat))
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / (1 - dropout), dtype=dtype).item()}


def test_input_dropout_is_drawn_per_encoder_and_shared_within_a_modality() -> None:
    encoders = Model(SMALL, SIZES).encoders.train()
    target, source = encoders._inputs(torch.ones(3, 5, 16))
    drawn: list[Tensor] = list(target)
    for index, (target_name, source_name) in enumerate(encoders.pairs):
        if target_name == source_name:
            assert torch.equal(target[index], source[index])
        else:
            drawn.append(source[index])
    assert len(drawn) == 15
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    target, source = encoders.eval()._inputs(torch.ones(3, 5, 16))
    assert (target == 1).all()
    assert (source == 1).all()


def test_dropout_added_to_a_residual() -> None:
    drop, x, residual = Dropout(0.5), torch.randn(3, 4), torch.randn(3, 4)
    change = drop.add(x, residual) - residual
    assert ((change.abs() < 1e-6) | ((change - 2 * x).abs() < 1e-5)).all()
    assert torch.equal(drop.eval().add(x, residual), residual + x)
    assert drop(x) is x


def test_stacked_linear_is_so_many_linear_layers() -> None:
    stacked, x = StackedLinear(3, 5, 7), torch.randn(3, 4, 5)
    assert stacked.bias is not None
    for e in range(3):
        torch.testing.assert_close(stacked(x)[e], F.linear(x[e], stacked.weight[e].T, stacked.bias[e]))
    assert stacked.weight.abs().max() <= 1 / math.sqrt(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 15, "heads": 3}, r"backbone\.hidden=15: must be even"),
        ({"hidden": 0}, r"backbone\.hidden=0"),
        ({"heads": 3}, r"backbone\.heads=3: must divide backbone\.hidden=1024"),
        ({"heads": 0}, r"backbone\.heads=0"),
        ({"feed_forward": 0}, r"backbone\.feed_forward=0"),
        ({"dropout": 1.0}, r"backbone\.dropout=1\.0"),
        ({"dropout": float("nan")}, r"backbone\.dropout=nan"),
        ({"gate": "identify"}, r"backbone\.gate=identify.*Did you mean 'identity'"),
        ({"temperature": 0.0}, r"backbone\.temperature=0\.0"),
        ({"student_weight": -1.0}, r"backbone\.student_weight=-1\.0"),
        ({"distill_weight": float("inf")}, r"backbone\.distill_weight=inf"),
    ],
)
def test_bad_options_are_refused_as_spelt_on_the_command_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**options)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="3 class weights for 4 classes"):
        Model(SMALL, replace(SIZES, class_weights=(1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match="no modality"):
        Model(SMALL, replace(SIZES, dims={}))
