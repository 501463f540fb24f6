"""CPU time of one CORECT training epoch at the published size, against plain matrix products of the same work.

    OMP_NUM_THREADS=1 python benchmarks/corect_epoch.py [--epochs 3] [--profile]

120 dialogues, 5810 utterances, 12 batches of 10 dialogues, text 768 / audio 100 / visual 512 features, hidden 100,
window 11 / 5, everything on, dropout 0.5, Adam: random data in the shape of IEMOCAP's training split. The floor runs
every matrix product of the forward pass three times (output, input gradient, weight gradient) on the real utterances.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from lantern.models.batch import Batch, Sizes
from lantern.models.corect import Config, Model

DIALOGUES, UTTERANCES, BATCH = 120, 5810, 10
SIZES = Sizes(dims={"text": 768, "audio": 100, "visual": 512}, classes=6, speakers=2)
PUBLISHED_CPU_SECONDS = (27.6, 35.0)  # the published implementation, 1 thread .. 2 threads, per epoch


def dialogue_lengths() -> list[int]:
    """120 lengths that sum to 5810, spread as in IEMOCAP (about 8 to 110)."""
    spread = torch.randn(DIALOGUES, generator=torch.Generator().manual_seed(0)) * 18 + UTTERANCES / DIALOGUES
    lengths = [int(value) for value in spread.clamp(8, 110)]
    missing = UTTERANCES - sum(lengths)
    for step in range(abs(missing)):
        lengths[step % DIALOGUES] += 1 if missing > 0 else -1
    return lengths


def make_batches() -> list[Batch]:
    """The epoch's batches."""
    generator = torch.Generator().manual_seed(1)
    lengths = dialogue_lengths()
    batches = []
    for start in range(0, DIALOGUES, BATCH):
        sizes = torch.tensor(lengths[start : start + BATCH])
        shape = (len(sizes), int(sizes.max()))
        mask = torch.arange(shape[1]) < sizes[:, None]
        batches.append(
            Batch(
                features={n: torch.randn(*shape, d, generator=generator) for n, d in SIZES.dims.items()},
                speakers=torch.randint(2, shape, generator=generator),
                mask=mask,
                labels=torch.randint(6, shape, generator=generator).masked_fill(~mask, -1),
                scores=torch.full((*shape, 3), float("nan")),
            )
        )
    return batches


def train_epoch(model: Model, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> None:
    """Forward, loss, backward and optimiser step on every batch."""
    for batch in batches:
        loss = F.cross_entropy(model(batch).logits, batch.labels[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def products(config: Config, lengths: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """(count, rows, inner, columns) of the matrix products of one forward pass over a batch of *lengths*."""
    n, m, h, heads = sum(lengths), len(SIZES.dims), config.hidden, config.graph_heads
    text, ff = SIZES.dims["text"], config.text_feedforward
    yield from ((config.text_layers, n, text, width) for width in (3 * text, text, ff, ff))
    yield from ((1, n, size, h) for size in SIZES.dims.values())
    yield 2, n, h, h
    yield m, n, 5 * h, h
    yield m, n, h, 4 * heads * h
    for width, layers in (
        (h, m * (m - 1) * config.crossmodal_layers),
        ((m - 1) * h, m * config.self_attention_layers),
    ):
        yield layers, n, width, 12 * width
    yield 1, n, m * heads * h + m * (m - 1) * h, h
    window = config.past_window + config.future_window + m
    for length in lengths:
        attention = config.text_layers * text + 12 * h + 9 * 2 * h
        yield 1, length, length, 2 * attention
    yield 2, m * n, window, heads * h


def floor_seconds(config: Config) -> float:
    """CPU seconds of the epoch's matrix products alone."""
    lengths, total = dialogue_lengths(), 0.0
    for start in range(0, DIALOGUES, BATCH):
        for count, rows, inner, columns in products(config, lengths[start : start + BATCH]):
            a, b, g = torch.randn(rows, inner), torch.randn(inner, columns), torch.randn(rows, columns)
            begin = time.process_time()
            for _ in range(count):
                a @ b, g @ b.t(), a.t() @ g
            total += time.process_time() - begin
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fused", action="store_true", help="fused Adam")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print the operators of one epoch by CPU time")
    args = parser.parse_args()
    torch.manual_seed(0)
    config, batches = Config(), make_batches()
    model = Model(config, SIZES).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4, weight_decay=1e-8, fused=args.fused)
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
        train_epoch(model, optimizer, batches[:2])
        epochs, floors = [], []
        for _ in range(args.epochs):
            begin = time.process_time()
            train_epoch(model, optimizer, batches)
            epochs.append(time.process_time() - begin)
            floors.append(floor_seconds(config))
        if args.profile:
            with profile(activities=[ProfilerActivity.CPU]) as trace:
                train_epoch(model, optimizer, batches)
            print(trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    epoch, floor = min(epochs), min(floors)
    low, high = PUBLISHED_CPU_SECONDS
    print(f"epoch {epoch:.2f} CPU-s (all: {', '.join(f'{value:.2f}' for value in epochs)})")
    print(f"matrix products alone {floor:.2f} CPU-s; ratio {epoch / floor:.2f}")
    print(f"published implementation {low:.1f}..{high:.1f} CPU-s; {low / epoch:.1f}x..{high / epoch:.1f}x less")


if __name__ == "__main__":
    main()
