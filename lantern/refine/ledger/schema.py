"""The ledger's tables, the same in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from lantern.errors import UserError

VERSION = 1

TABLES = sa.MetaData()
PAID = {
    "text": sa.Text,
    "finish_reason": sa.Text,
    "logprobs": sa.Text,
    "input": sa.BigInteger,
    "cached_input": sa.BigInteger,
    "output": sa.BigInteger,
    "cost": sa.Double,
    "price": sa.Text,
    "latency": sa.Double,
    "model": sa.Text,
    "created": sa.Double,
    "check_sum": sa.BigInteger,
}


def _paid() -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, kind) for name, kind in PAID.items())


LEDGER = sa.Table(
    "ledger", TABLES, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
ANSWERS = sa.Table(
    "answers",
    TABLES,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    *_paid(),
)
FAILURES = sa.Table(
    "failures",
    TABLES,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("settled", sa.Integer, nullable=False),
    sa.Column("request", sa.Text),
    sa.Column("time", sa.Double, nullable=False),
    *_paid(),
    sa.Index("failures_by_key", "key", "settled"),
)
CLAIMS = sa.Table(
    "claims",
    TABLES,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
)
BATCHES = sa.Table(
    "batches",
    TABLES,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("id", sa.Text),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requests", sa.Text, nullable=False),
)


class _Now(FunctionElement[float]):
    """Unix time by the database's clock: leases are compared by several machines."""

    inherit_cache = True
    type = sa.Double()


@compiles(_Now)
def _now(element: _Now, compiler: Any, **more: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(_Now, "sqlite")
def _now_sqlite(element: _Now, compiler: Any, **more: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


NOW = _Now()


def missing(tables: set[str]) -> bool:
    """Whether the ledger that has *tables* has yet to be made, or lacks one of a newer Lantern."""
    return not tables >= set(TABLES.tables)


def create(db: sa.Connection) -> None:
    """Make the tables that are missing."""
    TABLES.create_all(db)
    for name, value in (("format", "lantern-ledger"), ("version", str(VERSION))):
        if db.execute(sa.select(LEDGER.c.value).where(LEDGER.c.name == name)).first() is None:
            db.execute(LEDGER.insert().values(name=name, value=value))


def check_format(about: Mapping[str, str], location: str, foreign: str) -> None:
    """Refuse what is no ledger, with the message *foreign*, and the ledgers of a newer Lantern."""
    if about.get("format") != "lantern-ledger":
        raise UserError(f"{foreign}; set refine.ledger to another path")
    if int(about.get("version", "0")) > VERSION:
        raise UserError(
            f"the ledger {location} has format {about['version']}, this Lantern reads up to {VERSION}; "
            "update Lantern or set refine.ledger to another path"
        )
