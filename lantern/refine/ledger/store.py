"""What differs between a ledger in a file and one on a server."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from lantern.errors import UserError
from lantern.refine.ledger import schema


class Store:
    """A place for a ledger. *busy_timeout*: seconds to wait for other writers."""

    dialect: str
    """SQLAlchemy's name of the database and its driver."""
    errors: tuple[type[Exception], ...]
    """Of the driver."""
    prelude: str | None = None
    """Statement before the tables are made."""

    def __init__(self, location: str, busy_timeout: float) -> None:
        self.location, self.busy_timeout = location, busy_timeout

    def exists(self) -> bool:
        """Whether a ledger is there; makes nothing."""
        raise NotImplementedError

    def connect(self) -> Any:
        """A new driver connection in autocommit mode."""
        raise NotImplementedError

    def check(self, raw: Any) -> set[str]:
        """The tables of the ledger; refuses what is no sound ledger."""
        raise NotImplementedError

    def open(self) -> sa.Connection:
        """Connect, check, make what is missing; transactions are begun and ended by statements."""
        raw = self.connect()
        try:
            tables = self.check(raw)
            engine = sa.create_engine(
                f"{self.dialect}://",
                creator=lambda: raw,
                poolclass=NullPool,
                pool_reset_on_return=None,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )
            db = engine.connect()
            if schema.missing(tables):
                self.begin(db)
                if self.prelude is not None:
                    db.exec_driver_sql(self.prelude)
                schema.create(db)
                db.exec_driver_sql("COMMIT")
        except BaseException:
            raw.close()
            raise
        return db

    def begin(self, db: sa.Connection) -> str | None:
        """Begin a transaction, once no other writer has one; its number where the connection can be lost."""
        raise NotImplementedError

    def committed(self, db: sa.Connection, ticket: str) -> bool:
        """Whether the transaction of that number came to its end."""
        return False

    def rollback(self, db: sa.Connection) -> None:
        """Undo the transaction, if there is one."""
        raise NotImplementedError

    def lost(self, error: Exception) -> bool:
        """Whether the connection is gone, and a new one may work."""
        return False

    def verify(self, db: sa.Connection) -> None:
        """Check the files below the rows, where the database can."""

    def compact(self, db: sa.Connection) -> None:
        """Give back the space of deleted rows, where the database does not do so itself."""

    def size(self, db: sa.Connection) -> int:
        """Bytes on disk."""
        raise NotImplementedError

    def damaged(self, what: str) -> UserError:
        """The error for a ledger whose content is damaged."""
        raise NotImplementedError

    def explain(self, error: Exception) -> UserError:
        """What *error* means for the user and what to do."""
        raise NotImplementedError
