"""Time and memory of the backbones at the published sizes, against the published computation and plain products.

    python -m benchmarks.backbones [sdt|corect ...] [--rounds 2] [--batches N] [--mode inference] [--device cuda]

An epoch is 120 dialogues, 5,810 utterances of random data in the shape of IEMOCAP's training split. Training is forward
pass, loss (the auxiliary one too), backward pass and Adam, dropout on; inference is the forward pass without gradients.
Three contenders take turns, batch by batch and in changing order, each in a process of its own, on one thread unless
OMP_NUM_THREADS says otherwise:

* ``ours``: the backbone, with fused Adam, as Lantern trains it;
* ``official``: the published computation as it is run, written down in ``benchmarks/official_*.py``: padded, unfused,
  with Adam as torch has it by default (checked to give the outputs of the backbone);
* ``floor``: the multiply-adds on the real utterances, as plain matrix products.

Seconds are CPU seconds of the process (on a GPU those of the clock), the least of the rounds for each batch, after two
steps that are not counted. With ``--batches N`` the first N batches are timed and scaled to the epoch by utterances;
peak memory is theirs. Only the ratios mean something on another machine.

The full run takes about 20 minutes; one backbone with ``--batches 1 --rounds 1`` about one.
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

from benchmarks.official_corect import OfficialCorect
from benchmarks.official_sdt import OfficialSdt
from benchmarks.workload import UTTERANCES, Floor, Product, batch_lengths, corect_products, make_batch, sdt_products
from lantern.models.batch import Backbone, Batch, Sizes
from lantern.models.corect.config import Config as CorectConfig
from lantern.models.corect.model import Model as CorectModel
from lantern.models.sdt.config import Config as SdtConfig
from lantern.models.sdt.model import Model as SdtModel
from lantern.models.sdt.published import IEMOCAP_CLASS_WEIGHTS

CONTENDERS = ("ours", "official", "floor")
MODES = ("training", "inference")
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
    official: Callable[..., Any]
    config: Any
    exact: Any
    """The options with which the backbone gives the outputs of the published implementation."""
    sizes: Sizes
    batch_size: int
    lr: float
    weight_decay: float
    products: Callable[..., Iterator[Product]]


SETTINGS = {
    "sdt": Setting(
        ours=SdtModel,
        official=OfficialSdt,
        config=SdtConfig(),
        exact=SdtConfig(),
        sizes=Sizes({"text": 1024, "audio": 1582, "visual": 342}, 6, 2, IEMOCAP_CLASS_WEIGHTS),
        batch_size=16,
        lr=1e-4,
        weight_decay=1e-5,
        products=sdt_products,
    ),
    "corect": Setting(
        ours=CorectModel,
        official=OfficialCorect,
        config=CorectConfig(),
        exact=CorectConfig(exact_published=True),
        sizes=Sizes({"text": 768, "audio": 100, "visual": 512}, 6, 2),
        batch_size=10,
        lr=2.5e-4,
        weight_decay=1e-8,
        products=corect_products,
    ),
}


@dataclass(frozen=True)
class Timing:
    """What one step took."""

    seconds: float
    parts: tuple[float, ...] = ()
    """Seconds of each of ``PARTS``; empty for the floor."""


def check_official(backbone: str) -> float:
    """See that the official model computes what ours does; gives the greatest difference of their logits."""
    setting = SETTINGS[backbone]
    torch.manual_seed(0)
    ours, official = setting.ours(setting.exact, setting.sizes).eval(), setting.official(setting.config, setting.sizes)
    official.copy_weights(ours)
    batch = make_batch([9, 6], setting.sizes)
    with torch.no_grad():
        one, other = ours(batch), official.eval()(batch)
    torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.auxiliary_loss, other.auxiliary_loss, atol=1e-4, rtol=1e-4)
    return float((one.logits - other.logits).abs().max())


class Contest:
    """A model and its optimiser."""

    def __init__(self, setting: Setting, contender: str, mode: str, device: str) -> None:
        torch.manual_seed(0)
        self.setting, self.mode, self.device = setting, mode, device
        self.model: Backbone = (setting.ours if contender == "ours" else setting.official)(
            setting.config, setting.sizes
        )
        self.model.to(device).train(mode == "training")
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=setting.lr,
            weight_decay=setting.weight_decay,
            fused=True if contender == "ours" else None,
        )

    def batch(self, index: int) -> Batch:
        """Batch *index* of the epoch."""
        lengths = batch_lengths(self.setting.batch_size)[index]
        return make_batch(lengths, self.setting.sizes, seed=index).to(self.device)

    def step(self, batch: Batch) -> Iterator[None]:
        """Train or predict on *batch*; yields after each of ``PARTS`` that there is."""
        with torch.set_grad_enabled(self.mode == "training"):
            output = self.model(batch)
            loss = F.cross_entropy(output.logits, batch.pick(batch.labels))
            if output.auxiliary_loss is not None:
                loss = loss + output.auxiliary_loss
        yield
        if self.mode == "inference":
            return
        self.optimizer.zero_grad()
        loss.backward()
        yield
        self.optimizer.step()
        yield


class Worker:
    """The contender of this process."""

    running: Worker

    def __init__(self, backbone: str, contender: str, mode: str, device: str) -> None:
        self.setting, self.mode, self.device = SETTINGS[backbone], mode, device
        self.contest = None if contender == "floor" else Contest(self.setting, contender, mode, device)

    def step(self, index: int) -> Timing:
        """Train or predict on batch *index*."""
        if self.contest is None:
            lengths = batch_lengths(self.setting.batch_size)[index]
            products = list(self.setting.products(lengths, self.setting.sizes, self.setting.config))
            floor = Floor(products, self.mode == "training", self.device)
            marks = [self._now()]
            floor.step()
            marks.append(self._now())
            return Timing(marks[1] - marks[0])
        batch = self.contest.batch(index)
        marks = [self._now()]
        for _ in self.contest.step(batch):
            marks.append(self._now())
        return Timing(marks[-1] - marks[0], tuple(end - start for start, end in pairwise(marks)))

    def _now(self) -> float:
        """CPU seconds of this process; on a GPU seconds of the clock, when it has done its work."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def peak(self) -> float:
        """Most memory used so far, in MB."""
        if self.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        return torch.cuda.max_memory_allocated() / 1e6


def start_worker(backbone: str, contender: str, mode: str, device: str) -> None:
    """Called once in a new process."""
    Worker.running = Worker(backbone, contender, mode, device)


def worker_step(index: int) -> Timing:
    """Called in a worker."""
    return Worker.running.step(index)


def worker_peak() -> float:
    """Called in a worker: its peak memory in MB."""
    return Worker.running.peak


def worker_profile(index: int) -> str:
    """Called in a worker: where the CPU time of batch *index* goes."""
    contest = Worker.running.contest
    assert contest is not None
    batch = contest.batch(index)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        list(contest.step(batch))
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


def measure(backbone: str, mode: str, args: argparse.Namespace) -> None:
    """Time the contenders of *backbone* and print the result."""
    lengths = batch_lengths(SETTINGS[backbone].batch_size)[: args.batches]
    timings: dict[str, list[list[Timing]]] = {contender: [[] for _ in lengths] for contender in CONTENDERS}
    with ExitStack() as stack:
        workers = {}
        for contender in CONTENDERS:
            pool = ProcessPoolExecutor(1, get_context("spawn"), start_worker, (backbone, contender, mode, args.device))
            workers[contender] = stack.enter_context(pool)
        largest = max(range(len(lengths)), key=lambda index: len(lengths[index]) * max(lengths[index]))
        # Two untimed steps: gradients and Adam's moments exist only after the first, so that the second still makes the
        # process grow, and fresh memory costs up to half a step. Side by side, since nothing is timed yet.
        warming = [worker.submit(worker_step, largest) for _ in range(2) for worker in workers.values()]
        for started in warming:
            started.result()
        for turn in range(args.rounds * len(lengths)):
            index, shift = turn % len(lengths), (turn + turn // len(lengths)) % len(CONTENDERS)
            for contender in CONTENDERS[shift:] + CONTENDERS[:shift]:
                timings[contender][index].append(workers[contender].submit(worker_step, index).result())
        peaks = {contender: worker.submit(worker_peak).result() for contender, worker in workers.items()}
        table = workers["ours"].submit(worker_profile, 0).result() if args.profile else ""
    best = {contender: [min(ts, key=lambda t: t.seconds) for ts in timings[contender]] for contender in CONTENDERS}
    report(backbone, mode, best, lengths, peaks)
    if table:
        print(f"  where the CPU time of ours goes (batch of {sum(lengths[0])} utterances, profiler running):\n{table}")


def report(
    backbone: str,
    mode: str,
    best: dict[str, list[Timing]],
    lengths: list[list[int]],
    peaks: dict[str, float],
) -> None:
    """Print the table and ratios of *backbone*."""
    setting, utterances = SETTINGS[backbone], sum(map(sum, lengths))
    positions = sum(len(batch) * max(batch) for batch in lengths)
    scale = UTTERANCES / utterances
    products = [p for batch in lengths for p in setting.products(batch, setting.sizes, setting.config)]
    work = scale * sum(product.multiply_adds(mode == "training") for product in products)
    print(
        f"{backbone}, {mode}: {len(lengths)} batches, {utterances} utterances in {positions} padded positions", end=""
    )
    print("" if scale == 1 else f"; scaled to {UTTERANCES} utterances")
    print(f"  {'':8}{'s/epoch':>12}{'peak MB':>9}" + "".join(f"{part:>11}" for part in PARTS))
    seconds = {}
    for contender, steps in best.items():
        seconds[contender] = scale * sum(step.seconds for step in steps)
        parts = "".join(f"{scale * sum(part):11.2f}" for part in zip(*(step.parts for step in steps)))
        print(f"  {contender:8}{seconds[contender]:12.2f}{peaks[contender]:9.0f}{parts}")
    ours, official, floor = (seconds[contender] for contender in CONTENDERS)
    print(f"  floor: {work / 1e12:.2f}e12 multiply-adds, {2 * work / floor / 1e9:.0f} GFLOP per second")
    print(f"  ours/official {ours / official:.2f}, memory {peaks['ours'] / peaks['official']:.2f}")
    print(f"  ours/floor {ours / floor:.2f}, official/floor {official / floor:.2f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", metavar="sdt|corect", help="default: both")
    parser.add_argument("--rounds", type=int, default=2, help="times each batch is timed; the least counts")
    parser.add_argument("--batches", type=int, help="time only the first N batches and scale to the epoch")
    parser.add_argument("--mode", choices=MODES, help="default: both")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--profile", action="store_true", help="also print where the time of one batch goes")
    args = parser.parse_args()
    for name in args.backbones:
        if name not in SETTINGS:
            parser.error(f"{name!r} is not one of {', '.join(SETTINGS)}")
    if args.rounds < 1 or (args.batches is not None and args.batches < 1):
        parser.error("--rounds and --batches must be at least 1")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name in args.backbones or SETTINGS:
        # In a process of its own: a worker's peak memory would start from that of the process that starts it.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            difference = pool.submit(check_official, name).result()
        print(f"{name}: logits of ours and official differ by at most {difference:.0e}")
        for mode in MODES if args.mode is None else [args.mode]:
            measure(name, mode, args)


if __name__ == "__main__":
    main()
