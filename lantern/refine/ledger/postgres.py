"""A ledger in a PostgreSQL database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.refine.ledger.store import AGAIN, BUSY, FULL, Store

LOCK = 0x1A47E12
"""Number of the advisory lock that a writer holds until its transaction ends."""
OLDEST = 13
"""Of the server; it brought ``pg_current_xact_id``."""
_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}


class PostgresStore(Store):
    """A ledger on a server, in the schema ``lantern``, for runs on several machines.

    Writers take turns, as on SQLite: one that began a transaction sees all that was committed before. The server cuts
    off a dead writer after half a minute. It has no check of its files; every row has a check sum.
    """

    dialect = "postgresql+psycopg"
    foreign = "has a schema 'lantern' that is not a Lantern ledger"
    prelude = "CREATE SCHEMA IF NOT EXISTS lantern"
    advice = (
        ("^XX00[12]", ""),
        (
            "^(25006|42501)",
            "the ledger {place} cannot be written ({text}); use a role that may, on the main server",
        ),
        ("^53(?!300)", FULL.replace("space", "space on the server")),
        ("^55P03", BUSY),
        (
            "database.*does not exist",
            "the ledger {place} cannot be reached: {text}; make it with createdb, or correct refine.ledger",
        ),
        (
            "password|authentication|role|pg_hba",
            "the ledger {place} cannot be reached: {text}; check the user in refine.ledger and the password in "
            "PGPASSWORD or ~/.pgpass",
        ),
        (
            "^(08|57P|53300| )",
            "the ledger {place} cannot be reached: {text}; is the server running, are host and port in refine.ledger "
            f"right? What was stored is safe: {AGAIN}",
        ),
    )

    def __init__(self, location: str, busy_timeout: float) -> None:
        super().__init__(location, busy_timeout)
        try:
            import psycopg
        except ImportError:
            raise UserError(
                f"refine.ledger={location} needs a PostgreSQL driver: pip install 'psycopg[binary]'"
            ) from None
        self._psycopg = psycopg

    def exists(self) -> bool:
        with self.engine(self.connect).connect() as db:
            return bool(self.tables(db))

    def connect(self) -> Any:
        given = self._psycopg.conninfo.conninfo_to_dict(self.location)
        settings: dict[str, Any] = {**_DEFAULTS, **given, "client_encoding": "utf8", "application_name": "lantern"}
        raw = self._psycopg.connect(**settings, autocommit=True)
        try:
            # Numbers come back to the last digit, and what is committed is on disk, whatever the server's defaults.
            raw.execute(
                f"SET search_path = lantern; SET lock_timeout = {round(1000 * self.busy_timeout)}; "
                "SET idle_in_transaction_session_timeout = '30s'; SET extra_float_digits = 1; "
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            raw.close()
            raise
        return raw

    def check(self, db: sa.Connection) -> None:
        encoding, version = db.exec_driver_sql(
            "SELECT current_setting('server_encoding'), current_setting('server_version_num')::int / 10000"
        ).one()
        if encoding != "UTF8":
            raise UserError(
                f"the database of refine.ledger={self.location} has encoding {encoding}, which does not hold every "
                "letter; make one with: createdb -E UTF8 -T template0 NAME"
            )
        if version < OLDEST:
            raise UserError(f"refine.ledger={self.location} is PostgreSQL {version}; it must be {OLDEST} or newer")

    def tables(self, db: sa.Connection) -> dict[str, set[str]]:
        rows = db.exec_driver_sql(
            "SELECT c.relname, a.attname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid "
            "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE n.nspname = 'lantern' AND c.relkind = 'r'"
        )
        found: dict[str, set[str]] = {}
        for table, column in rows:
            found.setdefault(table, set()).add(column)
        return found

    def begin(self, db: sa.Connection) -> str:
        db.exec_driver_sql("BEGIN")
        sql = f"SELECT pg_advisory_xact_lock({LOCK}), pg_current_xact_id()::text"
        return str(db.exec_driver_sql(sql).one()[1])

    def committed(self, db: sa.Connection, ticket: str) -> bool:
        return db.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (ticket,)).scalar_one() == "committed"

    def lost(self, error: DBAPIError) -> bool:
        return error.connection_invalidated or isinstance(error.orig, self._psycopg.OperationalError)

    def size(self, db: sa.Connection) -> int:
        sql = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        return int(db.exec_driver_sql(sql + "WHERE nspname = 'lantern' AND relkind = 'r'").scalar_one())
