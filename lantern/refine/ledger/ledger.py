"""The durable store of every LLM request, reply, usage, cost and failure: an SQLite file or a PostgreSQL database."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.refine.ledger import rows as rows
from lantern.refine.ledger.location import check_location, is_url
from lantern.refine.ledger.rows import Prune
from lantern.refine.ledger.stats import LedgerStats, stats_of
from lantern.refine.ledger.tables import ANSWERS, FAILURES
from lantern.refine.types import Failure, Outcome, Price, Reply, Request

T = TypeVar("T")
Operation = Callable[[sa.Connection], Any]

_inherited: list[sa.Connection] = []
"""Connections of a parent process; a forked child must neither use nor close them."""


class Store(Protocol):
    """What differs between a file and a server."""

    location: str
    errors: tuple[type[Exception], ...]
    """Of the driver."""

    def exists(self) -> bool:
        """Whether a ledger is there; makes nothing."""

    def open(self) -> sa.Connection:
        """Connect, look whether it is a sound ledger, make what is missing."""

    def begin(self, db: sa.Connection) -> str | None:
        """Begin a transaction, once no other writer has one; its number where the connection can be lost."""

    def committed(self, db: sa.Connection, ticket: str) -> bool:
        """Whether the transaction of that number came to its end."""

    def rollback(self, db: sa.Connection) -> None:
        """Undo the transaction, if there is one."""

    def lost(self, error: Exception) -> bool:
        """Whether the connection is gone, and a new one may be had."""

    def verify(self, db: sa.Connection) -> None:
        """Check what lies below the rows."""

    def compact(self, db: sa.Connection) -> None:
        """Give back the space of deleted rows."""

    def size(self, db: sa.Connection) -> int:
        """Bytes on disk."""

    def damaged(self, what: str) -> UserError:
        """The error for a ledger whose content is damaged."""

    def explain(self, error: Exception) -> UserError:
        """What *error* means for the user and what to do."""


def _store(location: str, busy_timeout: float) -> Store:
    check_location(location)
    if is_url(location):
        from lantern.refine.ledger.postgres import PostgresStore

        return PostgresStore(location, busy_timeout)
    from lantern.refine.ledger.sqlite import SqliteStore

    return SqliteStore(location, busy_timeout)


class Ledger:
    """One SQLite file or PostgreSQL database, usable by any number of threads and processes at once.

    What a method has stored survives a killed process and a power failure. After a fork the child opens its own
    connection. A connection that is lost is made anew, and what was under way is done once, for up to *busy_timeout*
    seconds.

    Args:
        location: path, or ``postgresql://user@host/database``, whose password is in PGPASSWORD or ~/.pgpass.
        busy_timeout: seconds that other writers, or a server that went away, are waited for.

    Raises:
        UserError: it is no ledger, damaged, from a newer Lantern, read-only, locked, out of reach, or the disk is full.
    """

    def __init__(self, location: str | os.PathLike[str], busy_timeout: float = 60.0) -> None:
        self.location = os.fspath(location)
        self.busy_timeout = busy_timeout
        self._store = _store(self.location, busy_timeout)
        self._errors: tuple[type[Exception], ...] = (DBAPIError, *self._store.errors)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sa.Connection | None = None
        with self._guard():
            self._connection()

    @classmethod
    def if_there(cls, location: str | os.PathLike[str]) -> Ledger | None:
        """The ledger at *location*; None where there is none, and nothing is made."""
        store = _store(os.fspath(location), 60.0)
        try:
            found = store.exists()
        except store.errors as error:
            raise store.explain(error) from None
        return cls(location) if found else None

    def _connection(self) -> sa.Connection:
        if self._db is None:
            self._db = self._store.open()
        return self._db

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the lock, follow a fork, and turn the driver's errors into :class:`UserError`."""
        if self._pid != os.getpid():
            if self._db is not None:
                _inherited.append(self._db)
            self._pid, self._db, self._lock = os.getpid(), None, threading.RLock()
        with self._lock:
            try:
                yield
            except self._errors as error:
                raise self._store.explain(error) from None
            except rows.DamagedRow as error:
                raise self._store.damaged(f"the reply to request {error} is not what was stored") from None

    def _do(self, work: Callable[[sa.Connection], T]) -> T:
        """*work*, done again on a new connection where one is lost."""
        deadline: float | None = None
        with self._guard():
            while True:
                try:
                    return work(self._connection())
                except self._errors as error:
                    now = time.monotonic()
                    first = deadline is None and self._db is None
                    if first or not self._store.lost(error) or (deadline is not None and now > deadline):
                        raise
                    deadline = deadline or now + self.busy_timeout
                    self._drop()
                    time.sleep(0.2)

    # -- many operations, one transaction

    def apply(self, operations: Sequence[Operation]) -> list[Any]:
        """Run *operations* in one transaction; durable when this returns, undone altogether when it raises."""
        ticket: str | None = None
        results: list[Any] = []

        def work(db: sa.Connection) -> list[Any]:
            nonlocal ticket, results
            try:
                begun = self._store.begin(db)
                # A connection that is lost at the commit may have lost no more than the word that it was done.
                if ticket is None or not self._store.committed(db, ticket):
                    ticket = begun
                    results = [operation(db) for operation in operations]
                db.exec_driver_sql("COMMIT")
            except BaseException:
                self._store.rollback(db)
                raise
            return results

        return self._do(work)

    def _one(self, operation: Callable[[sa.Connection], T]) -> T:
        result: T = self.apply([operation])[0]
        return result

    # -- reading

    def get(self, key: str) -> Outcome | None:
        """The answer or the settled failure for *key*; None when it has still to be asked."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """As :meth:`get`, for many keys; those that have still to be asked are left out."""
        return self._do(partial(rows.read, keys=keys))

    def free(self, keys: Sequence[str]) -> list[str]:
        """Those of *keys* that no living process is asking at present."""
        return self._do(partial(rows.free, keys=keys))

    def size(self) -> int:
        """Bytes on disk."""
        return self._do(self._store.size)

    def stats(self) -> LedgerStats:
        """Counts, tokens and dollars of everything stored."""
        return self._do(stats_of)

    def latency(self, model: str) -> float | None:
        """Mean seconds of the answered calls to *model* (``provider/model``), batches aside; None without any."""
        mean = sa.select(sa.func.avg(ANSWERS.c.latency)).where(ANSWERS.c.latency > 0, rows.asked_of(model))
        return self._do(lambda db: db.execute(mean).scalar_one())

    def outcomes(self) -> list[tuple[Request, Outcome]]:
        """Every question that is settled, with its answer or failure, in the order of the keys; those of an imported
        bundle are left out."""

        def work(db: sa.Connection) -> list[tuple[Request, Outcome]]:
            settled = sa.select(FAILURES.c.key, FAILURES.c.request).where(FAILURES.c.settled == 1)
            stored = db.execute(sa.union(sa.select(ANSWERS.c.key, ANSWERS.c.request), settled))
            known = {key: request for key, request in stored if not rows.is_imported(request)}
            found = rows.read(db, list(known))
            return [(rows.request_of(known[key]), found[key]) for key in sorted(found)]

        return self._do(work)

    def verify(self) -> int:
        """Check the whole ledger, every stored request against its key and every reply against its check sum.

        Of an imported bundle only the check sums are there to be checked.

        Returns:
            Number of answers checked.

        Raises:
            UserError: what is damaged.
        """

        def work(db: sa.Connection) -> int:
            self._store.verify(db)
            asked = dict(db.execute(sa.select(ANSWERS.c.key, ANSWERS.c.request)).tuples().all())
            for key, request in asked.items():
                try:
                    intact = rows.is_imported(request) or rows.request_of(request).key == key
                except (ValueError, TypeError, KeyError):
                    intact = False
                if not intact:
                    raise self._store.damaged(f"request {key} does not have its key")
            failed = db.execute(sa.select(FAILURES.c.key).where(FAILURES.c.settled == 1).distinct()).scalars()
            for chunk in rows.chunks([*asked, *failed]):
                rows.read(db, chunk)
            return len(asked)

        return self._do(work)

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
        change = FAILURES.update().where(FAILURES.c.settled == 1).values(settled=0)
        if kinds is not None:
            change = change.where(FAILURES.c.kind.in_(kinds))
        return self._one(lambda db: db.execute(change).rowcount)

    def adopt(self, imported: Sequence[tuple[str, str, Outcome]]) -> list[int]:
        """Store ``(key, request, outcome)`` of a bundle, all or none; returns the numbers of those that were new."""
        return self._one(partial(rows.adopt, imported=imported))

    def prune(self, what: Prune, dry: bool) -> dict[str, int]:
        """Delete what *what* describes, or with *dry* only count it; numbers by kind of row."""
        found = self._one(partial(rows.prune, what=what, dry=dry))
        if not dry:
            self._do(self._store.compact)
        return found

    # -- batches on their way at a provider

    def batches(self) -> list[tuple[str, str | None, str]]:
        """Name, provider's id (None: its submission is not known to have arrived) and model of each."""
        return self._do(rows.batches)

    def batch_requests(self, name: str) -> str | None:
        """What :meth:`keep_batch` stored; None when the batch has been collected."""
        return self._do(partial(rows.batch_requests, name=name))

    def keep_batch(self, name: str, model: str, requests: str) -> None:
        """Store a batch before it is submitted."""
        self._one(partial(rows.keep_batch, name=name, model=model, requests=requests))

    def name_batch(self, name: str, identity: str) -> None:
        """Store the provider's id of a batch that was submitted."""
        self._one(partial(rows.name_batch, name=name, identity=identity))

    def forget_batch(self, name: str) -> None:
        """Delete a batch whose replies are stored, or that was not submitted."""
        self._one(partial(rows.forget_batch, name=name))

    def close(self) -> None:
        """Close this process's connection; the next use opens it again."""
        with self._guard():
            self._drop()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
