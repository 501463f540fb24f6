"""A ledger in an SQLite file: WAL, synchronous FULL."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.refine.ledger import schema
from lantern.refine.ledger.store import Store

QUICK_CHECK_BYTES = 64 * 2**20
"""Files up to this size are checked whenever they are opened (a fraction of a second)."""


class SqliteStore(Store):
    """A ledger in a file; docstrings are those of :class:`Store`."""

    dialect = "sqlite"
    errors = (sqlite3.Error,)

    def __init__(self, location: str, busy_timeout: float) -> None:
        super().__init__(location, busy_timeout)
        self._path = Path(location)

    def exists(self) -> bool:
        return self._path.is_file()

    def connect(self) -> sqlite3.Connection:
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the ledger's folder {path.parent} cannot be made: {error.strerror}; set refine.ledger"
            ) from None
        if path.is_dir():
            raise UserError(f"refine.ledger={path} is a folder; name a file in it")
        return sqlite3.connect(path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False)

    def check(self, raw: sqlite3.Connection) -> set[str]:
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables:
            about = dict(raw.execute("SELECT name, value FROM ledger")) if "ledger" in tables else {}
            schema.check_format(about, self.location, f"{self._path} is an SQLite file but not a Lantern ledger")
            if self._path.stat().st_size <= QUICK_CHECK_BYTES:
                result = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
                if result != "ok":
                    raise self.damaged(" ".join(str(result).split())[:200])
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                raw.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Two processes that make the same new file: SQLite reports this lock without waiting.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        raw.execute("PRAGMA synchronous = FULL")
        return tables

    def begin(self, db: Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE")

    def rollback(self, db: Connection) -> None:
        raw = db.connection.driver_connection
        if isinstance(raw, sqlite3.Connection) and raw.in_transaction:
            db.exec_driver_sql("ROLLBACK")

    def verify(self, db: Connection) -> None:
        lines = [line for (line,) in db.exec_driver_sql("PRAGMA integrity_check(5)")]
        if lines != ["ok"]:
            raise self.damaged(" ".join("; ".join(lines).split())[:300])

    def compact(self, db: Connection) -> None:
        db.exec_driver_sql("VACUUM")

    def size(self, db: Connection) -> int:
        return self._path.stat().st_size

    def damaged(self, what: str) -> UserError:
        path = self._path
        return UserError(
            f"the ledger {path} is damaged ({what}); nothing was changed. Copy it, then save what is readable with: "
            f"sqlite3 {path} .recover | sqlite3 {path}.recovered"
        )

    def explain(self, error: Exception) -> UserError:
        path, text = self._path, str(error.orig if isinstance(error, DBAPIError) else error)
        if "not a database" in text:
            return UserError(
                f"{path} is not a Lantern ledger (no SQLite file, or its head is damaged); move it away or set "
                "refine.ledger to another path"
            )
        if "malformed" in text or "corrupt" in text:
            return self.damaged(text)
        if "readonly" in text:
            return UserError(
                f"the ledger {path} cannot be written (read-only); make the file and its folder writable or set "
                "refine.ledger to another path"
            )
        if "full" in text or "disk I/O" in text:
            return UserError(
                f"the ledger {path} cannot grow: {text}; what it holds is safe. "
                "Free some space and run the same command again"
            )
        if "locked" in text or "busy" in text:
            return UserError(
                f"the ledger {path} was locked by another program for a minute; run the same command again"
            )
        if "unable to open" in text:
            return UserError(f"the ledger {path} cannot be opened; check that its folder exists and is writable")
        return UserError(f"the ledger {path}: {text}")
