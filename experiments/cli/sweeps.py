"""How a sweep looks on the terminal: a line for each run that ends, and a live table of all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.errors import UserError
from lantern.results.progress import SILENCE, RunState, duration, read_state
from lantern.results.summary import incomplete_line
from lantern.results.sweep import Sweep, titles

if TYPE_CHECKING:
    from rich.console import Console, Group

STYLES = {
    "running": "bold",
    "failed": "red",
    "interrupted": "yellow",
    "incomplete": "yellow",
    "done": "green",
    "waiting": "dim",
}
"""The states of a run, in the order in which a table that is too long shows them."""
ENDED = ("done", "incomplete", "failed")


def gain_on_test(result: dict[str, Any]) -> str:
    """Accuracy of the vanilla model and of the weighted predictions on the test split."""
    from lantern.results.scores import WEIGHTED

    methods = result["test"]["methods"]
    vanilla = 100 * methods["vanilla"]["accuracy"]
    if WEIGHTED not in methods:
        return f"vanilla {vanilla:.1f}"
    weighted = 100 * methods[WEIGHTED]["accuracy"]
    return f"vanilla {vanilla:.1f}, weighted {weighted:.1f} ({weighted - vanilla:+.1f})"


class SweepView:
    """Shows the runs of a sweep while they take place, here, in other processes or on other machines.

    *describe* makes of a run's result what its line says. A *sweep* that grows to *total* runs may be replaced at any
    time; all of them have the overrides *fixed*.
    """

    def __init__(
        self,
        console: Console,
        sweep: Sweep,
        total: int = 0,
        fixed: Sequence[str] | None = None,
        describe: Callable[[dict[str, Any]], str] = gain_on_test,
    ) -> None:
        self.console, self.sweep, self.describe = console, sweep, describe
        self.total = max(total, len(sweep.trials))
        self._fixed = [] if fixed is None else [fixed]
        self._before = {trial.folder: read_state(trial.folder) for trial in sweep.trials}
        self._began = self._said = time.time()
        self._ended: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep-view", daemon=True)
        self._live: Any = None

    def __enter__(self) -> SweepView:
        from rich.live import Live

        finished = sum(state.state == "done" for state in self._before.values())
        before = f", {finished} of them finished before" if finished else ""
        self.console.print(f"{self.sweep.name}: {self.total} runs{before}")
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._look()

    def _look(self) -> None:
        sweep = self.sweep
        for number, (trial, state) in enumerate(zip(sweep.trials, sweep.states())):
            if self._is_new(trial.folder, state) and trial.folder not in self._ended:
                self._ended.add(trial.folder)
                self._show(sweep, number, state)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif time.time() - self._said >= SILENCE:
            self._said = time.time()
            self._show_running(sweep)

    def _show_running(self, sweep: Sweep) -> None:
        """A line for each run under way, for a log."""
        for number, state in enumerate(sweep.states()):
            if state.state == "running":
                done = f", {state.done}/{state.total}" if state.total else ""
                left = f", about {duration(state.eta)} left" if state.eta else ""
                head = f"{number + 1}/{self.total}  {self._titles(sweep)[number]}: "
                self.console.print(f"{head}{state.stage}{done}{left}", soft_wrap=True)

    def _titles(self, sweep: Sweep) -> list[str]:
        return titles([*(trial.overrides for trial in sweep.trials), *self._fixed])

    def _is_new(self, folder: Path, state: RunState) -> bool:
        return state.state in ENDED and state != self._before.get(folder)

    def _show(self, sweep: Sweep, number: int, state: RunState) -> None:
        head = f"{number + 1}/{self.total}  {self._titles(sweep)[number]}: "
        if state.state == "failed":
            self.console.print(f"{head}error: {state.error}", style="red", soft_wrap=True)
            return
        result = read_result(sweep.trials[number].folder)
        spent = f"{state.calls:,} calls, ${state.cost:.2f}, {duration(state.updated - state.started)}"
        described = "" if result is None else f"{self.describe(result)}; "
        self.console.print(f"{head}{described}{spent}", soft_wrap=True)
        if result is not None and result["incomplete"] is not None:
            self.console.print(f"  {incomplete_line(result['incomplete'])}", style="yellow", soft_wrap=True)

    def _table(self) -> Group:
        sweep, states = self.sweep, self.sweep.states()
        new = sum(self._is_new(trial.folder, state) for trial, state in zip(sweep.trials, states))
        todo = sum(state.state not in ENDED for state in states)
        left = (time.time() - self._began) / new * todo if new else None
        most, width = max(4, self.console.height - 6), self.console.width
        return state_table(self._titles(sweep), states, most=most, left=left, width=width)


def state_table(
    titles: Sequence[str],
    states: Sequence[RunState],
    most: int | None = None,
    left: float | None = None,
    width: int = 120,
) -> Group:
    """The runs of a sweep, at most *most* of them, those under way first; *left*: seconds to the end, where known.

    Below 100 columns of *width* the numbers of a run stand in its text.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    counts = {name: sum(state.state == name for state in states) for name in STYLES}
    summary = [f"{count} {name}" for name, count in counts.items() if count]
    summary += [f"{sum(s.calls for s in states):,} calls", f"${sum(s.cost for s in states):.2f}"]
    if left:
        summary.append(f"about {duration(left)} left")
    numbers = ("progress", "calls", "spent", "time", "left")
    wide = width >= 100
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", max_width=60 if wide else width // 2)
    for title in ("state", "stage", *numbers) if wide else ("state",):
        right = title in numbers
        table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=right)
    order = list(STYLES)
    shown = sorted(range(len(states)), key=lambda n: order.index(states[n].state) if most else n)[:most]
    for number in shown:
        state = states[number]
        begun = state.state != "waiting"
        until = time.time() if state.state == "running" else state.updated
        stage = state.error or "" if state.state == "failed" else "" if state.state in ENDED else state.stage
        facts = (
            f"{state.done}/{state.total}" if state.total and state.state not in ENDED else "",
            f"{state.calls:,}" if begun else "",
            f"${state.cost:.2f}" if begun else "",
            duration(until - state.started) if begun else "",
            duration(state.eta) if state.eta else "",
        )
        name = Text(state.state, STYLES[state.state])
        if wide:
            table.add_row(Text(titles[number]), name, Text(stage), *facts)
        else:  # one text for each run, which can be folded
            told = (
                f"{fact} {title}" if title in ("calls", "left") else fact for title, fact in zip(numbers, facts) if fact
            )
            table.add_row(Text(titles[number]), Text(", ").join([name, *map(Text, filter(None, (stage, *told)))]))
    if len(shown) < len(states):
        table.add_row(f"and {len(states) - len(shown)} more", style="dim")
    return Group(table, ", ".join(summary))


def results_of(sweep: Sweep) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Overrides and result of every run of *sweep* that is done, though it may be incomplete."""
    results = []
    for trial, state in zip(sweep.trials, sweep.states()):
        result = read_result(trial.folder) if state.state in ("done", "incomplete") else None
        if result is not None:
            results.append((trial.overrides, {**result, "folder": str(trial.folder)}))
    return results


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run that is done, else None."""
    from lantern.results.load import read_run

    try:
        return read_run(folder).result
    except UserError:
        return None
