"""The durable store of every LLM request, reply, usage, cost and failure: an SQLite file or a PostgreSQL database."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lantern.errors import FailureKind
from lantern.refine.ledger import rows
from lantern.refine.ledger.location import check_location, is_url
from lantern.refine.ledger.rows import Prune
from lantern.refine.ledger.schema import ANSWERS, BATCHES, FAILURES
from lantern.refine.ledger.stats import LedgerStats, stats_of
from lantern.refine.ledger.store import Store
from lantern.refine.types import Failure, Price, Reply, Request, Stored

T = TypeVar("T")
Operation = Callable[[sa.Connection], Any]

_inherited: list[sa.Connection] = []
"""Connections of a parent process; a forked child must neither use nor close them."""


class Ledger:
    """One SQLite file or PostgreSQL database, usable by any number of threads and processes at once.

    What a method has stored survives a killed process and a power failure. After a fork the child opens its own
    connection. A lost connection is made again for up to *busy_timeout* seconds, and what was under way is done once.

    Args:
        location: path, or ``postgresql://user@host/database``, whose password is in PGPASSWORD or ~/.pgpass.
        busy_timeout: seconds to wait for other writers, or for a server that went away.

    Raises:
        UserError: it is no ledger, damaged, from a newer Lantern, read-only, locked, out of reach, or the disk is full.
    """

    def __init__(self, location: str | os.PathLike[str], busy_timeout: float = 60.0) -> None:
        self.location = os.fspath(location)
        self.busy_timeout = busy_timeout
        self._store = store_of(self.location, busy_timeout)
        self._errors: tuple[type[Exception], ...] = (DBAPIError, *self._store.errors)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sa.Connection | None = None
        with self._guard():
            self._connection()

    @classmethod
    def if_there(cls, location: str | os.PathLike[str]) -> Ledger | None:
        """The ledger at *location*; None where there is none, and nothing is made."""
        store = store_of(os.fspath(location), 60.0)
        try:
            return cls(location) if store.exists() else None
        except store.errors as error:
            raise store.explain(error) from None

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
                raise self._store.damaged(str(error)) from None

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

    def get(self, key: str) -> Stored | None:
        """The reply or the settled failure for *key*; None when it has still to be sent."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Stored]:
        """As :meth:`get`, for many keys; those that have still to be sent are left out."""
        return self._do(partial(rows.read, keys=keys))

    def free(self, keys: Sequence[str]) -> list[str]:
        """Those of *keys* that no living process is sending at present."""
        return self._do(partial(rows.free, keys=keys))

    def size(self) -> int:
        """Bytes on disk."""
        return self._do(self._store.size)

    def stats(self) -> LedgerStats:
        """Counts, tokens and dollars of everything stored."""
        return self._do(stats_of)

    def latency(self, model: str) -> float | None:
        """Mean seconds of the calls to *model* (``provider/model``) with a reply, batches aside; None without any."""
        mean = sa.select(sa.func.avg(ANSWERS.c.latency)).where(ANSWERS.c.latency > 0, rows.sent_to(model))
        return self._do(lambda db: db.execute(mean).scalar_one())

    def stored(self) -> list[tuple[Request, Stored]]:
        """Every settled request with its reply or failure, in the order of the keys; without those of a bundle."""

        def work(db: sa.Connection) -> list[tuple[Request, Stored]]:
            settled = sa.select(FAILURES.c.key, FAILURES.c.request).where(FAILURES.c.settled == 1)
            known: dict[str, str] = dict(
                db.execute(sa.union(sa.select(ANSWERS.c.key, ANSWERS.c.request), settled)).tuples().all()
            )
            requests = {key: rows.request_of(known[key]) for key in sorted(known)}
            stored = rows.read(db, list(requests))
            return [(request, stored[key]) for key, request in requests.items() if request is not None]

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
            answers = dict(db.execute(sa.select(ANSWERS.c.key, ANSWERS.c.request)).tuples().all())
            for key, text in answers.items():
                try:
                    request = rows.request_of(text)
                    intact = request is None or request.key == key
                except (ValueError, TypeError, KeyError):
                    intact = False
                if not intact:
                    raise self._store.damaged(f"request {key} does not have its key")
            failed = db.execute(sa.select(FAILURES.c.key).where(FAILURES.c.settled == 1).distinct()).scalars()
            for chunk in rows.chunks([*answers, *failed]):
                rows.read(db, chunk)
            return len(answers)

        return self._do(work)

    # -- writing

    def claim(self, key: str, owner: str, lease: float = rows.LEASE) -> bool:
        """True when *owner* is to send *key* now; False when it is settled or another process is sending it."""
        return self._one(partial(rows.claim, key=key, owner=owner, lease=lease)) is True

    def renew(self, owner: str, lease: float = rows.LEASE) -> None:
        """Prolong every claim of *owner*."""
        self._one(partial(rows.renew, owner=owner, lease=lease))

    def release(self, owner: str, key: str | None = None) -> None:
        """Give up the claim on *key*, or all claims of *owner*."""
        self._one(partial(rows.release, owner=owner, key=key))

    def store_reply(self, request: Request, reply: Reply, price: Price | None = None) -> Reply:
        """Store a reply and end its claim. Where one is there already, that one stays and is returned."""
        return self._one(partial(rows.store_reply, key=request.key, request=request, reply=reply, price=price))

    def refuse(self, key: str, failure: Failure) -> None:
        """Make the stored reply of *key* a settled failure: its content cannot be used."""
        self._one(partial(rows.refuse, key=key, failure=failure))

    def store_failure(self, request: Request, failure: Failure, price: Price | None = None) -> None:
        """Store a failure; one of the content is settled: :meth:`get` returns it and it is not sent again."""
        self._one(partial(rows.store_failure, key=request.key, request=request, failure=failure, price=price))

    def unsettle(self, kinds: Sequence[FailureKind] | None = None) -> int:
        """Let the requests of settled failures (of *kinds*; None: all) be sent again; returns how many."""
        change = FAILURES.update().where(FAILURES.c.settled == 1).values(settled=0)
        if kinds is not None:
            change = change.where(FAILURES.c.kind.in_([kind.value for kind in kinds]))
        return self._one(lambda db: db.execute(change).rowcount)

    def adopt(self, imported: Sequence[tuple[str, str, Stored]]) -> list[int]:
        """Store ``(key, backend, stored)`` of a bundle, all or none; returns the numbers of those that were new."""
        return self._one(partial(rows.adopt, imported=imported))

    def prune(self, what: Prune, dry: bool) -> dict[str, int]:
        """Delete what *what* describes, or with *dry* only count it; numbers by kind of row."""
        counts = self._one(partial(rows.prune, what=what, dry=dry))
        if not dry:
            self._do(self._store.compact)
        return counts

    # -- batches on their way at a provider

    def batches(self) -> list[tuple[str, str | None, str]]:
        """Name, provider's id (None: its submission is not known to have arrived) and model of each, by name."""
        query = sa.select(BATCHES.c.name, BATCHES.c.id, BATCHES.c.model).order_by(BATCHES.c.name)
        return self._do(lambda db: [(name, identity, model) for name, identity, model in db.execute(query)])

    def batch_requests(self, name: str) -> list[Request] | None:
        """The requests of a batch; None when it has been collected.

        Raises:
            UserError: the row is damaged.
        """
        query = sa.select(BATCHES.c.requests).where(BATCHES.c.name == name)
        text = self._do(lambda db: db.execute(query).scalar_one_or_none())
        if text is None:
            return None
        try:
            requests = [rows.request_of(one) for one in json.loads(text)]
            return [request for request in requests if request is not None]
        except (ValueError, KeyError, TypeError):
            raise self._store.damaged(f"the requests of batch {name} cannot be read") from None

    def keep_batch(self, name: str, model: str, requests: Sequence[Request]) -> None:
        """Store a batch before it is submitted."""
        text = json.dumps([rows.request_json(request) for request in requests])
        self._one(lambda db: db.execute(BATCHES.insert().values(name=name, model=model, requests=text)))

    def name_batch(self, name: str, identity: str) -> None:
        """Store the provider's id of a batch that was submitted."""
        self._one(lambda db: db.execute(BATCHES.update().where(BATCHES.c.name == name).values(id=identity)))

    def forget_batch(self, name: str) -> None:
        """Delete a batch whose replies are stored, or that was not submitted."""
        self._one(lambda db: db.execute(BATCHES.delete().where(BATCHES.c.name == name)))

    def close(self) -> None:
        """Close this process's connection; the next use opens it again."""
        with self._guard():
            self._drop()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def store_of(location: str, busy_timeout: float) -> Store:
    """The store at a path or a URL; imports its driver."""
    check_location(location)
    if is_url(location):
        from lantern.refine.ledger.postgres import PostgresStore

        return PostgresStore(location, busy_timeout)
    from lantern.refine.ledger.sqlite import SqliteStore

    return SqliteStore(location, busy_timeout)
