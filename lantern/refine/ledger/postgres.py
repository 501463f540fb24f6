"""A ledger in a PostgreSQL database, in the schema ``lantern``, for runs on several machines."""

from __future__ import annotations

import contextlib
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from lantern.errors import UserError
from lantern.refine.ledger import schema
from lantern.refine.ledger.store import Store

LOCK = 0x1A47E12
"""Number of the advisory lock that a writer holds until its transaction ends."""
OLDEST = 13
"""Of the server; it brought ``pg_current_xact_id``."""
_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}


class PostgresStore(Store):
    """A ledger on a server; docstrings are those of :class:`Store`.

    Writers take turns, as on SQLite: one that began a transaction sees all that was committed before. The server cuts
    off a dead writer after half a minute. It has no check of its files; every row has a check sum.
    """

    dialect = "postgresql+psycopg"
    prelude = "CREATE SCHEMA IF NOT EXISTS lantern"

    def __init__(self, location: str, busy_timeout: float) -> None:
        super().__init__(location, busy_timeout)
        try:
            import psycopg
        except ImportError:
            raise UserError(
                f"refine.ledger={location} needs a PostgreSQL driver: pip install 'psycopg[binary]'"
            ) from None
        self._psycopg = psycopg
        self.errors = (psycopg.Error,)

    def exists(self) -> bool:
        with contextlib.closing(self.connect()) as raw:
            return bool(self.check(raw))

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

    def check(self, raw: Any) -> set[str]:
        encoding, version, tables = raw.execute(
            "SELECT current_setting('server_encoding'), current_setting('server_version_num')::int / 10000, "
            "array(SELECT tablename::text FROM pg_tables WHERE schemaname = 'lantern')"
        ).fetchone()
        if encoding != "UTF8":
            raise UserError(
                f"the database of refine.ledger={self.location} has encoding {encoding}, which does not hold every "
                "letter; make one with: createdb -E UTF8 -T template0 NAME"
            )
        if version < OLDEST:
            raise UserError(f"refine.ledger={self.location} is PostgreSQL {version}; it must be {OLDEST} or newer")
        if tables:
            about = dict(raw.execute("SELECT name, value FROM ledger").fetchall()) if "ledger" in tables else {}
            foreign = f"{self.location} has a schema 'lantern' that is not a Lantern ledger"
            schema.check_format(about, self.location, foreign)
        return set(tables)

    def begin(self, db: Connection) -> str:
        db.exec_driver_sql("BEGIN")
        sql = f"SELECT pg_advisory_xact_lock({LOCK}), pg_current_xact_id()::text"
        return str(db.exec_driver_sql(sql).one()[1])

    def committed(self, db: Connection, ticket: str) -> bool:
        return db.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (ticket,)).scalar_one() == "committed"

    def rollback(self, db: Connection) -> None:
        if not db.invalidated:
            with contextlib.suppress(DBAPIError):
                db.exec_driver_sql("ROLLBACK")

    def lost(self, error: Exception) -> bool:
        if isinstance(error, DBAPIError):
            return error.connection_invalidated
        return isinstance(error, self._psycopg.OperationalError)

    def size(self, db: Connection) -> int:
        sql = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        return int(db.exec_driver_sql(sql + "WHERE nspname = 'lantern' AND relkind = 'r'").scalar_one())

    def damaged(self, what: str) -> UserError:
        return UserError(
            f"the ledger {self.location} is damaged ({what}); nothing was changed. Save what is there with pg_dump, "
            "then restore a backup"
        )

    def explain(self, error: Exception) -> UserError:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlstate", None) or ""
        text = " ".join(str(cause).split())
        if code in ("XX001", "XX002"):
            return self.damaged(text)
        if code in ("25006", "42501"):
            return UserError(
                f"the ledger {self.location} cannot be written ({text}); use a role that may, on the main server"
            )
        if code.startswith("53") and code != "53300":
            return UserError(
                f"the ledger {self.location} cannot grow: {text}; what it holds is safe. "
                "Free some space on the server and run the same command again"
            )
        if code == "55P03":
            return UserError(
                f"the ledger {self.location} was locked by another program for a minute; run the same command again"
            )
        if "does not exist" in text and "database" in text:
            return UserError(f"{self._at(text)}; make it with createdb, or correct refine.ledger")
        if "password" in text or "authentication" in text or "role" in text or "pg_hba" in text:
            return UserError(
                f"{self._at(text)}; check the user in refine.ledger and the password in PGPASSWORD or ~/.pgpass"
            )
        if self.lost(error):
            return UserError(
                f"{self._at(text)}; is the server running, are host and port in refine.ledger right? What was stored "
                "is safe: run the same command again"
            )
        return UserError(f"the ledger {self.location}: {text}")

    def _at(self, text: str) -> str:
        return f"the ledger {self.location} cannot be reached: {text}"
