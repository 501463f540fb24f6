"""Where a ledger is: a path is an SQLite file, a ``postgresql://`` URL a database. Imports no driver."""

from __future__ import annotations

import re

from lantern.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://|(postgres\w*):", re.IGNORECASE)
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
_PORTS = re.compile(r"(?:\[[^\]]*\]|[^:,\[\]]*)(?::\d*)?")
_FORM = "postgresql://user@host/database"


def is_url(location: str) -> bool:
    """Whether *location* is a database, not a file."""
    return location.startswith(("postgresql://", "postgres://"))


def check_location(location: str) -> None:
    """Refuse what is neither a path nor a PostgreSQL URL without a password.

    Raises:
        UserError: the reason; it quotes nothing of a URL but its scheme, for the rest may hold a password.
    """
    scheme = _SCHEME.match(location)
    if scheme is None:
        return
    if not is_url(location):
        raise UserError(f"refine.ledger: {scheme[0]} is no place for a ledger; give a path (an SQLite file) or {_FORM}")
    head, _, query = location[scheme.end() :].partition("?")
    settings = [part.partition("=") for part in query.split("&")] if query else []
    user, at, _ = head.rpartition("@")
    if (at and ":" in user) or any(_SECRET.search(name) for name, _, _ in settings):
        raise UserError(
            "refine.ledger: a URL with a password is refused, for settings are written to files; leave the password "
            f"out ({_FORM}) and give it in the environment variable PGPASSWORD or in ~/.pgpass"
        )
    hosts = head.rpartition("@")[2].partition("/")[0].split(",")
    if not all(_PORTS.fullmatch(host) for host in hosts) or not all(equals for _, equals, _ in settings):
        raise UserError(
            "refine.ledger is not a PostgreSQL URL; its form is postgresql://user@host:port/database?name=value, "
            "with other characters as %40 (@), %2F (/), %3A (:)"
        )
