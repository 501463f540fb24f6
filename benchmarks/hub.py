"""Measures the ready experiments and fills the tables of configs/README.md: python -m benchmarks.hub

Every experiment runs in a process of its own with a fresh runs folder, at its own size where that takes minutes, else
smaller; its row says which. Peak memory is the sum of the resident memory of the process and its children, looked at
ten times a second. A row is written as soon as it is measured, and the other rows stay.

python -m benchmarks.hub --meld data/meld              # the rows on MELD
python -m benchmarks.hub --only causal --only gru      # these rows alone
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from experiments.cli.console import Parser, command
from lantern.config.compose import compose
from lantern.config.groups import CONFIG_DIR, choices
from lantern.config.schema import RunConfig
from lantern.errors import UserError
from lantern.files import atomic
from lantern.metrics.paired import mean_sd
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.results.progress import duration

ROOT = CONFIG_DIR.parent
HUB = CONFIG_DIR / "README.md"
START, END = "<!-- measured: python -m benchmarks.hub -->", "<!-- end of what was measured -->"
SMALL = {
    "sample": "backbone=sdt_small llm=simulated",
    "meld": "corpus=meld corpus.limit_dialogues=300 backbone=sdt_meld model.class_weights=none llm=simulated "
    "weighting.fit_on=dev",
}
"""What makes an experiment small on a corpus."""
OWN_SIZE = {"sample": ("first_run", "simulate"), "meld": ()}
LEFT_OUT = {"sample": ("meld_table",), "meld": ("simulate", "first_run", "ablate_dimensions", "ablate_elicitation")}
"""``simulate`` has no corpus, ``first_run`` is about the sample, MELD has no dimension scores to ablate, and how to ask
is a question for a real LLM: the simulated one replies alike."""
OTHER_SIZE = {("meld", "meld_table"): "trainer.epochs=5 llm=simulated"}
BACKBONES = {"sample": ("gru", "sdt_small", "corect_small"), "meld": ("gru", "sdt_meld", "corect_meld")}
SEEDS = 3
_MEASURED = "size | runs | time (of CPU) | LLM calls | memory | accuracy, % (Δ to vanilla)"
HEADS = {
    "sample": f"| experiment | question | {_MEASURED} |",
    "meld": f"| on MELD | {_MEASURED} |",
    "backbones": "| vanilla model | corpus | epochs | time per epoch | accuracy, % | weighted F1, % |",
}
"""The first line of each table, by which it is found again."""
CAPTIONS = {
    "sample": f"On the sample corpus; small is `{SMALL['sample']}`:",
    "meld": f"On the text of MELD; small is `{SMALL['meld']}`:",
    "backbones": f"The backbones alone (`refine.enabled=false`), {SEEDS} seeds, one thread, processor time:",
}


def main(arguments: list[str]) -> int:
    """Measure what is asked for, row by row."""
    parser = Parser(prog="python -m benchmarks.hub", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--meld", type=Path, metavar="DIR", help="corpus folder: measure the rows on MELD instead")
    parser.add_argument("--only", action="append", metavar="NAME", help="an experiment or a backbone; may be repeated")
    given = parser.parse_args(arguments)
    known = {*choices("experiment"), *(name for names in BACKBONES.values() for name in names)}
    for name in given.only or ():
        if name not in known:
            raise UserError(f"--only {name}: not one of {', '.join(sorted(known))}")
    corpus, where = ("meld", [f"corpus.path={given.meld.resolve()}"]) if given.meld else ("sample", [])
    for name in choices("experiment"):
        if name not in LEFT_OUT[corpus] and name in (given.only or known):
            keep(corpus, name, experiment_row(corpus, name, where))
    for name in BACKBONES[corpus]:
        if name in (given.only or known):
            keep("backbones", f"`{name}` | {corpus}", backbone_row(corpus, name, where))
    return 0


def experiment_row(corpus: str, name: str, where: list[str]) -> list[str]:
    """Run experiment *name* and tell it as the cells of its row, without the first."""
    size = "" if name in OWN_SIZE[corpus] else OTHER_SIZE.get((corpus, name), SMALL[corpus])
    told = "own" if not size else ("small" if size == SMALL[corpus] else f"`{size}`")
    with tempfile.TemporaryDirectory() as runs:
        overrides = [f"experiment={name}", *size.split(), *where, f"runs={runs}"]
        seconds, busy, memory = measured(["-m", "experiments.run", *overrides])
        if compose(overrides).study is not None:
            count, calls, score = "–", "–", study_score(Path(runs))
        else:
            variants = variants_of(overrides)
            results = [result_of(config) for config in variants.values()]
            asked = [result["llm"]["calls"] for result in results if result["llm"]]
            count, calls = str(len(results)), f"{sum(asked):,}"
            score = scores(list(variants), results)
    cells = [told, count, f"{duration(seconds)} ({duration(busy)})", calls, f"{memory / 1e9:.1f} GB", score]
    return [question(name), *cells] if corpus == "sample" else cells


def question(name: str) -> str:
    """What experiment *name* answers: the first sentence of its file's third line."""
    line = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[2].removeprefix("# ")
    stop = line.find("?") if "?" in line else line.find(". ")
    return line[: stop + 1] if stop >= 0 else line


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Wall time and processor time (s) of a Python command, and the peak (bytes) of its processes' resident memory."""
    # The package's own setting of one thread is for benchmarks inside this process.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], resident(child.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    told, _ = child.communicate()
    ended.set()
    watcher.join()
    if child.returncode:
        raise UserError(f"{' '.join(arguments)} ended with {child.returncode}: {told.decode(errors='replace')[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, busy, peak[0]


def resident(root: int) -> int:
    """Bytes of resident memory of process *root* and its descendants."""
    total, page, waiting = 0, os.sysconf("SC_PAGE_SIZE"), [root]
    while waiting:
        at = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            total += int((at / "statm").read_text().split()[1]) * page
            for task in (at / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def result_of(config: RunConfig) -> dict[str, Any]:
    """The stored result of the run that *config* was."""
    folder = preflight(config, check_backend=False).folder
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def variants_of(overrides: list[str]) -> dict[str, RunConfig]:
    """The runs of an experiment, by what each overrides; a single one where it has no variants."""
    config = compose(overrides)
    found = {variant: compose([*overrides, *variant.split()]) for variant in config.variants} or {"": config}
    for config in found.values():
        config.variants = []
    return found


def scores(variants: list[str], results: list[dict[str, Any]]) -> str:
    """Accuracy of the weighting and what it gains over the vanilla model, by variant, mean ± sd over seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for variant, result in zip(variants, results):
        label = " ".join(part for part in variant.split() if not part.startswith("seed="))
        groups.setdefault(label, []).append(result["test"]["methods"])
    lines = []
    for label, found in groups.items():
        merged = [100 * methods["weighted"]["accuracy"] for methods in found]
        gains = [value - 100 * methods["vanilla"]["accuracy"] for value, methods in zip(merged, found)]
        lines.append(f"{f'`{label}` ' if label else ''}{spread(merged)} ({spread(gains, '+')})")
    return "<br>".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean ± standard deviation, or the value where it is one."""
    found = mean_sd(values)
    return f"{found['mean']:{sign}.1f}" + (f" ± {found['sd']:.1f}" if len(values) > 1 else "")


def study_score(runs: Path) -> str:
    """Of the simulation study: what it reached of the possible gain, and what it lost where none was possible."""
    worlds = json.loads((runs / "simulate.json").read_text(encoding="utf-8"))["worlds"]
    shares = [100 * world["share_of_bayes_gain"] for world in worlds if world["useful"]]
    losses = [-world["gain"]["mean"] for world in worlds if not world["useful"]]
    return (
        f"{min(shares):.0f}–{max(shares):.0f} % of the possible gain with {len(shares)} useful LLMs, "
        f"at most {max(0.0, *losses):.2f} points lost with {len(losses)} useless ones"
    )


class Clock:
    """A reporter that notes the processor time at which each epoch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stage(self, title: str) -> None: ...

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.times.append(time.process_time())

    def asking(self, progress: object) -> None: ...

    def note(self, text: str) -> None: ...


def backbone_row(corpus: str, name: str, where: list[str]) -> list[str]:
    """Train backbone *name* over the seeds, one thread, and tell it as cells."""
    seconds, epochs, found = [], 0, []
    settings = [f"corpus={corpus}", *where, f"backbone={name}", "refine.enabled=false", "trainer.threads=1"]
    settings += ["model.class_weights=none"] if corpus == "meld" else []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as runs:
            clock, config = Clock(), compose([*settings, f"seed={seed}", f"runs={runs}"])
            found.append(run(preflight(config), clock)["test"]["methods"]["vanilla"])
            seconds += [b - a for a, b in zip(clock.times, clock.times[1:])]
            epochs = len(clock.times)
    seconds.sort()
    means = [spread([100 * methods[key] for methods in found]) for key in ("accuracy", "weighted_f1")]
    return [str(epochs), f"{seconds[len(seconds) // 2]:.2f} s", *means]


def keep(table: str, key: str, cells: list[str]) -> None:
    """Put a row into its table of the hub; a row with the same beginning goes, all others stay, in order."""
    key = f"`{key}`" if table != "backbones" else key
    before, block, after = parted(HUB.read_text(encoding="utf-8"))
    tables = read_tables(block)
    tables[table][key] = f"| {' | '.join([key, *cells])} |"
    print(tables[table][key], flush=True)
    parts = []
    for name, rows in tables.items():
        rule = "|" + "---|" * (HEADS[name].count("|") - 1)
        parts += [CAPTIONS[name], "\n".join([HEADS[name], rule, *(rows[key] for key in sorted(rows))])]
    text = "\n\n".join(parts)
    with atomic(HUB) as partial:
        partial.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def parted(text: str) -> tuple[str, str, str]:
    """The hub's text before, between and after the markers."""
    before, start, rest = text.partition(START)
    block, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"{HUB}: expected the lines {START} and {END}, between which the tables are written")
    return before, block, after


def read_tables(block: str) -> dict[str, dict[str, str]]:
    """The rows that stand in *block*, by table and by their beginning (two cells in the table of backbones)."""
    found: dict[str, dict[str, str]] = {name: {} for name in HEADS}
    table = ""
    for line in block.splitlines():
        table = next((name for name, head in HEADS.items() if line == head), table)
        if line.startswith("| `"):
            cells = line.strip("| ").split(" | ")
            found[table][" | ".join(cells[: 2 if table == "backbones" else 1])] = line
    return found


if __name__ == "__main__":
    command(main)
