"""Processes that a test can kill, interrupt or let die: forked from one that has imported the libraries once.

A test of what a command imports, or of what it does before its imports, starts Python itself; so does one whose process
leaves servers behind, as Ray does: they keep a forked one from being over.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


def _become(command: Sequence[str], place: str, environment: Mapping[str, str], *outputs: Connection) -> None:
    """What ``python`` with the arguments *command* does: ``-m module ...`` or ``-c code ...``."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
        output.close()
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
    for name in os.environ.keys() - environment.keys():
        if not name.startswith("LITELLM_"):  # what Lantern has set when it imported litellm
            del os.environ[name]
    os.environ.update(environment)
    os.chdir(place)
    kind, what, *arguments = command
    sys.argv = [kind if kind == "-c" else what, *arguments]
    if kind == "-c":
        exec(what, {"__name__": "__main__"})
        return
    warnings.filterwarnings("ignore", message=".*found in sys.modules.*", category=RuntimeWarning)
    runpy.run_module(what, run_name="__main__", alter_sys=True)


class Forked:
    """A running process, used as a ``subprocess.Popen`` whose output is captured."""

    def __init__(self, command: Sequence[str], place: Path, environment: Mapping[str, str] | None) -> None:
        self.command = command
        self._said = ["", ""]
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in self._said]
        given = dict(os.environ if environment is None else environment)
        arguments = ([str(word) for word in command], str(place), given, *(write for _, write in pipes))
        self._process = _CONTEXT.Process(target=_become, args=arguments)
        self._process.start()
        self._readers = [threading.Thread(target=self._read, args=(n, read)) for n, (read, _) in enumerate(pipes)]
        for thread, (_, write) in zip(self._readers, pipes, strict=True):
            write.close()
            thread.start()
        atexit.register(self.kill)  # before multiprocessing waits for it

    def _read(self, number: int, pipe: Connection) -> None:
        with pipe, open(pipe.fileno(), encoding="utf-8", errors="replace", closefd=False) as file:
            for line in file:
                self._said[number] += line

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    @property
    def said(self) -> str:
        """What it has written to its standard output so far."""
        return self._said[0]

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(list(self.command), timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        for thread in self._readers:
            thread.join()
        return self._said[0], self._said[1]


def wait_until_gone(pids: Sequence[int]) -> None:
    """Wait until none of the processes *pids* runs any more."""
    end = time.monotonic() + 200
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)


def start(*command: object, place: Path = ROOT, environment: Mapping[str, str] | None = None) -> Forked:
    """A process that does what ``python`` with these arguments does: ``-m module ...`` or ``-c code ...``."""
    return Forked([str(word) for word in command], place, environment)


def done(
    *command: object, place: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As :func:`start`, when it has ended."""
    process = start(*command, place=place, environment=environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(list(process.command), process.wait(), out, err)
