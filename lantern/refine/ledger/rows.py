"""The statements on the ledger's tables. Every function here runs inside the caller's transaction."""

from __future__ import annotations

import functools
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lantern.errors import FailureKind
from lantern.refine.ledger.schema import (
    ANSWERS,
    BATCHES,
    CLAIMS,
    FAILURES,
    NOW,
    PAID,
    RULES,
    DamagedRow,
    Row,
    columns,
    failure_of,
    reply_of,
    request_json,
    storable,
)
from lantern.refine.types import Failure, Price, Reply, Request, Stored

LEASE = 60.0
"""Seconds after which the claim of a process that stopped renewing it is void."""
LONGEST = 86_400.0
"""Seconds; a claim that ends later than that is damaged, and void."""


@functools.cache
def _host(pid: int) -> str:
    """Machine, boot and pid namespace: within one of them a process number means something."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  a magic link, not a path
    except OSError:
        pass
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Start time of process *pid*, so that a reused number is not taken for the old process; None if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def new_owner() -> str:
    """A name for one holder of claims in this process."""
    pid = os.getpid()
    return "|".join((_host(pid), str(pid), _started(pid) or "", uuid.uuid4().hex))


def is_dead(owner: Any) -> bool:
    """True when the process behind *owner* is known to have ended; False when it lives or cannot be seen from here.

    What is no name of an owner is dead: the row is damaged.
    """
    try:
        host, number, started, _ = owner.split("|")
        pid = int(number)
        if host != _host(os.getpid()):
            return False
        os.kill(pid, 0)
    except PermissionError:
        return False
    except (ProcessLookupError, ValueError, AttributeError, TypeError, OverflowError):
        return True
    now = _started(pid)
    return pid <= 0 or bool(started and now and started != now)


# -- reading

_KEYS: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
_SETTLED = (
    sa.select(*(c for c in FAILURES.c if c.name != "request"))
    .where(FAILURES.c.settled == 1, FAILURES.c.key.in_(_KEYS))
    .order_by(FAILURES.c.id)
)
_ANSWERED = sa.select(*(c for c in ANSWERS.c if c.name != "request")).where(ANSWERS.c.key.in_(_KEYS))


def chunks(keys: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """*keys* in pieces that fit into one statement."""
    return (keys[start : start + size] for start in range(0, len(keys), size))


def lookup(db: sa.Connection, keys: Sequence[str]) -> dict[str, Stored | DamagedRow]:
    """Replies and settled failures among *keys*; :class:`DamagedRow` where there is none but a damaged one."""
    found: dict[str, Stored | DamagedRow] = {}
    for chunk in chunks(keys):
        for query, read_row in ((_SETTLED, failure_of), (_ANSWERED, reply_of)):
            for row in db.execute(query, {"keys": chunk}).mappings():
                try:
                    found[row["key"]] = read_row(row)
                except DamagedRow as damage:
                    found.setdefault(row["key"], damage)
    return found


def read(db: sa.Connection, keys: Sequence[str]) -> dict[str, Stored]:
    """Replies and settled failures among *keys*; a damaged row is as good as none."""
    return {key: one for key, one in lookup(db, keys).items() if not isinstance(one, DamagedRow)}


def place_of(db: sa.Connection, table: sa.Table) -> sa.ColumnElement[Any]:
    """What tells the rows of *table* apart, however damaged: SQLite's number of a row, else the primary key."""
    if db.dialect.name == "sqlite":
        return sa.literal_column("rowid", sa.BigInteger)
    return next(iter(table.primary_key))


def page(db: sa.Connection, table: sa.Table, after: Any, where: Any = None, size: int = 200) -> list[Row]:
    """The next rows of *table* in the order of their ``place``, after the place *after* (None: the first)."""
    place = place_of(db, table)
    query = sa.select(place.label("place"), *table.c).order_by(place).limit(size)
    query = query if after is None else query.where(place > after)
    return [row._mapping for row in db.execute(query if where is None else query.where(where))]


def asked_with(messages: Sequence[Mapping[str, str]], table: sa.Table) -> sa.ColumnElement[bool]:
    """Rows of *table* whose request has *messages* somewhere among its own, as its repair turn has."""
    text = json.dumps(list(messages), sort_keys=True, ensure_ascii=False, separators=(",", ":"))[1:-1]
    return sa.func.replace(table.c.request, text, "") != table.c.request


def sent_to(model: str) -> sa.ColumnElement[bool]:
    """Answers whose stored request went to *model* (``provider/model``)."""
    provider, _, name = model.partition("/")
    text = json.dumps([provider, name], ensure_ascii=False, separators=(",", ":"))[:-1]
    return ANSWERS.c.request.startswith('{"backend":' + text + ",", autoescape=True)


def mean_latency(db: sa.Connection, model: str) -> float | None:
    """Mean seconds of the calls to *model* (``provider/model``) with a reply, batches aside; None without any."""
    sent = ANSWERS.c.latency.between(1e-9, 1e7) & sent_to(model)
    return db.execute(sa.select(sa.func.avg(ANSWERS.c.latency)).where(sent)).scalar_one()


# -- claims

_LIVE = CLAIMS.c.expires.between(NOW, NOW + LONGEST)
_HELD = sa.select(CLAIMS.c.key, CLAIMS.c.owner).where(CLAIMS.c.key.in_(_KEYS), _LIVE)
# Made once: to put a statement together takes longer than to carry it out.
_OF_KEY = CLAIMS.c.key == sa.bindparam("k")
_END = CLAIMS.delete().where(_OF_KEY)
_HOLDER = sa.select(CLAIMS.c.owner, _LIVE).where(_OF_KEY)
_TAKEN = {"owner": sa.bindparam("by"), "expires": NOW + sa.bindparam("lease", type_=sa.Double)}
_TAKE = CLAIMS.insert().values(key=sa.bindparam("k"), **_TAKEN)
_TAKE_OVER = CLAIMS.update().where(_OF_KEY).values(_TAKEN)


def claim(db: sa.Connection, key: str, owner: str, lease: float = LEASE) -> Stored | bool:
    """What is stored for *key*; else True when *owner* is to send it now, False when another process is sending it."""
    known = read(db, [key])
    if known:
        return known[key]
    held = db.execute(_HOLDER, {"k": key}).first()
    if held is not None and held[1] and not is_dead(held[0]):
        return False
    db.execute(_TAKE if held is None else _TAKE_OVER, {"k": key, "by": owner, "lease": lease})
    return True


def free(db: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Those of *keys* that no living process is sending at present."""
    held: set[str] = set()
    dead: dict[str, bool] = {}
    for chunk in chunks(keys):
        for key, owner in db.execute(_HELD, {"keys": chunk}):
            if owner not in dead:
                dead[owner] = is_dead(owner)
            if not dead[owner]:
                held.add(key)
    return [key for key in keys if key not in held]


def look(db: sa.Connection, keys: Sequence[str]) -> tuple[dict[str, Stored], set[str]]:
    """What is stored for *keys*, and those of them without a claim."""
    return read(db, keys), set(free(db, keys))


def renew(db: sa.Connection, owner: str, lease: float = LEASE) -> None:
    """Prolong every claim of *owner*."""
    db.execute(CLAIMS.update().where(CLAIMS.c.owner == owner).values(expires=NOW + lease))


def release(db: sa.Connection, owner: str, key: str | None = None) -> None:
    """Give up the claim of *owner* on *key*, or all its claims."""
    held = CLAIMS.delete().where(CLAIMS.c.owner == owner)
    db.execute(held if key is None else held.where(CLAIMS.c.key == key))


# -- writing


_ANSWER = ["key", "request", *PAID]
_STORE_FAILURE = FAILURES.insert().values(time=NOW)


def _make_room(db: sa.Connection, key: str) -> None:
    """Let the damaged answer to *key* stay under a key of its own, until it is repaired."""
    db.execute(ANSWERS.update().where(ANSWERS.c.key == key).values(key=f"{key} damaged {uuid.uuid4().hex}"))


def store_reply(db: sa.Connection, request: Request, reply: Reply, price: Price | None = None, key: str = "") -> Reply:
    """Store *reply* and end the claim; where a sound one is there already, that one stays and is returned.

    *key*: that of *request*, where it is known.
    """
    key = key or request.key
    db.execute(_END, {"k": key})
    for kept in db.execute(_ANSWERED, {"keys": [key]}).mappings():
        try:
            return reply_of(kept)
        except DamagedRow:
            _make_room(db, key)
    row = {"key": key, "request": request_json(request), **columns(reply, price)}
    db.execute(ANSWERS.insert(), row)
    return reply_of(row)


def refuse(db: sa.Connection, key: str, failure: Failure) -> None:
    """Make the stored reply of *key* a settled failure: its content cannot be used."""
    verdict = _verdict(failure, settled=True)
    said = (sa.literal(value, FAILURES.c[name].type) for name, value in verdict.items())
    moved = sa.select(*said, NOW, *(ANSWERS.c[name] for name in _ANSWER)).where(ANSWERS.c.key == key)
    db.execute(FAILURES.insert().from_select([*verdict, "time", *_ANSWER], moved))
    db.execute(ANSWERS.delete().where(ANSWERS.c.key == key))


def store_failure(
    db: sa.Connection, request: Request, failure: Failure, price: Price | None = None, key: str = ""
) -> None:
    """Store *failure*; one of the content is settled: it ends the claim, and the request is never sent again."""
    key = key or request.key
    settled = failure.kind.content
    if settled:
        db.execute(_END, {"k": key})
    db.execute(_STORE_FAILURE, _failure(key, request_json(request) if settled else None, failure, settled, price))


def _verdict(failure: Failure, settled: bool) -> dict[str, Any]:
    status = failure.status if RULES["status"][0](failure.status) else None
    message = storable(failure.message)
    return {"kind": failure.kind.value, "status": status, "message": message, "settled": int(settled)}


def _failure(key: str, request: str | None, failure: Failure, settled: bool, price: Price | None) -> dict[str, Any]:
    return {"key": key, "request": request, **_verdict(failure, settled), **columns(failure.reply, price)}


def unsettle(db: sa.Connection, kinds: Sequence[FailureKind] | None = None) -> int:
    """Let the requests of settled failures (of *kinds*; None: all) be sent again; returns how many."""
    change = FAILURES.update().where(FAILURES.c.settled == 1).values(settled=0)
    if kinds is not None:
        change = change.where(FAILURES.c.kind.in_([kind.value for kind in kinds]))
    return db.execute(change).rowcount


def adopt(db: sa.Connection, imported: Sequence[tuple[str, str, Stored]]) -> list[int]:
    """Store ``(key, backend, stored)`` of a bundle, all or none; the numbers of those whose key was new."""
    known = lookup(db, [key for key, _, _ in imported])
    fresh: dict[str, int] = {}
    for number, (key, _, _) in enumerate(imported):
        if isinstance(known.get(key), DamagedRow):
            _make_room(db, key)
            del known[key]
        if key not in known:
            fresh.setdefault(key, number)
    replies, failures = [], []
    for key, backend, stored in (imported[number] for number in fresh.values()):
        request = json.dumps({"imported": backend})
        if isinstance(stored, Failure):
            failures.append(_failure(key, request, stored, settled=True, price=None))
        else:
            replies.append({"key": key, "request": request, **columns(stored, None)})
    for statement, rows in ((ANSWERS.insert(), replies), (_STORE_FAILURE, failures)):
        if rows:
            db.execute(_END, [{"k": row["key"]} for row in rows])
            db.execute(statement, rows)
    return list(fresh.values())


def keep_batch(db: sa.Connection, name: str, model: str, requests: Sequence[Request]) -> None:
    """Store a batch before it is submitted."""
    text = json.dumps({request.key: request_json(request) for request in requests})
    db.execute(BATCHES.insert().values(name=name, model=model, requests=text))


def name_batch(db: sa.Connection, name: str, identity: str) -> None:
    """Store the provider's id of a batch that was submitted."""
    db.execute(BATCHES.update().where(BATCHES.c.name == name).values(id=identity))


def forget_batch(db: sa.Connection, name: str) -> None:
    """Delete a batch whose replies are stored, or that was not submitted."""
    db.execute(BATCHES.delete().where(BATCHES.c.name == name))


@dataclass(frozen=True, slots=True)
class Prune:
    """What to delete of a ledger."""

    answers_before: float | None = None
    """Answers older than this Unix time; None: no answers, unless *model* is given."""
    model: str | None = None
    """Only answers of this model, as requested (``provider/model``) or as reported."""
    failures: bool = False
    """All failures, settled ones too: the next run sends their requests again."""


def prune(db: sa.Connection, what: Prune, dry: bool) -> dict[str, int]:
    """Delete, or with *dry* only count, what *what* describes and void claims; numbers by kind of row."""
    void = sa.or_(~_LIVE, CLAIMS.c.expires.is_(None))
    doomed: list[tuple[str, sa.Table, sa.ColumnElement[bool]]] = [("claims that have run out", CLAIMS, void)]
    if what.answers_before is not None or what.model is not None:
        where = ANSWERS.c.created < (what.answers_before or 1e18)
        if what.model is not None:
            where &= sa.or_(ANSWERS.c.model == what.model, sent_to(what.model))
        doomed.append(("answers", ANSWERS, where))
    if what.failures:
        doomed.append(("failures", FAILURES, sa.true()))
    counts = {}
    for name, table, where in doomed:
        if dry:
            counts[name] = db.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one()
        else:
            counts[name] = db.execute(table.delete().where(where)).rowcount
    return counts
