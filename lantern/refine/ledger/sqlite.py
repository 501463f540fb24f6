"""A ledger in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.files import locked
from lantern.refine.ledger.store import BUSY, FULL, Store

QUICK_CHECK_BYTES = 64 * 2**20
"""Files up to this size are checked whenever they are opened (a fraction of a second)."""


class SqliteStore(Store):
    """A ledger in a file: WAL, synchronous FULL. A new one takes its name when it is whole."""

    dialect = "sqlite"
    foreign = "is an SQLite file but not a Lantern ledger"
    advice = (
        (
            "not a database",
            "{place} is not a Lantern ledger (no SQLite file, or its head is damaged); move it away or set "
            "refine.ledger to another path",
        ),
        ("malformed|corrupt", ""),
        (
            "readonly",
            "the ledger {place} cannot be written (read-only); make the file and its folder writable or set "
            "refine.ledger to another path",
        ),
        ("full|disk I/O", FULL),
        ("locked|busy", BUSY),
        ("unable to open", "the ledger {place} cannot be opened; check that its folder exists and is writable"),
    )

    def __init__(self, location: str, busy_timeout: float) -> None:
        super().__init__(location, busy_timeout)
        self.path = Path(os.path.realpath(location))
        self.journal = self.path.with_name(f"{self.path.name}-wal")

    def exists(self) -> bool:
        return self.path.is_file()

    def connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise UserError(f"refine.ledger={self.location} is a folder; name a file in it")
            if not self.path.exists():
                self._make_file()
            if self.path.stat().st_size == 0:
                # Not for SQLite to open: it would delete what the journal still holds.
                raise UserError(
                    f"the ledger {self.location} is an empty file: what it held is gone. Restore a backup, or delete "
                    f"it{' and its journal' if self.journal.exists() else ''} to begin a new ledger"
                )
        except OSError as error:
            raise UserError(
                f"the ledger {self.location} cannot be opened ({error.strerror}); its folder {self.path.parent} must "
                "exist and be writable, or set refine.ledger to another path"
            ) from None
        return self.raw(self.path)

    def raw(self, path: Path) -> sqlite3.Connection:
        raw = sqlite3.connect(path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False)
        raw.text_factory = _text
        return raw

    def _make_file(self) -> None:
        if self.journal.exists():
            raise UserError(
                f"the ledger {self.location} is gone, but its journal {self.journal} is there. Put the file back, or "
                "move the journal away to begin a new ledger"
            )
        new = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.new")
        try:
            with self.engine(lambda: self.raw(new)).connect() as db:
                self.make(db)
            try:
                os.link(new, self.path)
            except FileExistsError:
                pass  # another process was faster
            except OSError:  # a file system without links
                with locked(self.path.with_name(f"{self.path.name}.lock")):
                    if not self.path.exists():
                        new.rename(self.path)
        finally:
            new.unlink(missing_ok=True)

    def tables(self, db: sa.Connection) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for (name,) in db.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").all():
            found[str(name)] = {
                str(row[1]) for row in db.exec_driver_sql("SELECT * FROM pragma_table_info(?)", (name,))
            }
        return found

    def check(self, db: sa.Connection) -> None:
        if not self.tables(db):
            raise UserError(
                f"{self.location} is an SQLite file without a table, where a ledger should be. Restore a backup, or "
                "delete it to begin a new ledger"
            )

    def settle(self, db: sa.Connection) -> None:
        if self.path.stat().st_size <= QUICK_CHECK_BYTES:
            self._sound(db, "quick_check(1)")
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                db.exec_driver_sql("PRAGMA journal_mode = WAL")
                break
            except DBAPIError as error:
                # Two processes that open a new file: SQLite reports this lock without waiting.
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        db.exec_driver_sql("PRAGMA synchronous = FULL")

    def begin(self, db: sa.Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE")

    def rollback(self, db: sa.Connection) -> None:
        raw = db.connection.driver_connection
        if isinstance(raw, sqlite3.Connection) and raw.in_transaction:
            super().rollback(db)

    def verify(self, db: sa.Connection) -> None:
        self._sound(db, "integrity_check(5)")

    def _sound(self, db: sa.Connection, check: str) -> None:
        lines = [str(line) for (line,) in db.exec_driver_sql(f"PRAGMA {check}")]
        if lines != ["ok"]:
            raise self.damaged(" ".join("; ".join(lines).split())[:200])

    def compact(self, db: sa.Connection) -> None:
        db.exec_driver_sql("VACUUM")

    def size(self, db: sa.Connection) -> int:
        return self.path.stat().st_size


def _text(value: bytes) -> str:
    """Text of SQLite, which is not always the UTF-8 that it should be: no byte is lost, and no query fails for it."""
    return value.decode("utf-8", "surrogateescape")
