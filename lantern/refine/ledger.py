"""The durable store of every LLM request, reply, usage, cost and failure. The only floor that knows SQLite."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lantern.errors import UserError
from lantern.refine import ledger_rows as rows
from lantern.refine.ledger_rows import Prune
from lantern.refine.types import Failure, Outcome, Price, Reply, Request

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

QUICK_CHECK_BYTES = 64 * 2**20
"""Files up to this size are checked whenever they are opened (a fraction of a second)."""

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process; a forked child must neither use nor close them."""


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """What a ledger holds."""

    answers: int = 0
    settled_failures: int = 0
    """Paid replies whose content could not be used; not asked again."""
    failed_attempts: int = 0
    """Attempts without a reply; these are asked again by the next run."""
    failures: dict[str, int] = field(default_factory=dict)
    """All failures by kind."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """Dollars over all rows whose price is known."""
    unpriced: int = 0
    """Paid rows whose price is not known."""
    claims: int = 0
    """Requests in flight right now."""
    models: dict[str, int] = field(default_factory=dict)
    """Answers by the model string that the provider reported."""
    first: float | None = None
    """Unix time of the oldest answer, of the newest below; None without answers."""
    last: float | None = None


class Ledger:
    """One SQLite file (WAL, synchronous FULL), usable by any number of threads and processes at once.

    What a method has stored survives a killed process and a power failure. After a fork the child opens its own
    connection.

    Raises:
        UserError: the file is no ledger, damaged, from a newer Lantern, read-only, locked, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str], busy_timeout: float = 60.0) -> None:
        self.path = Path(path)
        self.busy_timeout = busy_timeout
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = None
        with self._guard():
            self._connection()

    # -- opening

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the ledger's folder {self.path.parent} cannot be made: {error.strerror}; set refine.ledger"
            ) from None
        if self.path.is_dir():
            raise UserError(f"refine.ledger={self.path} is a folder; name a file in it")
        db = sqlite3.connect(self.path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            self._check(db)
            self._settings(db)
            db.execute("BEGIN IMMEDIATE")
            for statement in rows.SCHEMA:
                db.execute(statement)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _settings(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Two processes that make the same new file: SQLite reports this lock without waiting.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        db.execute("PRAGMA synchronous = FULL")

    def _check(self, db: sqlite3.Connection) -> None:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return
        about = dict(db.execute("SELECT name, value FROM ledger")) if "ledger" in tables else {}
        if about.get("format") != "lantern-ledger":
            raise UserError(
                f"{self.path} is an SQLite file but not a Lantern ledger; set refine.ledger to another path"
            )
        if int(about.get("version", "0")) > rows.VERSION:
            raise UserError(
                f"the ledger {self.path} has format {about['version']}, this Lantern reads up to {rows.VERSION}; "
                "update Lantern or set refine.ledger to another path"
            )
        if self.path.stat().st_size <= QUICK_CHECK_BYTES:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise rows.damaged(self.path, " ".join(str(found).split())[:200])

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the lock, follow a fork, and turn SQLite's errors into :class:`UserError`."""
        if self._pid != os.getpid():
            if self._db is not None:
                _inherited.append(self._db)
            self._pid, self._db, self._lock = os.getpid(), None, threading.RLock()
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise rows.explain(error, self.path) from None
            except rows.DamagedRow as error:
                raise rows.damaged(self.path, f"the reply to request {error} is not what was stored") from None

    # -- many operations, one transaction

    def apply(self, operations: Sequence[Operation]) -> list[Any]:
        """Run *operations* in one transaction; durable when this returns, undone altogether when it raises."""
        with self._guard():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                results = [operation(db) for operation in operations]
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return results

    def _one(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        result: T = self.apply([operation])[0]
        return result

    # -- reading

    def get(self, key: str) -> Outcome | None:
        """The answer or the settled failure for *key*; None when it has still to be asked."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """As :meth:`get`, for many keys; those that have still to be asked are left out."""
        with self._guard():
            return rows.read(self._connection(), keys)

    def free(self, keys: Sequence[str]) -> list[str]:
        """Those of *keys* that no living process is asking at present."""
        with self._guard():
            return rows.free(self._connection(), keys)

    def stats(self) -> LedgerStats:
        """Counts, tokens and dollars of everything stored."""
        with self._guard():
            db = self._connection()
            kinds = dict(db.execute("SELECT kind, COUNT(*) FROM failures GROUP BY kind ORDER BY kind"))
            settled = db.execute("SELECT COUNT(*) FROM failures WHERE settled = 1").fetchone()[0]
            paid = "SELECT input, cached_input, output, cost FROM {} WHERE text IS NOT NULL"
            total = db.execute(
                "SELECT SUM(input), SUM(cached_input), SUM(output), SUM(cost), SUM(cost IS NULL) FROM "
                f"({paid.format('answers')} UNION ALL {paid.format('failures')})"
            ).fetchone()
            models = dict(
                db.execute("SELECT COALESCE(model, 'unknown'), COUNT(*) FROM answers GROUP BY 1 ORDER BY 2 DESC")
            )
            first, last = db.execute("SELECT MIN(created), MAX(created) FROM answers WHERE created > 0").fetchone()
            return LedgerStats(
                models=models,
                first=first,
                last=last,
                answers=db.execute("SELECT COUNT(*) FROM answers").fetchone()[0],
                settled_failures=settled,
                failed_attempts=sum(kinds.values()) - settled,
                failures=kinds,
                input_tokens=total[0] or 0,
                cached_input_tokens=total[1] or 0,
                output_tokens=total[2] or 0,
                cost=total[3] or 0.0,
                unpriced=total[4] or 0,
                claims=db.execute("SELECT COUNT(*) FROM claims").fetchone()[0],
            )

    def latency(self, model: str) -> float | None:
        """Mean seconds of the answered calls to *model* (``provider/model``), batches aside; None without any."""
        with self._guard():
            sql = "SELECT AVG(latency) FROM answers WHERE latency > 0 AND request LIKE ? ESCAPE '\\'"
            found: float | None = self._connection().execute(sql, (rows.backend_pattern(model),)).fetchone()[0]
            return found

    def outcomes(self) -> list[tuple[Request, Outcome]]:
        """Every question that is settled, with its answer or failure; those of an imported bundle are left out."""
        with self._guard():
            db = self._connection()
            stored = db.execute(
                "SELECT key, request FROM answers UNION SELECT key, request FROM failures WHERE settled = 1"
            )
            known = {key: request for key, request in stored.fetchall() if not rows.is_imported(request)}
            found = rows.read(db, list(known))
            return [(rows.request_of(known[key]), outcome) for key, outcome in found.items()]

    def verify(self) -> int:
        """Check the whole file, every stored request against its key and every reply against its check sum.

        Of an imported bundle only the check sums are there to be checked.

        Returns:
            Number of answers checked.

        Raises:
            UserError: what is damaged.
        """
        with self._guard():
            db = self._connection()
            found = [line for (line,) in db.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                raise rows.damaged(self.path, " ".join("; ".join(found).split())[:300])
            count = 0
            for key, request in db.execute("SELECT key, request FROM answers").fetchall():
                try:
                    intact = rows.is_imported(request) or rows.request_of(request).key == key
                except (ValueError, TypeError, KeyError):
                    intact = False
                if not intact:
                    raise rows.damaged(self.path, f"request {key} does not have its key")
                rows.read(db, [key])
                count += 1
            rows.read(db, [key for (key,) in db.execute("SELECT DISTINCT key FROM failures WHERE settled = 1")])
            return count

    # -- writing

    def claim(self, key: str, owner: str, lease: float = rows.LEASE) -> bool:
        """True when *owner* is the one to ask about *key* now; False when it is known or another is asking."""
        return self._one(partial(rows.claim, key=key, owner=owner, lease=lease)) is True

    def renew(self, owner: str, lease: float = rows.LEASE) -> None:
        """Prolong every claim of *owner*."""
        self._one(partial(rows.renew, owner=owner, lease=lease))

    def release(self, owner: str, key: str | None = None) -> None:
        """Give up the claim on *key*, or all claims of *owner*."""
        self._one(partial(rows.release, owner=owner, key=key))

    def wait(self, key: str, owner: str, timeout: float | None = None, poll: float = 0.2) -> Outcome | None:
        """Wait while another asks about *key*: what came of it, or None when *owner* now holds the claim.

        Raises:
            TimeoutError: neither within *timeout* seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            state = self._one(partial(rows.claim, key=key, owner=owner))
            if not isinstance(state, bool):
                return state
            if state:
                return None
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"request {key} is still in flight elsewhere")
            time.sleep(poll)

    def store_answer(self, request: Request, reply: Reply, price: Price | None = None) -> Reply:
        """Store an answer and end its claim. Where one is there already, that one stays and is returned."""
        return self._one(
            partial(rows.store_answer, key=request.key, request=rows.request_json(request), reply=reply, price=price)
        )

    def store_failure(self, request: Request, failure: Failure, settled: bool, price: Price | None = None) -> None:
        """Store a failure; a settled one comes back from :meth:`get` and is not asked again."""
        text = rows.request_json(request) if settled else None
        self._one(
            partial(rows.store_failure, key=request.key, request=text, failure=failure, settled=settled, price=price)
        )

    def unsettle(self, kinds: Sequence[str] | None = None) -> int:
        """Let settled failures (of *kinds*; None: all) be asked again; returns how many."""

        def change(db: sqlite3.Connection) -> int:
            if kinds is None:
                return db.execute("UPDATE failures SET settled = 0 WHERE settled = 1").rowcount
            marks = ",".join("?" * len(kinds))
            sql = f"UPDATE failures SET settled = 0 WHERE settled = 1 AND kind IN ({marks})"
            return db.execute(sql, list(kinds)).rowcount

        return self._one(change)

    def adopt(self, imported: Sequence[tuple[str, str, Outcome]]) -> list[int]:
        """Store ``(key, request, outcome)`` of a bundle, all or none; returns the numbers of those that were new."""

        def change(db: sqlite3.Connection) -> list[int]:
            known = rows.read(db, [key for key, _, _ in imported])
            new = [n for n, (key, _, _) in enumerate(imported) if key not in known]
            for n in new:
                key, request, outcome = imported[n]
                if isinstance(outcome, Failure):
                    rows.store_failure(db, key, request, outcome, settled=True, price=None)
                else:
                    rows.store_answer(db, key, request, outcome, None)
            return new

        return self._one(change)

    def prune(self, what: Prune, dry: bool) -> dict[str, int]:
        """Delete what *what* describes, or with *dry* only count it; numbers by kind of row."""
        with self._guard():
            found: dict[str, int] = self._one(partial(rows.prune, what=what, dry=dry))
            if not dry:
                self._connection().execute("VACUUM")
            return found

    def close(self) -> None:
        """Close this process's connection; the next use opens it again."""
        with self._guard():
            if self._db is not None:
                self._db.close()
                self._db = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
