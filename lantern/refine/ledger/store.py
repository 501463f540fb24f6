"""The places for a ledger, and what all of them share."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from lantern.errors import UserError
from lantern.refine.ledger.schema import LEDGER, TABLES, VERSION

AGAIN = "run the same command again"
FULL = f"the ledger {{place}} cannot grow: {{text}}; what it holds is safe. Free some space and {AGAIN}"
BUSY = f"the ledger {{place}} was locked by another program for a minute; {AGAIN}"


class DamagedLedger(UserError):
    """A ledger whose file or tables are damaged, so that only a repair can go on; *what* is wrong with it."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


class Store:
    """A place for a ledger. *busy_timeout*: seconds to wait for other writers."""

    dialect: str
    """SQLAlchemy's name of the database and its driver."""
    advice: tuple[tuple[str, str], ...]
    """Pattern of the driver's error, and what to say: the first that fits."""
    foreign: str
    """What is wrong with a place that holds something else."""
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

    def tables(self, db: sa.Connection) -> dict[str, set[str]]:
        """The tables there, with their columns."""
        raise NotImplementedError

    def check(self, db: sa.Connection) -> None:
        """Refuse a place in which no ledger can be."""

    def settle(self, db: sa.Connection) -> None:
        """Prepare the connection to a ledger that was found sound."""

    def begin(self, db: sa.Connection) -> str | None:
        """Begin a transaction, once no other writer has one; its number where the connection can be lost."""
        raise NotImplementedError

    def committed(self, db: sa.Connection, ticket: str) -> bool:
        """Whether the transaction of that number came to its end."""
        return False

    def rollback(self, db: sa.Connection) -> None:
        """Undo the transaction, if there is one; a lost connection has undone it."""
        if not db.invalidated:
            with contextlib.suppress(DBAPIError):
                db.exec_driver_sql("ROLLBACK")

    def lost(self, error: DBAPIError) -> bool:
        """Whether the connection is gone, and a new one may work."""
        return False

    def verify(self, db: sa.Connection) -> None:
        """Check the files below the rows, where the database can."""

    def compact(self, db: sa.Connection) -> None:
        """Give back the space of deleted rows, where the database does not do so itself."""

    def size(self, db: sa.Connection) -> int:
        """Bytes on disk."""
        raise NotImplementedError

    def open(self) -> sa.Connection:
        """Connect and check; make the tables of a new ledger. Transactions are begun and ended by statements."""
        db = self.engine(self.connect).connect()
        try:
            self.check(db)
            if not self.tables(db):
                self.make(db)
            self.check_tables(db)
            self.settle(db)
        except BaseException:
            db.close()
            raise
        return db

    def engine(self, creator: Any) -> sa.Engine:
        """Makes one SQLAlchemy connection of the driver connection that *creator* gives."""
        return sa.create_engine(
            f"{self.dialect}://",
            creator=creator,
            poolclass=NullPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )

    def make(self, db: sa.Connection) -> None:
        """Make the tables that are missing, in one transaction."""
        self.begin(db)
        if self.prelude is not None:
            db.exec_driver_sql(self.prelude)
        TABLES.create_all(db)
        for name, value in (("format", "lantern-ledger"), ("version", str(VERSION))):
            if db.execute(sa.select(LEDGER.c.value).where(LEDGER.c.name == name)).first() is None:
                db.execute(LEDGER.insert().values(name=name, value=value))
        db.exec_driver_sql("COMMIT")

    def check_tables(self, db: sa.Connection) -> None:
        """Refuse what is no ledger, the ledger of a newer Lantern, and one that has lost a table or a column."""
        there, about = self.tables(db), {}
        if there.get("ledger", set()) >= {"name", "value"}:
            about = {str(name): str(value) for name, value in db.execute(sa.select(LEDGER.c.name, LEDGER.c.value))}
        version = about.get("version", "")
        if about.get("format") != "lantern-ledger" or not re.fullmatch("[0-9]{1,9}", version):
            if any(columns >= {"key", "check_sum"} for columns in there.values()):
                raise self.damaged("its format is not stated")
            raise UserError(f"{self.location} {self.foreign}; set refine.ledger to another path or database")
        if int(version) > VERSION:
            raise UserError(
                f"the ledger {self.location} has format {version}, this Lantern reads up to {VERSION}; "
                "update Lantern or set refine.ledger to another path"
            )
        if version == "1" and "batches" not in there:  # of before batches
            self.make(db)
            there = self.tables(db)
        for name, table in TABLES.tables.items():
            lost = [column.name for column in table.c if column.name not in there.get(name, ())]
            if lost:
                what = f"column {', '.join(lost)} of table {name}" if name in there else f"table {name}"
                raise self.damaged(f"it has lost {what}")

    def damaged(self, what: str) -> DamagedLedger:
        """The error for a ledger that only a repair can mend."""
        return DamagedLedger(
            f"the ledger {self.location} is damaged ({what}); nothing was changed. Restore a backup, or see what can "
            f"be kept: {self.command('repair')}",
            what,
        )

    def command(self, task: str) -> str:
        """What to type for a *task* of ``experiments.ledger`` on this ledger."""
        return f"python -m experiments.ledger {task} --ledger={shlex.quote(self.location)}"

    def explain(self, error: DBAPIError) -> UserError:
        """What *error* means for the user and what to do."""
        text = " ".join(str(error.orig).split())
        for pattern, advice in self.advice:
            if re.search(pattern, f"{getattr(error.orig, 'sqlstate', None) or ''} {text}"):
                said = advice.format(place=self.location, text=text)
                if "not a database" in text:  # its head may be all that is damaged
                    return DamagedLedger(said, text)
                return UserError(said) if advice else self.damaged(text)
        return UserError(f"the ledger {self.location}: {text}")


@contextlib.contextmanager
def explained(store: Store) -> Iterator[None]:
    """Turn the driver's errors into :class:`UserError`."""
    try:
        yield
    except DBAPIError as error:
        raise store.explain(error) from None
    except UnicodeError:  # of the driver's own message, which quotes a damaged name
        raise store.damaged("names in it are not text") from None
