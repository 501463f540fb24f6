"""How a sweep looks on the terminal: a line for each run that ends, and a live table of those that do not yet."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from experiments.console import duration
from lantern.results.sweep import Sweep

if TYPE_CHECKING:
    from rich.console import Console, Group

    from lantern.results.progress import RunState

STYLES = {"done": "green", "failed": "red", "running": "bold", "interrupted": "yellow", "waiting": "dim"}
_ORDER = ("running", "failed", "interrupted", "done", "waiting")


class SweepView:
    """Tells of the runs of a sweep while they take place, here, in other processes or on other machines."""

    def __init__(self, console: Console, sweep: Sweep) -> None:
        self.console, self.sweep = console, sweep
        self.titles = sweep.titles()
        self.states = self._first = sweep.states()
        self.began = time.time()
        self._told: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep-view", daemon=True)
        self._live: Any = None

    @property
    def failed(self) -> int:
        """Runs that have failed or were never done."""
        return sum(state.state != "done" for state in self.states)

    def __enter__(self) -> SweepView:
        from rich.live import Live

        finished = sum(state.state == "done" for state in self.states)
        before = f", {finished} of them finished before" if finished else ""
        self.console.print(f"{self.sweep.name}: {len(self.states)} runs{before}")
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._look()

    def _look(self) -> None:
        self.states = self.sweep.states()
        for number, (state, first) in enumerate(zip(self.states, self._first)):
            if state.state in ("done", "failed") and state != first and number not in self._told:
                self._told.add(number)
                self._tell(number, state)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _tell(self, number: int, state: RunState) -> None:
        head = f"{number + 1}/{len(self.states)}  {self.titles[number]}: "
        if state.state == "failed":
            self.console.print(f"{head}error: {state.error}", style="red", markup=False, soft_wrap=True)
            return
        spent = f"{state.calls:,} calls, ${state.cost:.2f}, {duration(state.updated - state.started)}"
        self.console.print(f"{head}{_gain(_metrics(self.sweep, number))}{spent}", markup=False, soft_wrap=True)

    def _table(self) -> Group:
        new = [s for s, first in zip(self.states, self._first) if s.state in ("done", "failed") and s != first]
        ended = sum(state.state in ("done", "failed") for state in self.states)
        left = None
        if new:
            left = (time.time() - self.began) / len(new) * (len(self.states) - ended)
        return state_table(self.titles, self.states, most=max(4, self.console.height - 6), left=left)


def state_table(
    titles: Sequence[str], states: Sequence[RunState], most: int | None = None, left: float | None = None
) -> Group:
    """The runs of a sweep, at most *most* of them, those under way first; *left*: seconds to the end, where known."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text  # not markup: a line printed above a live table may have it switched off

    counts = {name: sum(state.state == name for state in states) for name in _ORDER}
    told = [f"{count} {name}" for name, count in counts.items() if count]
    told += [f"{sum(s.calls for s in states):,} calls", f"${sum(s.cost for s in states):.2f}"]
    if left:
        told.append(f"about {duration(left)} left")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", max_width=60)
    for title in ("state", "stage", "progress", "calls", "spent", "time", "left"):
        table.add_column(title, justify="left" if title in ("state", "stage") else "right", no_wrap=title != "stage")
    numbers = sorted(range(len(states)), key=lambda n: _ORDER.index(states[n].state)) if most else range(len(states))
    shown = list(numbers)[:most]
    for number in shown:
        state = states[number]
        begun = state.state != "waiting"
        until = time.time() if state.state == "running" else state.updated
        stage = state.error or "" if state.state == "failed" else "" if state.state == "done" else state.stage
        table.add_row(
            Text(titles[number]),
            Text(state.state, STYLES[state.state]),
            Text(stage),
            f"{state.done}/{state.total}" if state.total and state.state != "done" else "",
            f"{state.calls:,}" if begun else "",
            f"${state.cost:.2f}" if begun else "",
            duration(until - state.started) if begun else "",
            duration(state.eta) if state.eta else "",
        )
    if len(shown) < len(states):
        table.add_row(Text(f"and {len(states) - len(shown)} more", "dim"))
    return Group(table, Text(", ".join(told)))


def results_of(sweep: Sweep) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Overrides and result of every run of *sweep* that is done."""
    found = []
    for number, (trial, state) in enumerate(zip(sweep.trials, sweep.states())):
        result = _metrics(sweep, number) if state.state == "done" else None
        if result is not None:
            found.append((trial.overrides, {**result, "folder": str(trial.folder)}))
    return found


def _metrics(sweep: Sweep, number: int) -> dict[str, Any] | None:
    try:
        return json.loads((sweep.trials[number].folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _gain(result: dict[str, Any] | None) -> str:
    from lantern.results.scores import WEIGHTED

    if result is None:
        return ""
    methods = result["test"]["methods"]
    vanilla = 100 * methods["vanilla"]["accuracy"]
    if WEIGHTED not in methods:
        return f"vanilla {vanilla:.1f}; "
    weighted = 100 * methods[WEIGHTED]["accuracy"]
    return f"vanilla {vanilla:.1f}, weighted {weighted:.1f} ({weighted - vanilla:+.1f}); "
