"""Dialogues as packed rows: every per-utterance layer runs on real utterances only, attention on blocks of dialogues.

A block holds dialogues of like length, padded to its longest, so that attention computes little for padding. What a
block is follows from the lengths alone, which the host knows: nothing here waits for the device. A compiled model takes
one block for all, so that its batches differ in nothing but the sizes of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LIKE = 0.75
"""A block's shortest dialogue has at least this share of its longest one's length."""


class _Take(torch.autograd.Function):
    """``x.index_select(dim, index)`` for an index without repeats, so that its gradient is a copy and not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.dim, ctx.shape = dim, x.shape
        return x.index_select(dim, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(ctx.dim, index, grad), None, None


@dataclass(frozen=True, slots=True)
class Block:
    """Dialogues of like length."""

    dialogues: Tensor
    """Their numbers in the batch, int64 ``[n]``."""
    length: int
    """Length ``l`` of the longest."""
    keys: Tensor | None
    """Places attention may look at, bool ``[n, 1, 1, l]``; None for all."""

    @property
    def places(self) -> int:
        """Those of all its dialogues."""
        return len(self.dialogues) * self.length

    def to(self, device: torch.device) -> Block:
        """The same, made on the host, on *device*."""
        keys = None if self.keys is None else send(self.keys, device)
        return Block(send(self.dialogues, device), self.length, keys)


@dataclass(frozen=True, slots=True)
class Rows:
    """The ``R`` rows, out of ``B * L`` padded positions, that a layer computes."""

    batch: int
    length: int
    compiled: bool
    """For a compiled model."""
    lengths: Tensor
    """Rows of each dialogue, int64 ``[B]``."""
    index: Tensor
    """Flat position of each row, int64 ``[R]`` ascending."""
    position: Tensor
    """Position of each row within its dialogue, int64 ``[R]``."""
    all: bool
    """Whether the rows are all positions."""
    places: Tensor | None
    """Place of each row among those of the blocks, int64 ``[R]``; None where the places are the rows in their order."""
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], length: int, device: torch.device, compiled: bool = False) -> Rows:
        """The first *sizes* positions of each dialogue, out of *length*; for a *compiled* model in one block."""
        lengths = torch.tensor(sizes, dtype=torch.int64)
        dialogue, position = (torch.arange(length) < lengths[:, None]).nonzero(as_tuple=True)
        index = dialogue * length + position
        blocks: list[Block]
        places: Tensor | None
        if compiled:
            keys = (torch.arange(length) < lengths[:, None])[:, None, None, :]
            blocks, places = [Block(torch.arange(len(sizes)), length, keys)], index
        else:
            blocks, places = _blocks(sizes, lengths, dialogue, position)
        return cls(
            len(sizes),
            length,
            compiled,
            send(lengths, device),
            send(index, device),
            send(position, device),
            not compiled and len(index) == len(sizes) * length,
            None if places is None else send(places, device),
            tuple(block.to(device) for block in blocks),
        )

    @classmethod
    def everything(cls, batch: int, length: int, device: torch.device, compiled: bool = False) -> Rows:
        """Every position, padding too."""
        return cls.of([length] * batch, length, device, compiled)

    def take(self, padded: Tensor) -> Tensor:
        """``[B, L, ...]`` to rows ``[R, ...]``."""
        flat = padded.flatten(0, 1)
        return flat if self.all else _Take.apply(flat, 0, self.index)

    def pad(self, rows: Tensor) -> Tensor:
        """Rows ``[R, ...]`` to ``[B, L, ...]`` with zeros elsewhere."""
        if not self.all:
            rows = rows.new_zeros(self.batch * self.length, *rows.shape[1:]).index_copy(0, self.index, rows)
        return rows.view(self.batch, self.length, *rows.shape[1:])

    def spread(self, rows: Tensor) -> list[Tensor]:
        """Rows ``[..., R, width]`` to ``[..., n, l, width]`` per block, zeros at padding."""
        sizes = [block.places for block in self.blocks]
        if self.places is not None:
            zeros = rows.new_zeros(*rows.shape[:-2], sum(sizes), rows.shape[-1])
            rows = zeros.index_copy(rows.ndim - 2, self.places, rows)
        parts = rows.split(sizes, dim=-2)
        return [part.unflatten(-2, (len(block.dialogues), block.length)) for part, block in zip(parts, self.blocks)]

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """The way back from :meth:`spread`."""
        rows = torch.cat([block.flatten(-3, -2) for block in blocks], dim=-2)
        return rows if self.places is None else _Take.apply(rows, rows.ndim - 2, self.places)

    def attend(
        self,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        heads: int,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Scaled dot-product attention within each dialogue: blocks as from :meth:`spread` to rows ``[..., R, width]``.

        *keep* ``[..., B, heads, L, L]`` multiplies the attention weights: dropout, for which torch has no fused kernel
        on CPUs.
        """
        return self.gather(
            [_attend(block, q, k, v, heads, keep) for block, q, k, v in zip(self.blocks, queries, keys, values)]
        )


def _attend(block: Block, q: Tensor, k: Tensor, v: Tensor, heads: int, keep: Tensor | None) -> Tensor:
    shape = q.shape
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-2, -3).flatten(0, -4) for x in (q, k, v))
    stack = len(q) // len(block.dialogues)
    mask = None if block.keys is None else block.keys.repeat(stack, 1, 1, 1)
    if keep is None:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
        own = keep[..., : block.length, : block.length].index_select(-4 + keep.ndim, block.dialogues)
        mixed = (weights * own.flatten(0, -4)) @ v
    return mixed.transpose(1, 2).reshape(shape)


def send(x: Tensor, device: torch.device) -> Tensor:
    """*x*, made on the host, on *device*, without waiting for what a GPU still has to do."""
    return x.to(device, non_blocking=device.type == "cuda")


def _blocks(
    sizes: Sequence[int], lengths: Tensor, dialogue: Tensor, position: Tensor
) -> tuple[list[Block], Tensor | None]:
    """Blocks of dialogues of like length, and the place of each row, None where that is its number."""
    blocks, starts, total = [], torch.zeros_like(lengths), 0
    for dialogues in _alike(sizes):
        longest, own = sizes[dialogues[0]], lengths[dialogues]
        full = bool((own == longest).all())
        keys = None if full else (torch.arange(longest) < own[:, None])[:, None, None, :]
        blocks.append(Block(torch.tensor(dialogues), longest, keys))
        starts[dialogues] = total + longest * torch.arange(len(dialogues))
        total += longest * len(dialogues)
    places = starts[dialogue] + position
    packed = total == len(places) and bool((places == torch.arange(total)).all())
    return blocks, None if packed else places


def _alike(sizes: Sequence[int]) -> list[list[int]]:
    """The numbers of the dialogues in groups of like length, longest first; without the empty ones unless all are."""
    groups: list[list[int]] = []
    for dialogue in sorted((d for d, size in enumerate(sizes) if size), key=lambda d: -sizes[d]):
        if groups and sizes[dialogue] >= LIKE * sizes[groups[-1][0]]:
            groups[-1].append(dialogue)
        else:
            groups.append([dialogue])
    return groups or [list(range(len(sizes)))]
