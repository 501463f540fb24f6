"""What a person sees: stages, progress bars, one-line errors. Quiet where the output is not a terminal."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from lantern.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.refine.types import Progress


_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
) | {errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EIO}
"""Errors of the machine or its file system rather than of the program."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake as every command does: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def command(main: Callable[[list[str]], int | None]) -> None:
    """Run *main* on the arguments; a user's mistake is one line and exit code 2, Ctrl-C is 130.

    So is a disk that is full or a place that may not be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the character shows a question mark
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        code = _refuse(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'interrupted; the same command goes on where it stopped'}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader has gone, and Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        code = _refuse(f"{where}{error.strerror}; what was done is kept, the same command goes on from there")
    sys.exit(code or 0)


def screen(width: int = 120) -> Console:
    """The terminal; where the output goes to a file, lines of *width* characters."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else width, highlight=False)


def _refuse(message: str) -> int:
    text = "".join(character if character.isprintable() else " " for character in message)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return 2


class ConsoleReporter:
    """Draws the progress of one run; implements :class:`lantern.pipeline.train.Reporter`."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.live = console.is_terminal
        columns = (TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.fields[text]}"))
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True) if self.live else None
        self._task: object = None
        self._last = self._notice = ""

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
        self.console.print(f"[bold]{title}[/bold]", highlight=False)

    def note(self, text: str) -> None:
        """One line about the current stage."""
        self._close()
        self.console.print(f"  {text}", highlight=False, markup=False)

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """An epoch ended."""
        text = f"epoch {epoch}/{epochs}"
        for key, short in (("train/loss", "loss"), ("val/accuracy", "dev acc"), ("val/weighted_f1", "dev wF1")):
            if key in metrics:
                text += f"  {short} {metrics[key]:.3f}"
        self._show("train", epoch, epochs, text)

    def asking(self, progress: Progress) -> None:
        """The LLM stage moved on."""
        if progress.notice and progress.notice != self._notice:
            self.console.print(f"  {progress.notice}", highlight=False, markup=False, soft_wrap=True)
            self._notice = progress.notice
        text = f"{progress.done}/{progress.total} fields, {progress.cached} from the ledger, {progress.failed} failed"
        text += f", ${progress.cost:.2f}" if progress.cost else ""
        text += f", about {duration(progress.eta)} left" if progress.eta else ""
        self._show("ask", progress.done, progress.total, text)

    def _show(self, description: str, done: int, total: int, text: str) -> None:
        self._last = text
        if self._bars is None:
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
            self.console.print(f"  {self._last}", highlight=False, markup=False)
        self._last = ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else (f"{minutes}m{rest:02d}s" if minutes else f"{rest}s")
