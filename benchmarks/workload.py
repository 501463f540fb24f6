"""What the backbone benchmark trains on: random data in the shape of IEMOCAP's training split, and its floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lantern.models.batch import Batch, Sizes
from lantern.models.corect.config import Config as CorectConfig
from lantern.models.sdt.config import Config as SdtConfig

DIALOGUES, UTTERANCES, SHORTEST, LONGEST = 120, 5810, 8, 110


@dataclass(frozen=True, slots=True)
class Product:
    """*count* products ``[rows, inner] x [inner, columns]`` of a forward pass."""

    count: int
    rows: int
    inner: int
    columns: int
    needs_input_gradient: bool = True
    """False on raw features: the backward pass then has the product for the weights only."""

    def multiply_adds(self, backward: bool) -> int:
        """Of the forward pass, and the *backward* pass if it is asked for."""
        passes = 1 + backward + (backward and self.needs_input_gradient)
        return self.count * self.rows * self.inner * self.columns * passes


def dialogue_lengths() -> list[int]:
    """The lengths of all dialogues, spread as in IEMOCAP, in random order."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(DIALOGUES, generator=generator) * 18 + UTTERANCES / DIALOGUES
    lengths = spread.clamp(SHORTEST + 1, LONGEST - 1).int().sort().values.tolist()
    lengths[0], lengths[-1] = SHORTEST, LONGEST
    missing = UTTERANCES - sum(lengths)
    for step in range(abs(missing)):
        lengths[DIALOGUES // 4 + step % (DIALOGUES // 2)] += 1 if missing > 0 else -1
    return [lengths[i] for i in torch.randperm(DIALOGUES, generator=generator)]


def batch_lengths(size: int) -> list[list[int]]:
    """The lengths of the dialogues of each batch of an epoch."""
    lengths = dialogue_lengths()
    return [lengths[start : start + size] for start in range(0, DIALOGUES, size)]


def make_batch(lengths: list[int], sizes: Sizes, seed: int = 1) -> Batch:
    """A batch of fully labelled dialogues of *lengths*, zeros at padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]

    def features(size: int) -> Tensor:
        return torch.randn(*shape, size, generator=generator).masked_fill(~mask[..., None], 0.0)

    return Batch(
        features={name: features(size) for name, size in sizes.dims.items()},
        speakers=torch.randint(sizes.speakers, shape, generator=generator).masked_fill(~mask, 0),
        mask=mask,
        labels=torch.randint(sizes.classes, shape, generator=generator).masked_fill(~mask, -1),
        scores=torch.full((*shape, 3), float("nan")),
    )


def sdt_products(lengths: list[int], sizes: Sizes, config: SdtConfig) -> Iterator[Product]:
    """The products of SDT on the utterances of *lengths*."""
    n, h, m = sum(lengths), config.hidden, len(sizes.dims)
    for size in sizes.dims.values():
        yield Product(1, n, size, h, needs_input_gradient=False)
    yield Product(m * m * 6 + m * m + m, n, h, h)  # encoders, unimodal gates, multimodal gate
    yield Product(m, n, m * h, h)
    yield Product(m + 1, n, h, sizes.classes)
    for length in lengths:
        yield from _attention(m * m * config.heads, length, h // config.heads)


def corect_products(lengths: list[int], sizes: Sizes, config: CorectConfig) -> Iterator[Product]:
    """The products of CORECT on the utterances of *lengths*; sums over neighbours are not counted."""
    n, m, h, heads = sum(lengths), len(sizes.dims), config.hidden, config.graph_heads
    text, ff, layers = sizes.dims["text"], config.text_feedforward, config.text_layers
    yield Product(1, n, text, 3 * text, needs_input_gradient=False)
    yield Product(layers - 1, n, text, 3 * text)
    yield Product(layers, n, text, text)
    yield Product(layers, n, text, ff)
    yield Product(layers, n, ff, text)
    yield Product(1, n, text, h)
    for name in ("audio", "visual"):
        yield Product(1, n, sizes.dims[name], h, needs_input_gradient=False)
        yield Product(1, n, h, h)
    # A node has itself, earlier and later neighbours, and the utterance's other modalities: the other relations of the
    # graph convolution are zero. The root weight adds to that of the self-loop.
    yield Product(m, n, (3 + m - 1) * h, h)
    yield Product(m, n, h, 4 * heads * h)
    before, after = config.past_window, config.future_window
    edges = sum(min(i + after, length - 1) - max(i - before, 0) + 1 for length in lengths for i in range(length))
    yield Product(2, m * n, round(edges / n) + m - 1, heads * h)  # graph attention
    pairs, memory = m * (m - 1) * config.crossmodal_layers, m * config.self_attention_layers
    for width, stacked in ((h, pairs), ((m - 1) * h, memory)):
        yield Product(4 * stacked, n, width, width)
        yield Product(stacked, n, width, 4 * width)
        yield Product(stacked, n, 4 * width, width)
    yield Product(1, n, m * heads * h + m * (m - 1) * h, h)
    yield Product(1, n, h, sizes.classes)
    for length in lengths:
        yield from _attention(layers * 8, length, text // 8)
        yield from _attention(pairs * config.crossmodal_heads, length, h // config.crossmodal_heads)
        width = (m - 1) * h // config.self_attention_heads
        yield from _attention(memory * config.self_attention_heads, length, width)


def _attention(count: int, length: int, width: int) -> Iterator[Product]:
    """Scores and mixture of one dialogue, *count* heads side by side: wide products, cheaper than one per head."""
    yield Product(2, length, length, count * width)


class Floor:
    """Runs the products of a batch, with their input and weight gradients if *backward*, and nothing else."""

    def __init__(self, products: list[Product], backward: bool, device: str) -> None:
        self.products, self.backward = products, backward
        shapes = [shape for p in products for shape in ((p.rows, p.inner), (p.inner, p.columns), (p.rows, p.columns))]
        self.pool = torch.randn(max(rows * columns for rows, columns in shapes) * 4, device=device)

    def step(self) -> None:
        """The work of one batch."""
        for product in self.products:
            rows, inner, columns = product.rows, product.inner, product.columns
            sizes = [rows * inner, inner * columns, rows * columns]
            ends = [0, *torch.tensor(sizes).cumsum(0).tolist()]
            a, b, g = (self.pool[start:end] for start, end in pairwise(ends))
            a, b, g = a.view(rows, inner), b.view(inner, columns), g.view(rows, columns)
            out = self.pool[ends[-1] :]
            for _ in range(product.count):
                torch.mm(a, b, out=out[: rows * columns].view(rows, columns))
                if self.backward:
                    torch.mm(a.t(), g, out=out[: inner * columns].view(inner, columns))
                if self.backward and product.needs_input_gradient:
                    torch.mm(g, b.t(), out=out[: rows * inner].view(rows, inner))
