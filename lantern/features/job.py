"""Extract the features of many utterances: several processes, and nothing computed is lost. No torch."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from lantern.errors import UserError
from lantern.features.registry import build
from lantern.features.types import Extractor, Item, Recipe, Result, Unusable

Progress = Callable[[int, int], None]
"""Told how many of how many utterances are done."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a job made."""

    features: np.ndarray
    """float32 ``[N, D]``, zeros where *present* is False."""
    present: np.ndarray
    """bool ``[N]``."""
    unusable: dict[str, str]
    """Why, by utterance id, of those that had a source and came to nothing."""
    reused: int
    """Utterances that an earlier, interrupted command had done."""


class Work:
    """Results so far, in an SQLite file that outlives a kill; one command at a time holds it.

    A result counts while the *stamp* of its item, which stands for the content of the source, stays the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")

    @contextmanager
    def open(self) -> Iterator[Work]:
        """Hold the file.

        Raises:
            UserError: another command holds it, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._lock_path.open("w")
        except OSError as error:
            raise UserError(f"{self.path.parent} cannot be written: {error.strerror or error}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another command is extracting into {self.path}; wait for it or stop it") from None
            try:
                self._db = sqlite3.connect(self.path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS results (row INTEGER PRIMARY KEY, stamp TEXT, vector BLOB)"
                )
            except sqlite3.Error as error:
                raise UserError(f"{self.path}: {error}; delete it to begin anew") from None
            try:
                yield self
            except sqlite3.Error as error:
                raise UserError(f"{self.path}: {error}") from None
            finally:
                self._db.close()

    def done(self, items: Sequence[Item]) -> dict[int, np.ndarray]:
        """Vectors by row of those *items* whose source is still the same."""
        stamps = {item.row: item.stamp for item in items}
        kept = self._db.execute("SELECT row, stamp, vector FROM results")
        return {row: np.frombuffer(vector, np.float32) for row, stamp, vector in kept if stamps.get(row) == stamp}

    def put(self, items: Sequence[Item], stamps: Sequence[str], results: Sequence[Result]) -> None:
        """Keep the vectors of a batch. What was unusable is tried again: perhaps only the disk was away."""
        rows = [
            (item.row, stamp, np.ascontiguousarray(result, dtype=np.float32).tobytes())
            for item, stamp, result in zip(items, stamps, results, strict=True)
            if not isinstance(result, Unusable)
        ]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def remove(self) -> None:
        """Forget everything: the features are where they belong."""
        self._db.close()
        for path in (
            self.path,
            *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm")),
            self._lock_path,
        ):
            path.unlink(missing_ok=True)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def run_job(
    work: Work,
    recipe: Recipe,
    extractor: Extractor,
    items: Sequence[Item],
    count: int,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Extracted:
    """Extract *items* out of *count* utterances in *jobs* processes, going on from what *work* holds.

    *extractor* is what *recipe* makes; other processes make their own.

    Raises:
        UserError: vectors of different sizes, no vector at all, a worker that died.
    """
    results: dict[int, Result] = {**work.done(items)}
    reused = len(results)
    todo = [item for item in items if item.row not in results]
    for chunk, stamps, found in _extract(recipe, extractor, todo, jobs):
        work.put(chunk, stamps, found)
        results.update({item.row: result for item, result in zip(chunk, found, strict=True)})
        if progress is not None:
            progress(len(results), len(items))
    if all(isinstance(result, Unusable) for result in results.values()):
        work.remove()
        told = [f"{item.id}: {result.reason}" for item in items if isinstance(result := results[item.row], Unusable)]
        raise UserError(f"no utterance could be used ({'; '.join(told[:3])})")
    return _collect(items, results, count, reused)


def _collect(items: Sequence[Item], results: dict[int, Result], count: int, reused: int) -> Extracted:
    unusable: dict[str, str] = {}
    vectors: dict[int, np.ndarray] = {}
    first: tuple[str, int] | None = None
    for item in items:
        result = results[item.row]
        if isinstance(result, Unusable):
            unusable[item.id] = result.reason
            continue
        first = first or (item.id, len(result))
        if len(result) != first[1]:
            raise UserError(
                f"features of {item.id!r} ({item.path}) have {len(result)} dimensions, those of {first[0]!r} have "
                f"{first[1]}; all must have the same"
            )
        vectors[item.row] = result
    features, present = np.zeros((count, first[1] if first else 0), dtype=np.float32), np.zeros(count, dtype=bool)
    for row, vector in vectors.items():
        features[row], present[row] = vector, True
    return Extracted(features, present, unusable, reused)


_Batch = tuple[list[Item], list[str], list[Result]]


def _extract(recipe: Recipe, extractor: Extractor, items: Sequence[Item], jobs: int) -> Iterator[_Batch]:
    if not items:
        return
    if jobs == 1:
        for chunk in _chunks(items, extractor.batch):
            yield _batch(extractor, chunk)
        return
    # Not forked: a process with threads, which numerical libraries start, may hang in its copy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(recipe,))
    try:
        yield from pool.map(_in_worker, _chunks(items, extractor.batch))
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps for want of memory; the same command goes on where it stopped, try fewer "
            "with --jobs"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _batch(extractor: Extractor, chunk: list[Item]) -> _Batch:
    # Before the content is read: what changes meanwhile is extracted again next time.
    stamps = [item.stamp for item in chunk]
    return chunk, stamps, extractor.extract(chunk)


_worker: list[Extractor] = []


def _begin_worker(recipe: Recipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and stops the workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker.append(build(recipe))


def _follow_parent() -> None:
    """End with the parent, even if that was killed: nobody would take the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _in_worker(chunk: list[Item]) -> _Batch:
    return _batch(_worker[0], chunk)
