"""The durable store of every LLM request, reply, usage, cost and failure: an SQLite file or a PostgreSQL database."""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.refine.ledger import rows
from lantern.refine.ledger.location import check_location, is_url
from lantern.refine.ledger.schema import (
    ANSWERS,
    BATCHES,
    FAILURES,
    HELD,
    LEDGER,
    VERSION,
    DamagedRow,
    Row,
    batch_of,
    entry_of,
    is_sound,
)
from lantern.refine.ledger.stats import stats_of
from lantern.refine.ledger.store import Store, explained
from lantern.refine.types import Request, Stored

T = TypeVar("T")
P = ParamSpec("P")
Operation = Callable[[sa.Connection], Any]
log = logging.getLogger(__name__)

_inherited: list[sa.Connection] = []
"""Connections of a parent process; a forked child must neither use nor close them."""


def _method(
    work: Callable[Concatenate[sa.Connection, P], T], writes: bool = False
) -> Callable[Concatenate[Ledger, P], T]:
    """*work* as a method; one that *writes* has a transaction of its own."""

    @functools.wraps(work)
    def method(self: Ledger, *args: P.args, **kwargs: P.kwargs) -> T:
        def operation(db: sa.Connection) -> T:
            return work(db, *args, **kwargs)

        return self.apply([operation])[0] if writes else self.do(operation)

    return method


class Damaged(NamedTuple):
    """A damaged row: its table and place, and *text* that says which it is and what is wrong."""

    table: sa.Table
    place: Any
    text: str


class Ledger:
    """One SQLite file or PostgreSQL database, usable by any number of threads and processes at once.

    What a method has stored survives a killed process and a power failure. After a fork the child opens its own
    connection. A lost connection is made again for up to *busy_timeout* seconds, and what was under way is done once.
    A damaged row is as good as none: its request is sent again, and one line about it is logged and given to *notice*.

    Args:
        location: path, or ``postgresql://user@host/database``, whose password is in PGPASSWORD or ~/.pgpass.
        busy_timeout: seconds to wait for other writers, or for a server that went away.

    Raises:
        UserError: it is no ledger, damaged, from a newer Lantern, read-only, locked, out of reach, or the disk is full.
    """

    def __init__(self, location: str | os.PathLike[str], busy_timeout: float = 60.0) -> None:
        self.location = os.fspath(location)
        self.busy_timeout = busy_timeout
        self.notice: Callable[[str], object] | None = None
        self.store = store_of(self.location, busy_timeout)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sa.Connection | None = None
        self._current = self._noticed = False
        with self._guard():
            self._connection()

    @classmethod
    def if_there(cls, location: str | os.PathLike[str]) -> Ledger | None:
        """The ledger at *location*; None where there is none, and nothing is made."""
        store = store_of(os.fspath(location))
        with explained(store):
            there = store.exists()
        return cls(location) if there else None

    def _connection(self) -> sa.Connection:
        if self._db is None:
            self._db = self.store.open()
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
        with self._lock, explained(self.store):
            yield

    def do(self, work: Callable[[sa.Connection], T]) -> T:
        """*work*, done again on a new connection where one is lost."""
        deadline: float | None = None
        with self._guard():
            while True:
                try:
                    return work(self._connection())
                except DBAPIError as error:
                    now = time.monotonic()
                    first = deadline is None and self._db is None
                    if first or not self.store.lost(error) or (deadline is not None and now > deadline):
                        raise
                    deadline = deadline or now + self.busy_timeout
                    self._drop()
                    time.sleep(0.2)

    def apply(self, operations: Sequence[Operation]) -> list[Any]:
        """Run *operations* in one transaction; durable when this returns, undone altogether when it raises."""
        ticket: str | None = None
        results: list[Any] = []

        def work(db: sa.Connection) -> list[Any]:
            nonlocal ticket, results
            try:
                begun = self.store.begin(db)
                # A connection that is lost at the commit may have lost no more than the word that it was done.
                if ticket is None or not self.store.committed(db, ticket):
                    ticket = begun
                    if not self._current:
                        db.execute(_TO_THIS_FORMAT)
                    results = [operation(db) for operation in operations]
                db.exec_driver_sql("COMMIT")
            except BaseException:
                self.store.rollback(db)
                raise
            self._current = True
            return results

        return self.do(work)

    # -- reading

    free = _method(rows.free)
    stats = _method(stats_of)
    latency = _method(rows.mean_latency)

    def get(self, key: str) -> Stored | None:
        """The reply or the settled failure for *key*; None when it has still to be sent."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Stored]:
        """As :meth:`get`, for many keys; those that have still to be sent are left out."""
        found = self.do(partial(rows.lookup, keys=keys))
        sound = {key: one for key, one in found.items() if not isinstance(one, DamagedRow)}
        count = len(found) - len(sound)
        ends = ("row, whose question is", "rows, whose questions are")[count > 1]
        self.damage(count, f"{count:,} damaged {ends} asked again")
        return sound

    def damage(self, count: int, what: str) -> None:
        """Say once, where *count* is not 0, *what* is damaged, and how to mend it."""
        if count and not self._noticed:
            self._noticed = True
            line = f"the ledger {self.location} has {what}. Set aside what is damaged: {self.store.command('repair')}"
            log.warning("%s", line)
            if self.notice is not None:
                self.notice(line)

    def size(self) -> int:
        """Bytes on disk."""
        return self.do(self.store.size)

    def entries(self, table: sa.Table, where: Any = None) -> Iterator[tuple[dict[str, Any], Any]]:
        """Every row of *table* with what :func:`~lantern.refine.ledger.schema.entry_of` makes of it, or its damage."""
        after: Any = None
        while found := self.do(partial(rows.page, table=table, after=after, where=where)):
            for row in found:
                try:
                    yield dict(row), entry_of(table, row)
                except DamagedRow as damage:
                    yield dict(row), damage
            after = found[-1]["place"]

    def stored(self) -> list[tuple[Request, Stored]]:
        """Every settled request with its reply, or its last failure, in the order of the keys.

        Without those of a bundle and those whose row is damaged.
        """
        found: dict[str, tuple[Request, Stored]] = {}
        for table, where in ((FAILURES, FAILURES.c.settled == 1), (ANSWERS, None)):
            for row, entry in self.entries(table, where):
                if not isinstance(entry, DamagedRow) and entry is not None and entry[0] is not None:
                    found[row["key"]] = entry
        return [found[key] for key in sorted(found)]

    def follow_ups(self, request: Request) -> Iterator[tuple[dict[str, Any], Request]]:
        """The rows of repair turns of *request* that brought a reply, each with its request."""
        mark = (request.provider, request.model, request.api_base, request.replicate)
        count, longer = len(request.messages), 2 * request.sampling.get("max_tokens", 0)
        for table in (FAILURES, ANSWERS):
            for row, entry in self.entries(table, rows.asked_with(request.messages, table)):
                further = None if entry is None or isinstance(entry, DamagedRow) else entry[0]
                if further is None or row["text"] is None or row["key"] == request.key:
                    continue
                same = (further.provider, further.model, further.api_base, further.replicate) == mark
                more = len(further.messages) > count or further.sampling.get("max_tokens") == longer
                if same and more and further.messages[:count] == request.messages:
                    yield row, further

    def check(self) -> tuple[int, list[Damaged]]:
        """The number of sound answers, and every damaged row of the whole ledger.

        Every stored request is checked against its key, every reply against its check sum; of an imported bundle only
        the check sums are there to be checked.

        Raises:
            UserError: the file below the rows is damaged.
        """
        self.do(self.store.verify)
        sound, damaged = 0, []
        for table in HELD:
            for row, entry in self.entries(table):
                if isinstance(entry, DamagedRow):
                    damaged.append(Damaged(table, row["place"], described(table, row, entry)))
                else:
                    sound += table is ANSWERS
        return sound, damaged

    def verify(self) -> int:
        """As :meth:`check`: the number of answers.

        Raises:
            UserError: what is damaged.
        """
        sound, damaged = self.check()
        if damaged:
            rest = f", and {len(damaged) - 1:,} more" if len(damaged) > 1 else ""
            raise UserError(
                f"the ledger {self.location} is damaged: {damaged[0].text}{rest}; {sound:,} answers are sound. A run "
                f"asks these questions again. Set the rows aside with: {self.store.command('repair')}"
            )
        return sound

    # -- writing

    renew = _method(rows.renew, writes=True)
    release = _method(rows.release, writes=True)
    store_reply = _method(rows.store_reply, writes=True)
    store_failure = _method(rows.store_failure, writes=True)
    refuse = _method(rows.refuse, writes=True)
    unsettle = _method(rows.unsettle, writes=True)
    adopt = _method(rows.adopt, writes=True)
    keep_batch = _method(rows.keep_batch, writes=True)
    name_batch = _method(rows.name_batch, writes=True)
    forget_batch = _method(rows.forget_batch, writes=True)

    def claim(self, key: str, owner: str, lease: float = rows.LEASE) -> bool:
        """True when *owner* is to send *key* now; False when it is settled or another process is sending it."""
        return self.apply([partial(rows.claim, key=key, owner=owner, lease=lease)])[0] is True

    def prune(self, what: rows.Prune, dry: bool) -> dict[str, int]:
        """Delete what *what* describes, or with *dry* only count it; numbers by kind of row."""
        counts: dict[str, int] = self.apply([partial(rows.prune, what=what, dry=dry)])[0]
        if not dry:
            self.do(self.store.compact)
        return counts

    # -- batches on their way at a provider

    def batches(self) -> list[tuple[str, str | None, str]]:
        """Name, provider's id (None: its submission is not known to have arrived) and model of each, by name."""
        query = sa.select(BATCHES.c.name, BATCHES.c.id, BATCHES.c.model).order_by(BATCHES.c.name)
        found = self.do(lambda db: db.execute(query).all())
        sound = [(name, id_, model) for name, id_, model in found if is_sound("name", name) and is_sound("name", model)]
        self.damage(len(found) - len(sound), "damaged rows of batches")
        return [(name, id_ if is_sound("id", id_) else None, model) for name, id_, model in sound]

    def batch_requests(self, name: str) -> dict[str, Request] | None:
        """The requests of a batch, by key; None when it has been collected.

        Raises:
            DamagedRow: they cannot be read.
        """
        query = sa.select(BATCHES.c.requests).where(BATCHES.c.name == name)
        found = self.do(lambda db: db.execute(query).first())
        return None if found is None else batch_of(found[0])

    def close(self) -> None:
        """Close this process's connection; the next use opens it again."""
        with self._guard():
            self._drop()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_TO_THIS_FORMAT = (
    LEDGER.update().where(LEDGER.c.name == "version", LEDGER.c.value != str(VERSION)).values(value=str(VERSION))
)


_NAME = re.compile(r"[0-9a-f]{64}( damaged [0-9a-f]{32})?|lantern-[0-9a-f]{16}")


def is_named(row: Row) -> bool:
    """Whether *row* has a well-formed key, or name of a batch."""
    name = row.get("key", row.get("name"))
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def described(table: sa.Table, row: Row, damage: DamagedRow) -> str:
    """Which row is damaged and how, without anything that it holds but a well-formed key."""
    place = row["place"] if isinstance(row["place"], int) else "without a key"
    return f"{table.name}, {row.get('key', row.get('name')) if is_named(row) else f'row {place}'}: {damage}"


def store_of(location: str, busy_timeout: float = 60.0) -> Store:
    """The store at a path or a URL; imports its driver."""
    from lantern.refine.ledger.postgres import PostgresStore
    from lantern.refine.ledger.sqlite import SqliteStore

    check_location(location)
    return (PostgresStore if is_url(location) else SqliteStore)(location, busy_timeout)
