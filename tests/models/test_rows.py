"""Packed rows: blocks of dialogues of like length, and attention on them."""

from __future__ import annotations

import pytest
import torch

from lantern.models.rows import Rows

LENGTHS = [[4], [3, 3], [2, 9, 1, 8, 0, 9], [5, 4, 20, 19, 2]]


def rows_of(lengths: list[int]) -> Rows:
    return Rows.of(lengths, max(lengths) + 1, torch.device("cpu"))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_rows_come_back_from_padding_and_from_blocks(lengths: list[int]) -> None:
    rows, x = rows_of(lengths), torch.randn(2, sum(lengths), 6)
    assert torch.equal(rows.take(rows.pad(x[0])), x[0])
    assert torch.equal(rows.gather(rows.spread(x)), x)


def test_blocks_hold_dialogues_of_like_length() -> None:
    blocks = rows_of([2, 9, 1, 8, 0, 9]).blocks
    assert [block.dialogues.tolist() for block in blocks] == [[1, 5, 3], [0], [2]]
    assert [block.length for block in blocks] == [9, 2, 1]
    assert blocks[0].keys is not None
    assert blocks[0].keys.sum(-1).flatten().tolist() == [9, 9, 8]
    assert blocks[1].keys is None


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_is_that_of_each_dialogue_alone(lengths: list[int], dropped: bool) -> None:
    torch.manual_seed(0)
    rows, stack, heads, width = rows_of(lengths), 2, 3, 12
    q, k, v = (torch.randn(stack, sum(lengths), width, dtype=torch.float64, requires_grad=True) for _ in range(3))
    keep = None
    if dropped:
        keep = torch.rand(stack, rows.batch, heads, rows.length, rows.length, dtype=torch.float64)
    got = rows.attend(*(rows.spread(x) for x in (q, k, v)), heads, keep)
    parts = []
    for dialogue, (a, b, c) in enumerate(zip(*(x.split(lengths, dim=1) for x in (q, k, v)))):
        own = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (a, b, c)]
        weights = (own[0] @ own[1].transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        if keep is not None:
            weights = weights * keep[:, dialogue, :, : lengths[dialogue], : lengths[dialogue]]
        parts.append((weights @ own[2]).transpose(1, 2).flatten(2))
    want = torch.cat(parts, dim=1)
    torch.testing.assert_close(got, want)
    direction = torch.randn_like(got)
    for one, other in zip(
        torch.autograd.grad(got, (q, k, v), direction), torch.autograd.grad(want, (q, k, v), direction)
    ):
        torch.testing.assert_close(one, other)
