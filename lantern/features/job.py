"""Extract the features of many utterances in several processes, without losing what is computed. No torch."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lantern.errors import UserError
from lantern.features.types import Extractor, Item, Recipe, Result, Unusable
from lantern.features.workers import Batch, batch, chunks, in_workers
from lantern.files import locked

_HARMLESS = (".wav", ".npy")
"""Files that no native decoder reads, so they cannot end this process."""
Progress = Callable[[int, int], None]
"""Called with the numbers of utterances done and in all."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a job made."""

    features: np.ndarray
    """float32 ``[N, D]``, zeros where *present* is False."""
    present: np.ndarray
    """bool ``[N]``."""
    unusable: dict[str, str]
    """The reason by utterance id, for those that have a source but no features."""
    reused: int
    """Utterances that an earlier, interrupted command had done."""


class Work:
    """Results so far, in an SQLite file that survives a kill; one command at a time holds it.

    A result counts while the *stamp* of its item, which represents the content of the source, stays the same.
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

        def refuse() -> None:
            raise UserError(f"another command is extracting into {self.path}; wait for it or stop it")

        with locked(self._lock_path, refuse):
            try:
                self._db = sqlite3.connect(self.path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS results (row INTEGER PRIMARY KEY, stamp TEXT, vector BLOB)"
                )
            except sqlite3.Error as error:
                raise UserError(f"{self.path}: {error}; delete it to start again") from None
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
        """Keep the vectors of a batch. Unusable items are tried again: perhaps the disk was only unavailable."""
        rows = [
            (item.row, stamp, np.ascontiguousarray(result, dtype=np.float32).tobytes())
            for item, stamp, result in zip(items, stamps, results, strict=True)
            if not isinstance(result, Unusable)
        ]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def remove(self) -> None:
        """Delete everything: the features are in the corpus folder."""
        self._db.close()
        for path in (*(Path(f"{self.path}{end}") for end in ("", "-wal", "-shm")), self._lock_path):
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
    """Extract *items* out of *count* utterances in *jobs* processes, except those that *work* holds.

    *extractor* was built from *recipe*; worker processes build their own.

    Raises:
        UserError: vectors of different sizes, no vector at all, processes that die.
    """
    results: dict[int, Result] = {**work.done(items)}
    reused = len(results)
    todo = [item for item in items if item.row not in results]
    for chunk, stamps, made in _extract(recipe, extractor, todo, jobs):
        work.put(chunk, stamps, made)
        results.update({item.row: result for item, result in zip(chunk, made, strict=True)})
        if progress is not None:
            progress(len(results), len(items))
    vectors: dict[Item, np.ndarray] = {}
    unusable: dict[str, str] = {}
    for item in items:
        result = results[item.row]
        if isinstance(result, Unusable):
            unusable[item.id] = result.reason
        else:
            vectors[item] = result
    if not vectors:
        work.remove()
        reasons = "; ".join(f"{i}: {reason}" for i, reason in list(unusable.items())[:3])
        raise UserError(f"no utterance could be used ({reasons})")
    first, dims = next((item.id, len(vector)) for item, vector in vectors.items())
    features, present = np.zeros((count, dims), dtype=np.float32), np.zeros(count, dtype=bool)
    for item, vector in vectors.items():
        if len(vector) != dims:
            raise UserError(
                f"features of {item.id!r} ({item.path}) have {len(vector)} dimensions, those of {first!r} have {dims}; "
                "all must have the same"
            )
        features[item.row], present[item.row] = vector, True
    return Extracted(features, present, unusable, reused)


def _extract(recipe: Recipe, extractor: Extractor, items: Sequence[Item], jobs: int) -> Iterator[Batch]:
    if jobs == 1 and all(item.path is None or item.path.suffix.lower() in _HARMLESS for item in items):
        return (batch(extractor, chunk) for chunk in chunks(items, extractor.batch))
    return in_workers(recipe, items, extractor.batch, jobs)
