"""Training time and memory of the backbones at the published sizes, against padded implementations and plain products.

    python -m benchmarks.backbones [sdt|corect ...] [--rounds 2] [--batches N] [--profile]

An epoch is 120 dialogues, 5,810 utterances of random data in the shape of IEMOCAP's training split: forward pass, loss
(the auxiliary one too), backward pass and fused Adam, dropout on. Three contenders take turns, batch by batch and in
changing order, each in a process of its own, on one thread unless OMP_NUM_THREADS says otherwise:

* ``ours``: the backbone;
* ``padded``: the same network in plain modules on padded dialogues (checked to give the same outputs);
* ``floor``: the multiply-adds of the forward and the backward pass on the real utterances, as plain matrix products.

Seconds are CPU seconds of the process, the least of the rounds for each batch, after two steps that are not counted.
With ``--batches N`` the first N batches are timed and scaled to the epoch by utterances; peak memory is theirs. The
published figures are the CPU seconds of an epoch of the published implementations, measured on another machine.

The full run takes about 8 minutes; one backbone with ``--batches 1 --rounds 1`` about one.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.padded_corect import PaddedCorect
from benchmarks.padded_sdt import PaddedSdt
from benchmarks.workload import UTTERANCES, Floor, Product, batch_lengths, corect_products, make_batch, sdt_products
from lantern.models.batch import Backbone, Batch, Sizes
from lantern.models.corect.config import Config as CorectConfig
from lantern.models.corect.model import Model as CorectModel
from lantern.models.sdt.config import Config as SdtConfig
from lantern.models.sdt.model import Model as SdtModel
from lantern.models.sdt.published import IEMOCAP_CLASS_WEIGHTS

CONTENDERS = ("ours", "padded", "floor")
PARTS = ("forward", "backward", "optimiser")
GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "attention kernels": ("scaled_dot_product", "flash"),
    "optimiser": ("fused_adam", "Optimizer"),
    "random numbers": ("random", "bernoulli"),
    "copies and gathers": ("copy_", "index", "cat", "gather", "fill", "zero", "clone", "stack", "select", "slice_back"),
}


@dataclass(frozen=True)
class Setting:
    """A backbone at its published sizes."""

    ours: Callable[..., Backbone]
    padded: Callable[..., Any]
    config: Any
    sizes: Sizes
    batch_size: int
    lr: float
    weight_decay: float
    products: Callable[..., Iterator[Product]]
    published: tuple[float, float]
    """CPU seconds per epoch of the published implementation, measured elsewhere."""


SETTINGS = {
    "sdt": Setting(
        ours=SdtModel,
        padded=PaddedSdt,
        config=SdtConfig(),
        sizes=Sizes({"text": 1024, "audio": 1582, "visual": 342}, 6, 2, IEMOCAP_CLASS_WEIGHTS),
        batch_size=16,
        lr=1e-4,
        weight_decay=1e-5,
        products=sdt_products,
        published=(166, 190),
    ),
    "corect": Setting(
        ours=CorectModel,
        padded=PaddedCorect,
        config=CorectConfig(),
        sizes=Sizes({"text": 768, "audio": 100, "visual": 512}, 6, 2),
        batch_size=10,
        lr=2.5e-4,
        weight_decay=1e-8,
        products=corect_products,
        published=(28, 35),
    ),
}


@dataclass(frozen=True)
class Timing:
    """What one step took."""

    cpu: float
    wall: float
    parts: tuple[float, ...] = ()
    """CPU seconds of forward pass with loss, backward pass, optimiser; empty for the floor."""


class Training:
    """A model and its optimiser."""

    def __init__(self, setting: Setting, contender: str) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self.model: Backbone = setting.ours(setting.config, setting.sizes)
        self.difference = 0.0
        if contender == "padded":
            self._replace_by_padded()
        self.model.train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=setting.lr, weight_decay=setting.weight_decay, fused=True
        )

    def _replace_by_padded(self) -> None:
        """Make the padded model, and see that it computes the same thing."""
        padded, batch = self.setting.padded(self.setting.config, self.setting.sizes), self.batch(0)
        padded.copy_weights(self.model)
        with torch.no_grad():
            ours, theirs = self.model.eval()(batch), padded.eval()(batch)
        self.difference = float((ours.logits - theirs.logits).abs().max())
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.auxiliary_loss, theirs.auxiliary_loss, atol=1e-4, rtol=1e-4)
        self.model = padded

    def batch(self, index: int) -> Batch:
        """Batch *index* of the epoch."""
        return make_batch(batch_lengths(self.setting.batch_size)[index], self.setting.sizes, seed=index)

    def step(self, batch: Batch) -> Iterator[None]:
        """Train on *batch*; yields after each of ``PARTS``."""
        output = self.model(batch)
        loss = F.cross_entropy(output.logits, batch.labels[batch.mask])
        if output.auxiliary_loss is not None:
            loss = loss + output.auxiliary_loss
        yield
        self.optimizer.zero_grad()
        loss.backward()
        yield
        self.optimizer.step()
        yield


class Worker:
    """The contender of this process."""

    running: Worker

    def __init__(self, backbone: str, contender: str) -> None:
        self.setting = SETTINGS[backbone]
        self.training = None if contender == "floor" else Training(self.setting, contender)

    def step(self, index: int) -> Timing:
        """Train on batch *index*."""
        if self.training is None:
            lengths = batch_lengths(self.setting.batch_size)[index]
            floor = Floor(list(self.setting.products(lengths, self.setting.sizes, self.setting.config)))
            wall, cpu = time.perf_counter(), time.process_time()
            floor.step()
            return Timing(time.process_time() - cpu, time.perf_counter() - wall)
        batch = self.training.batch(index)
        wall, marks = time.perf_counter(), [time.process_time()]
        for _ in self.training.step(batch):
            marks.append(time.process_time())
        parts = tuple(end - start for start, end in pairwise(marks))
        return Timing(marks[-1] - marks[0], time.perf_counter() - wall, parts)


def start_worker(backbone: str, contender: str) -> None:
    """Called once in a new process."""
    Worker.running = Worker(backbone, contender)


def worker_step(index: int) -> Timing:
    """Called in a worker."""
    return Worker.running.step(index)


def worker_facts() -> tuple[float, float]:
    """Called in a worker: its peak memory in MB, and how far the padded model's logits are from ours."""
    training = Worker.running.training
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return peak, 0.0 if training is None else training.difference


def worker_profile(index: int) -> str:
    """Called in a worker: where the CPU time of batch *index* goes."""
    training = Worker.running.training
    assert training is not None
    batch = training.batch(index)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        list(training.step(batch))
    events = trace.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = dict.fromkeys([*GROUPS, "element-wise and the rest"], 0.0)
    for event in events:
        name = event.key.removeprefix("aten::")
        groups = (g for g, names in GROUPS.items() if (name in names if g == "matrix products" else _has(name, names)))
        shares[next(groups, "element-wise and the rest")] += event.self_cpu_time_total / total
    lines = [f"  {share:6.1%} {group}" for group, share in shares.items()]
    return "\n".join(lines) + "\n" + events.table("self_cpu_time_total", row_limit=20, max_name_column_width=44)


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def measure(backbone: str, rounds: int, batches: int | None, with_profile: bool) -> None:
    """Time the contenders of *backbone* and print the result."""
    lengths = batch_lengths(SETTINGS[backbone].batch_size)[:batches]
    timings: dict[str, list[list[Timing]]] = {contender: [[] for _ in lengths] for contender in CONTENDERS}
    with ExitStack() as stack:
        workers = {
            contender: stack.enter_context(
                ProcessPoolExecutor(1, get_context("spawn"), start_worker, (backbone, contender))
            )
            for contender in CONTENDERS
        }
        largest = max(range(len(lengths)), key=lambda index: len(lengths[index]) * max(lengths[index]))
        # Two untimed steps: gradients and Adam's moments exist only after the first, so that the second still makes the
        # process grow, and fresh memory costs up to half a step. Side by side, since nothing is timed yet.
        warming = [worker.submit(worker_step, largest) for _ in range(2) for worker in workers.values()]
        for started in warming:
            started.result()
        for turn in range(rounds * len(lengths)):
            index, shift = turn % len(lengths), (turn + turn // len(lengths)) % len(CONTENDERS)
            for contender in CONTENDERS[shift:] + CONTENDERS[:shift]:
                timings[contender][index].append(workers[contender].submit(worker_step, index).result())
        facts = {contender: worker.submit(worker_facts).result() for contender, worker in workers.items()}
        table = workers["ours"].submit(worker_profile, 0).result() if with_profile else ""
    scale = UTTERANCES / sum(map(sum, lengths))
    best = {contender: [min(ts, key=lambda t: t.cpu) for ts in timings[contender]] for contender in CONTENDERS}
    report(backbone, best, scale, lengths, facts)
    if table:
        print(f"  where the CPU time of ours goes (batch of {sum(lengths[0])} utterances, profiler running):\n{table}")


def report(
    backbone: str,
    best: dict[str, list[Timing]],
    scale: float,
    lengths: list[list[int]],
    facts: dict[str, tuple[float, float]],
) -> None:
    """Print the table and ratios of *backbone*."""
    setting, utterances = SETTINGS[backbone], sum(map(sum, lengths))
    positions = sum(len(batch) * max(batch) for batch in lengths)
    work = scale * sum(
        product.multiply_adds for batch in lengths for product in setting.products(batch, setting.sizes, setting.config)
    )
    print(f"{backbone}: {len(lengths)} batches, {utterances} utterances in {positions} padded positions", end="")
    print("" if scale == 1 else f"; scaled to {UTTERANCES} utterances")
    print(f"  {'':8}{'CPU-s/epoch':>12}{'wall-s':>9}{'peak MB':>9}" + "".join(f"{part:>11}" for part in PARTS))
    cpu = {}
    for contender, steps in best.items():
        cpu[contender] = scale * sum(step.cpu for step in steps)
        wall = scale * sum(step.wall for step in steps)
        parts = "".join(f"{scale * sum(part):11.2f}" for part in zip(*(step.parts for step in steps)))
        print(f"  {contender:8}{cpu[contender]:12.2f}{wall:9.2f}{facts[contender][0]:9.0f}{parts}")
    low, high = setting.published
    ours = cpu["ours"]
    print(f"  floor: {work / 1e12:.2f}e12 multiply-adds, {2 * work / cpu['floor'] / 1e9:.0f} GFLOP per CPU-second")
    print(f"  ours/padded {ours / cpu['padded']:.2f} (logits differ by at most {facts['padded'][1]:.0e})")
    print(f"  ours/floor {ours / cpu['floor']:.2f}, padded/floor {cpu['padded'] / cpu['floor']:.2f}")
    print(f"  ours/published {ours / high:.2f}..{ours / low:.2f} ({low}..{high} CPU-s, measured on another machine)")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", metavar="sdt|corect", help="default: both")
    parser.add_argument("--rounds", type=int, default=2, help="times each batch is timed; the least counts")
    parser.add_argument("--batches", type=int, help="time only the first N batches and scale to the epoch")
    parser.add_argument("--profile", action="store_true", help="also print where the time of one batch goes")
    args = parser.parse_args()
    for name in args.backbones:
        if name not in SETTINGS:
            parser.error(f"{name!r} is not one of {', '.join(SETTINGS)}")
    if args.rounds < 1 or (args.batches is not None and args.batches < 1):
        parser.error("--rounds and --batches must be at least 1")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name in args.backbones or SETTINGS:
        measure(name, args.rounds, args.batches, args.profile)


if __name__ == "__main__":
    main()
