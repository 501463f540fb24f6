"""What a person sees: stages, progress bars, one-line errors. A log has a line for every tenth or half minute."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from lantern.errors import UserError
from lantern.report.sinks.escaping import printable
from lantern.results.progress import Meter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lantern.refine.types import Progress


_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
) | {errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}
"""Errors of the machine or its file system rather than of the program."""
_AGAIN = "what was done is kept, the same command goes on from there"


class Parser(argparse.ArgumentParser):
    """Reports a mistake as every command does: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def command(main: Callable[[list[str]], int | None]) -> None:
    """Run *main* on the arguments. Whatever stops it is one line: exit code 130 for Ctrl-C and ``kill``, 1 for a reader
    that has gone, else 2.

    A fault of Lantern's own is one line too, which names the file with its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the character shows a question mark
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is not what stopped the command
    _stop_at_signals()
    try:
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  here everything becomes a line
        code, line = _ended(error)
        with contextlib.suppress(OSError):
            print(line, end="", file=sys.stderr)
        if isinstance(error, OSError):
            _drop_output()
    sys.exit(code or 0)


def _stop_at_signals() -> None:
    """``kill`` stops as Ctrl-C does (Lightning alone waits for the next batch); the second one at once."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise KeyboardInterrupt
        # Nothing is tidied up: what is saved is whole at every moment, as after kill -9.
        os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"\n")
        os.write(2, f"left at once; {_AGAIN}\n".encode())
        os._exit(130)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)


def _drop_output() -> None:
    """Where nobody takes the output any more, Python would complain again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ended(error: BaseException) -> tuple[int, str]:
    """Exit code, and what is said on stderr."""
    if isinstance(error, UserError):
        return 2, _line(str(error))
    if isinstance(error, KeyboardInterrupt):
        return 130, f"\n{printable(str(error)) or 'interrupted; the same command goes on where it stopped'}\n"
    if isinstance(error, BrokenPipeError):
        return 1, ""
    machine = _first(error)
    if machine is not None:
        where = "" if machine.filename is None else f"{os.fsdecode(machine.filename)}: "
        return 2, _line(f"{where}{machine.strerror}; {_AGAIN}")
    if isinstance(error, MemoryError):
        return 2, _line(f"the memory of this machine does not suffice; {_AGAIN}")
    if isinstance(error, UnicodeError):
        return 2, _line(f"text that cannot be read or written: {error}")
    return 2, _line(f"a fault in Lantern, {type(error).__name__}: {str(error)[:200]}; see {_traceback(error)}")


def _first(error: BaseException) -> OSError | None:
    """The first error of the machine among those that led to *error*: what follows it on a full disk misleads."""
    found: OSError | None = None
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, OSError) and at.errno in _MACHINE and (found is None or at.filename is not None):
            found = at
        elif found is None and not isinstance(at, OSError):
            return None  # an error of another kind that was raised while one of the machine was handled
        at = at.__cause__ or at.__context__
    return found


def _traceback(error: BaseException) -> str:
    """The file that holds the traceback of *error*: the log of its run, or one made here."""
    log = getattr(error, "run_log", None)
    if log is not None:
        return str(log)
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="lantern-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(text.encode("utf-8", "replace").decode())
        return file.name
    except OSError:
        return "run.log"


def _line(message: str) -> str:
    return f"error: {' '.join(printable(message).split())}\n"


def screen(width: int = 120) -> Console:
    """The terminal; where the output goes to a file, lines of *width* characters.

    What is printed is text, never markup, and text of data cannot steer the terminal.
    """
    from rich.console import Console

    class Screen(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return Screen(width=None if os.isatty(1) else width, highlight=False, markup=False, emoji=False)


def begin() -> None:
    """Say that something happens, before the imports that take seconds."""
    print("reading settings", flush=True)


class ConsoleReporter:
    """Shows the progress of one run; implements :class:`lantern.results.progress.Reporter`.

    On a terminal as bars, elsewhere as a line for every tenth of a stage and every half minute.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.live = console.is_terminal
        columns = (TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.fields[text]}", markup=False))
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True) if self.live else None
        self._task: object = None
        self._last = self._notice = ""
        self._meter = Meter()

    def __enter__(self) -> ConsoleReporter:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._bars is not None:
            self._bars.stop()

    def stage(self, title: str) -> None:
        """A new stage begins."""
        self._close()
        self._meter = Meter()
        self.console.print(title, style="bold")
        self.console.file.flush()

    def note(self, text: str) -> None:
        """One line about the current stage."""
        self._close()
        self.console.print(f"  {text}")

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """An epoch ended."""
        self._show("train", epoch, epochs, self._meter.training(epoch, epochs, metrics))

    def asking(self, progress: Progress) -> None:
        """The LLM stage moved on."""
        if progress.notice and progress.notice != self._notice:
            self.console.print(f"  {progress.notice}", soft_wrap=True)
            self._notice = progress.notice
        self._show("ask", progress.done, progress.total, self._meter.asking(progress))

    def _show(self, description: str, done: int, total: int, text: str) -> None:
        self._last = text
        if self._bars is None:
            if self._meter.due(done, total):
                self.console.print(f"  {text}", soft_wrap=True)
                self.console.file.flush()  # a log that is looked at while the run goes on
                self._last = ""
            return
        if self._task is None:
            self._task = self._bars.add_task(description, total=total, text=text)
        self._bars.update(self._task, completed=done, total=total, text=text)  # type: ignore[arg-type]

    def _close(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)  # type: ignore[arg-type]
            self._bars.refresh()  # else the next line is printed above the bar's last picture
        self._task = None
        if self._last:
            self.console.print(f"  {self._last}")
        self._last = ""
