"""Files written whole or not at all, locks between processes, digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.errors import UserError


def digest(inputs: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of *inputs*."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_place(key: str, path: Path, folder: bool) -> None:
    """Refuse a *path* at which no *folder*, or no file, could be written; makes nothing."""
    wrong = None
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there == path and folder != path.is_dir():
            wrong = "is a file; name a folder" if folder else "is a folder; name a file"
        elif there != path and not there.is_dir():
            wrong = f"cannot be made: {there} is a file"
        elif not os.access(there, os.W_OK):
            wrong = f"cannot be written: {there} is read-only for you"
    except (OSError, ValueError) as error:
        wrong = f"cannot be used ({getattr(error, 'strerror', None) or error})"
    if wrong is not None:
        raise UserError(f"{key}={path} {wrong}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the machine in this block name *path*, where they would name no file or one under construction."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(f"{path}.partial"):
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A file to write in place of *path*, which takes its name once it is whole and on disk.

    A reader sees the old file or the whole new one; on an error the old one stays and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    with naming(path):
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The value that the JSON file *path* holds, without NaN and other numbers that JSON does not have.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, is not JSON, or is nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from None


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of a shape that may be missing or null."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Absent:
    """A value of a shape that may be missing, but not null."""

    shape: Any


@dataclass(frozen=True, slots=True)
class OrNull:
    """A value of a shape that may be null, but not missing."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Each:
    """An object whose values all have one shape, whatever their names."""

    shape: Any


NUMBER, COUNT, TIME, TEXT = "a number", "a count", "seconds", "a text"
_KINDS: dict[str, Callable[[Any], bool]] = {
    NUMBER: lambda value: type(value) in (int, float) and abs(value) < 1e300,
    COUNT: lambda value: type(value) is int and 0 <= value < 2**53,
    TEXT: lambda value: isinstance(value, str),
    TIME: lambda value: type(value) in (int, float) and 0 <= value < 1e11,
}


def misfit(value: Any, shape: Any, at: str = "") -> str | None:
    """Where *value*, which comes from a file, does not have *shape*, and what it must be there; None where it has.

    A shape is :data:`NUMBER` and its like, a list ``[shape]``, a dict of the keys that are needed, :class:`Maybe`,
    :class:`Absent`, :class:`OrNull` or :class:`Each`.
    """
    if isinstance(shape, Maybe | OrNull):
        return None if value is None else misfit(value, shape.shape, at)
    if isinstance(shape, Absent):
        return misfit(value, shape.shape, at)
    if isinstance(shape, str):
        return None if _KINDS[shape](value) else f"{at} is {_brief(value)}, expected {shape}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at} is {_brief(value)}, expected a list"
        parts = ((one, shape[0], f"{at}[{number}]") for number, one in enumerate(value))
    elif not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return f"{at or 'it'} is {_brief(value)}, expected an object"
    else:
        dot = f"{at}." if at else ""
        if isinstance(shape, dict):
            gone = [key for key in shape if key not in value]
            missing = next((key for key in gone if not isinstance(shape[key], Maybe | Absent)), None)
            if missing is not None:
                return f"no {dot}{missing}"
            parts = ((value[key], of, f"{dot}{key}") for key, of in shape.items() if key in value)
        else:
            parts = ((one, shape.shape, f"{dot}{key}") for key, one in value.items())
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)


def _brief(value: Any) -> str:
    text = repr(value) if value is None or isinstance(value, str | float | bool) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}…"


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def write_json(path: Path, value: Any) -> None:
    """Write *value* atomically; NaN is refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def append_line(path: Path, entry: dict[str, Any], number: str | None = None) -> int:
    """Append *entry* to *path* as a JSON line, one process at a time; returns how many lines there were before.

    *number*: the key under which the entry holds that count, too.
    """
    with (
        locked(path.with_name(f"{path.name}.lock")),
        naming(path),
        path.open("a+", encoding="utf-8", errors="replace") as file,
    ):
        file.seek(0)
        before = sum(1 for _ in file)
        file.write(json.dumps(entry if number is None else {**entry, number: before}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return before


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file *path*; it is free again when the process ends, however it ends.

    *waiting* is called once where another process holds it.

    Raises:
        UserError: the folder cannot be written, or its file system has no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"runs: cannot write to {path.parent} or lock files there ({reason})") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file *path*."""
    from filelock import FileLock, Timeout

    if not path.is_file():
        return False
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
