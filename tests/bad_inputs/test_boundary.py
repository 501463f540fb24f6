"""What stops a command, whatever it is: one line, an exit code, and nothing of data that steers the terminal."""

from __future__ import annotations

import csv
import errno
import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from experiments.cli.console import command, screen
from lantern.errors import UserError
from lantern.files import atomic, write_json
from lantern.report.sinks.escaping import latex, markdown, printable, to_csv
from tests.bad_inputs.place import Place, tiny
from tests.processes import ROOT


def _raised(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    def main(_: list[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        command(main)
    return stop.value.code, capsys.readouterr().err


def _while_handling(first: BaseException, then: BaseException) -> BaseException:
    then.__context__ = first
    return then


STOPS = [
    (UserError("a\x1b[31m\nb\u202ec"), 2, r"error: a\x1b[31m b\u202ec"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on"),
    (BrokenPipeError(errno.EPIPE, "gone"), 1, ""),
    (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "error: runs/x: No space left on device; what was"),
    (OSError(errno.EFBIG, "File too large", "runs/x"), 2, "runs/x: File too large"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), 2, "x: Disk quota exceeded"),
    (OSError(errno.EROFS, "Read-only file system", "x"), 2, "x: Read-only file system"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied"),
    (
        _while_handling(OSError(errno.ENOSPC, "No space", "first"), OSError(errno.ENOSPC, "No space", "second")),
        2,
        "error: first: No space",
    ),
    (MemoryError(), 2, "the memory of this machine does not suffice"),
    ("\ud800".encode, 2, "text that cannot be read or written"),
    (RecursionError("maximum recursion depth exceeded"), 2, "a fault in Lantern, RecursionError"),
    (KeyError("x[/]"), 2, "a fault in Lantern, KeyError: 'x[/]'; see "),
]


@pytest.mark.parametrize(("error", "code", "told"), STOPS)
def test_whatever_stops_a_command_is_one_line(
    error: Any,
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not isinstance(error, BaseException):
        try:
            error()
        except UnicodeError as raised:
            error = raised
    found, err = _raised(error, capsys)
    assert found == code
    assert told in err
    assert len(err.strip().splitlines()) <= 1
    assert "Traceback" not in err
    logs = [path.read_text() for path in tmp_path.iterdir()]
    assert all("Traceback" in log or "Error" in log for log in logs)
    assert len(logs) == ("a fault" in told)


def test_text_of_data_does_not_steer_the_terminal() -> None:
    names = ["gl[/]ad", "[bold]x", "\x1b[31mred", "a\u202eb", ":smile:", "\x9b31m", "x\u2066y", "fine é 😀 \u200d"]
    console = screen()
    console.file = out = io.StringIO()
    table = Table(title="t [/b]")
    table.add_column("c [i]")
    for name in names:
        console.print(name)
        table.add_row(name)
    console.print(table)
    text = out.getvalue()
    for shown in (
        "gl[/]ad",
        "[bold]x",
        r"\x1b[31mred",
        r"a\u202eb",
        ":smile:",
        r"\x9b31m",
        r"x\u2066y",
        "fine é 😀 \u200d",
    ):
        assert text.count(shown) == 2, shown
    assert not {"\x1b", "\u202e", "\x9b", "\u2066"} & set(text)
    assert isinstance(console, Console)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝", "＋", "－", "＠"])
@pytest.mark.parametrize(
    "before", ["", " ", "  ", "\u00a0", "\u3000", "\ufeff", "\u200b", "\x0b", "\x00", "\t", "\r\n", "\n "]
)
def test_no_cell_and_no_head_of_a_table_is_a_formula(before: str, sign: str) -> None:
    text = f"{before}{sign}1+1"
    for cells in csv.reader(io.StringIO(to_csv([{text: text}], [text]), newline="")):
        assert cells == [f"'{text}".replace("\r\n", "\n")]


@pytest.mark.parametrize("text", ["a=b", "1-2", " x", "\u3000x", "5 - 3", "'=1", "", " ", "\u200d"])
def test_a_cell_that_is_no_formula_stays_as_it_is(text: str) -> None:
    rows = list(csv.reader(io.StringIO(to_csv([{"a": text, "b": -1}], ["a", "b"]), newline="")))
    assert rows[1] == [text, "-1"]


def test_each_sink_has_one_escaping() -> None:
    cells = ["=1+1", "+x", "-x", "@x", "\tx", "\rx", " =x", -1.5, -3, None, "a,b", 'q"', "plain", "x=1"]
    names = [f"c{n}" for n in range(len(cells))]
    read = list(csv.reader(io.StringIO(to_csv([dict(zip(names, cells, strict=True))], names), newline="")))[1]
    assert read == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "'\nx", "' =x", "-1.5", "-3", "", "a,b", 'q"', "plain", "x=1"]
    assert markdown("a|b\n`c` [d](e) \x1b") == r"a\|b \`c\` \[d\](e) \\x1b"
    assert latex("-1.5") == "$-1.5$"
    assert latex("-1\\input{x}") == r"-1\textbackslash{}input\{x\}"
    assert latex("[\\input x]") == r"[\textbackslash{}input x]"
    assert latex("a\nb") == "a b"
    assert printable("a\tb\n") == "a\tb\n"


def test_a_full_disk_names_the_file_that_matters(place: Place) -> None:
    where = place.at / "x.json"
    with pytest.raises(OSError, match="No space") as caught, atomic(where):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(where)
    write_json(where, 1)


@pytest.mark.parametrize("blocks", [1, 8, 40, 100, 200, 400])
def test_files_that_may_not_grow_are_one_line(blocks: int, place: Place) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * blocks, before[1]))
    try:
        code, out, err = place.call("run", *tiny(place.at, "backbone.hidden=48"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code in (0, 2), err
    assert "Traceback" not in err + out
    if code:
        assert err.count("\n") == 1, err
        assert str(place.at) in err, err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_an_output_that_takes_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.run", "--config"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left on device" in done.stderr


SLOW = """
import sys, time
from experiments.cli.console import command
def main(arguments):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(60)
command(main)
"""


def test_a_second_ctrl_c_leaves_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in ("ready\n", "tidying\n"):
            assert process.stdout.readline() == line
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=50) == 130
        err = process.stderr.read()
    assert "Traceback" not in err
    assert "left at once; what was done is kept" in err
