"""The progress of a run: reported to the terminal and kept in its folder, for the sweep's table or another machine."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lantern.errors import UserError
from lantern.files import COUNT, NUMBER, TEXT, TIME, Maybe, is_locked, misfit, read_json

if TYPE_CHECKING:
    from lantern.refine.types import Progress

FILE, LOCK = "progress.json", "lock"
_SECONDS = 0.5
SILENCE = 30.0
"""Seconds after which a log gets a line about a stage that goes on."""
HASTE = 1.0
"""Seconds between two lines of a log about a stage, at least."""
log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Receives the progress of a run; ``experiments/`` draws it."""

    def stage(self, title: str) -> None:
        """A stage begins."""

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """An epoch of *epochs* ended."""

    def asking(self, progress: Progress) -> None:
        """The LLM refined more fields."""

    def note(self, text: str) -> None:
        """One line about the current stage."""


@dataclass(frozen=True, slots=True)
class RunState:
    """State of one run."""

    state: str
    """``waiting`` (not started), ``running``, ``done``, ``incomplete`` (too few replies), ``failed`` or
    ``interrupted``."""
    stage: str = ""
    done: int = 0
    total: int = 0
    """Epochs or prompts of the stage; 0 where it does not count."""
    calls: int = 0
    cost: float = 0.0
    """Dollars that the calls of this run have cost."""
    eta: float | None = None
    """Seconds to the end of the stage, None while unknown."""
    started: float = 0.0
    updated: float = 0.0
    error: str | None = None


class Meter:
    """How far one stage is: what can be said of it, whether a log needs a line now, how long the rest takes."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._tenth, self._said = 0, time.monotonic()

    def due(self, done: int, total: int) -> bool:
        """Whether another tenth of *total* is done since the last line, or that is half a minute old."""
        tenth, now = 10 * done // total if total else 0, time.monotonic()
        if now - self._said < (HASTE if tenth > self._tenth else SILENCE):
            return False
        self._tenth, self._said = tenth, now
        return True

    def left(self, done: int, total: int) -> float | None:
        """Seconds to the end of the stage, at the pace since the first call; None while unknown.

        What came before that, such as imports and the epochs of an earlier process, says nothing about the pace.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        before, began = self._first
        return (now - began) / (done - before) * (total - done) if done > before else None

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> str:
        """One line about a training after *epoch* of *epochs*."""
        text = f"epoch {epoch}/{epochs}"
        for key, short in (("train/loss", "loss"), ("val/accuracy", "dev acc"), ("val/weighted_f1", "dev wF1")):
            if key in metrics:
                text += f"  {short} {metrics[key]:.3f}"
        return text + _rest(self.left(epoch, epochs))

    def asking(self, progress: Progress) -> str:
        """One line about the fields that the LLM has refined."""
        text = f"{progress.done}/{progress.total} fields, {progress.cached} from the ledger, {progress.failed} failed"
        return text + (f", ${progress.cost:.2f}" if progress.cost else "") + _rest(progress.eta)


def _rest(seconds: float | None) -> str:
    return f", about {duration(seconds)} left" if seconds and seconds >= 0.5 else ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else (f"{minutes}m{rest:02d}s" if minutes else f"{rest}s")


STATES = ("waiting", "running", "done", "incomplete", "failed", "interrupted")
_SHAPE = {
    "state": TEXT,
    **{name: Maybe(TEXT) for name in ("stage", "error")},
    **{name: Maybe(COUNT) for name in ("done", "total", "calls")},
    **{name: Maybe(TIME) for name in ("eta", "started", "updated")},
    "cost": Maybe(NUMBER),
}


def read_state(folder: Path) -> RunState:
    """The state of the run in *folder*; a run whose process ended early is ``interrupted``."""
    try:
        given = read_json(folder / FILE)
    except (OSError, UserError):
        return RunState("waiting")
    if misfit(given, _SHAPE) or given["state"] not in STATES:
        return RunState("waiting")
    state = RunState(**{f.name: given[f.name] for f in fields(RunState) if given.get(f.name) is not None})
    return replace(state, state="interrupted") if state.state == "running" and not is_locked(folder / LOCK) else state


def record_failure(folder: Path, error: Exception) -> None:
    """Record in *folder* that its run failed before it started."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    _write(folder, RunState("failed", started=time.time(), updated=time.time(), error=_message(error)))


def record_done(folder: Path) -> None:
    """Record that the run in *folder* is done, where its process ended between the result and this record."""
    state = read_state(folder)
    if state.state != "done":
        _write(folder, replace(state, state="done", error=None, eta=None, updated=time.time()))


@contextmanager
def recorded(folder: Path, reporter: Reporter | None) -> Iterator[Recorder]:
    """A reporter that passes everything on to *reporter* and keeps the state of the run in *folder* up to its end."""
    recorder = Recorder(folder, reporter)
    try:
        yield recorder
    except KeyboardInterrupt:
        recorder.end("interrupted")
        raise
    except BaseException as error:
        recorder.end("failed", _message(error))
        raise
    recorder.end(recorder.outcome)


class Recorder:
    """A reporter that writes ``progress.json``, at most twice a second, logs what it says, and passes everything on."""

    def __init__(self, folder: Path, reporter: Reporter | None) -> None:
        self.folder, self.reporter = folder, reporter
        self.outcome = "done"
        """State of the run where it ends without an error."""
        self._state = RunState("running", started=time.time())
        self._before = (0, 0.0)
        self._current = (0, 0.0)
        self._meter, self._last, self._notice = Meter(), "", ""
        self._put(soon=True)

    def stage(self, title: str) -> None:
        self._log(title)
        self._meter = Meter()
        self._before = (self._before[0] + self._current[0], self._before[1] + self._current[1])
        self._current = (0, 0.0)
        self._put(soon=True, stage=title, done=0, total=0, eta=None)
        if self.reporter is not None:
            self.reporter.stage(title)

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self._put(done=epoch, total=epochs, eta=self._meter.left(epoch, epochs))
        self._move(epoch, epochs, self._meter.training(epoch, epochs, metrics))
        if self.reporter is not None:
            self.reporter.training(epoch, epochs, metrics)

    def asking(self, progress: Progress) -> None:
        self._current = (progress.calls, progress.cost)
        calls, cost = self._before
        self._put(
            done=progress.done,
            total=progress.total,
            calls=calls + progress.calls,
            cost=cost + progress.cost,
            eta=progress.eta,
        )
        if progress.notice and progress.notice != self._notice:
            self._notice = progress.notice
            log.info("  %s", progress.notice)
        self._move(progress.done, progress.total, self._meter.asking(progress))
        if self.reporter is not None:
            self.reporter.asking(progress)

    def note(self, text: str) -> None:
        """One line about the current stage."""
        self._log(f"  {text}")
        if self.reporter is not None:
            self.reporter.note(text)

    def end(self, state: str, error: str | None = None) -> None:
        """The run is over."""
        self._put(soon=True, state=state, error=error, eta=None)

    def _log(self, text: str) -> None:
        if self._last:
            log.info("  %s", self._last)
        self._last = ""
        log.info("%s", text)

    def _move(self, done: int, total: int, text: str) -> None:
        self._last = text
        if self._meter.due(done, total):
            log.info("  %s", text)
            self._last = ""

    def _put(self, soon: bool = False, **changes: object) -> None:
        now, last = time.time(), self._state.updated
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]
        if soon or now - last >= _SECONDS:
            self._state = replace(self._state, updated=now)
            _write(self.folder, self._state)


def _write(folder: Path, state: RunState) -> None:
    # Not flushed to disk: after a power cut the result counts, not how far a run was.
    partial = folder / f"{FILE}.partial{os.getpid()}"
    try:
        partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
        partial.replace(folder / FILE)
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk is reported by what matters


def _message(error: BaseException) -> str:
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error} (see run.log)"
    return " ".join(text.split())
