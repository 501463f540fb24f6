"""The statements on the ledger's tables. Every function here runs inside the caller's transaction."""

from __future__ import annotations

import functools
import json
import os
import socket
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lantern.refine.ledger.tables import ANSWERS, BATCHES, CLAIMS, FAILURES, NOW, PAID
from lantern.refine.types import Failure, Outcome, Price, Reply, Request, Usage

LEASE = 60.0
"""Seconds after which the claim of a process that stopped renewing it is void."""


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


def is_dead(owner: str) -> bool:
    """True when the process behind *owner* is known to have ended; False when it lives or cannot be seen from here."""
    host, pid, started, _ = owner.split("|")
    if host != _host(os.getpid()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    now = _started(int(pid))
    return bool(started and now and started != now)


def request_json(request: Request) -> str:
    """*request* as canonical JSON; :func:`request_key` gives its key back."""
    content = {
        "backend": [request.provider, request.model, request.api_base],
        "messages": list(request.messages),
        "sampling": request.sampling,
        "response_format": request.response_format,
        "replicate": request.replicate,
        "oracle": request.oracle,
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def request_of(text: str) -> Request:
    """The request that :func:`request_json` wrote."""
    found = json.loads(text)
    provider, model, api_base = found.pop("backend")
    return Request(provider, model, api_base, tuple(found.pop("messages")), **found)


def is_imported(text: str) -> bool:
    """Whether a stored request came with a bundle, which has no words."""
    return text.startswith('{"imported"')


@dataclass(frozen=True, slots=True)
class Prune:
    """What to delete of a ledger."""

    answers_before: float | None = None
    """Answers older than this Unix time; None: no answers, unless *model* is given."""
    model: str | None = None
    """Only answers of this model, as asked for (``provider/model``) or as reported."""
    failures: bool = False
    """All failures, settled ones too: the next run asks again."""


def prune(db: sa.Connection, what: Prune, dry: bool) -> dict[str, int]:
    """Delete or count what *what* describes, and claims that have run out."""
    doomed: list[tuple[str, sa.Table, sa.ColumnElement[bool]]] = [
        ("claims that have run out", CLAIMS, CLAIMS.c.expires < NOW)
    ]
    if what.answers_before is not None or what.model is not None:
        where = ANSWERS.c.created < (what.answers_before or 1e18)
        if what.model is not None:
            where &= sa.or_(ANSWERS.c.model == what.model, asked_of(what.model))
        doomed.append(("answers", ANSWERS, where))
    if what.failures:
        doomed.append(("failures", FAILURES, sa.true()))
    found = {}
    for name, table, where in doomed:
        if dry:
            found[name] = db.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one()
        else:
            found[name] = db.execute(table.delete().where(where)).rowcount
    return found


def asked_of(model: str) -> sa.ColumnElement[bool]:
    """Answers whose stored request went to *model* (``provider/model``)."""
    provider, _, name = model.partition("/")
    text = json.dumps([provider, name], ensure_ascii=False, separators=(",", ":"))[:-1]
    return ANSWERS.c.request.startswith('{"backend":' + text + ",", autoescape=True)


def _plain(text: str | None) -> str | None:
    """*text* without what a database cannot hold: lone surrogates, and NUL in PostgreSQL."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "?")


def _columns(reply: Reply | None, price: Price | None) -> dict[str, Any]:
    if reply is None:
        return dict.fromkeys(PAID)
    usage = reply.usage
    values = [
        _plain(reply.text),
        _plain(reply.finish_reason),
        None if reply.logprobs is None else json.dumps(reply.logprobs, separators=(",", ":")),
        usage.input,
        usage.cached_input,
        usage.output,
        None if reply.cost is None else float(reply.cost),
        None if price is None else json.dumps([price.input, price.output, price.cached_input]),
        float(reply.latency),
        _plain(reply.model),
        float(reply.created),
    ]
    return dict(zip(PAID, [*values, check_sum(values)]))


def check_sum(values: Sequence[Any]) -> int:
    """CRC-32 over the columns of a reply."""
    return zlib.crc32("\x1f".join(map(repr, values)).encode())


class DamagedRow(Exception):
    """A stored reply does not have the check sum it was stored with."""


def _reply(row: Sequence[Any], key: str) -> Reply:
    if check_sum(row[:11]) != row[11]:
        raise DamagedRow(key)
    return Reply(
        text=row[0],
        finish_reason=row[1],
        logprobs=None if row[2] is None else json.loads(row[2]),
        usage=Usage(row[3], row[4], row[5]),
        cost=row[6],
        latency=row[8],
        model=row[9],
        created=row[10],
    )


_KEYS: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
_SETTLED = (
    sa.select(*(FAILURES.c[name] for name in ("key", "kind", "message", "status")), *(FAILURES.c[n] for n in PAID))
    .where(FAILURES.c.settled == 1, FAILURES.c.key.in_(_KEYS))
    .order_by(FAILURES.c.id)
)
_ANSWERED = sa.select(ANSWERS.c.key, *(ANSWERS.c[name] for name in PAID)).where(ANSWERS.c.key.in_(_KEYS))
_HELD = sa.select(CLAIMS.c.key, CLAIMS.c.owner).where(CLAIMS.c.key.in_(_KEYS), CLAIMS.c.expires > NOW)


def chunks(keys: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """*keys* in pieces that fit into one statement."""
    return (keys[start : start + size] for start in range(0, len(keys), size))


def read(db: sa.Connection, keys: Sequence[str]) -> dict[str, Outcome]:
    """Answers and settled failures among *keys*."""
    found: dict[str, Outcome] = {}
    for chunk in chunks(keys):
        for key, kind, message, status, *paid in db.execute(_SETTLED, {"keys": chunk}):
            found[key] = Failure(kind, message, status, None if paid[0] is None else _reply(paid, key))
        for key, *paid in db.execute(_ANSWERED, {"keys": chunk}):
            found[key] = _reply(paid, key)
    return found


_CLAIM = sa.select(CLAIMS.c.owner, CLAIMS.c.expires > NOW).where(CLAIMS.c.key == sa.bindparam("k"))
_EXPIRES = NOW + sa.bindparam("lease", type_=sa.Double)
_TAKE = CLAIMS.insert().values(key=sa.bindparam("k"), owner=sa.bindparam("o"), expires=_EXPIRES)
_TAKE_OVER = CLAIMS.update().where(CLAIMS.c.key == sa.bindparam("k")).values(owner=sa.bindparam("o"), expires=_EXPIRES)


def claim(db: sa.Connection, key: str, owner: str, lease: float = LEASE) -> Outcome | bool:
    """What is known about *key*; else True when it is *owner*'s to ask now, False when another is asking."""
    known = read(db, [key])
    if known:
        return known[key]
    held = db.execute(_CLAIM, {"k": key}).first()
    if held is not None and held[1] and not is_dead(held[0]):
        return False
    db.execute(_TAKE if held is None else _TAKE_OVER, {"k": key, "o": owner, "lease": lease})
    return True


def free(db: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Those of *keys* that nobody holds at present."""
    held: set[str] = set()
    dead: dict[str, bool] = {}
    for chunk in chunks(keys):
        for key, owner in db.execute(_HELD, {"keys": chunk}):
            if owner not in dead:
                dead[owner] = is_dead(owner)
            if not dead[owner]:
                held.add(key)
    return [key for key in keys if key not in held]


def look(db: sa.Connection, keys: Sequence[str]) -> tuple[dict[str, Outcome], set[str]]:
    """What is known of *keys*, and those of them that nobody holds."""
    return read(db, keys), set(free(db, keys))


_RENEW = CLAIMS.update().where(CLAIMS.c.owner == sa.bindparam("o")).values(expires=_EXPIRES)
_RELEASE_ALL = CLAIMS.delete().where(CLAIMS.c.owner == sa.bindparam("o"))
_RELEASE = _RELEASE_ALL.where(CLAIMS.c.key == sa.bindparam("k"))
_END = CLAIMS.delete().where(CLAIMS.c.key == sa.bindparam("k"))


def renew(db: sa.Connection, owner: str, lease: float = LEASE) -> None:
    """Prolong every claim of *owner*."""
    db.execute(_RENEW, {"o": owner, "lease": lease})


def release(db: sa.Connection, owner: str, key: str | None = None) -> None:
    """Give up the claim on *key*, or all of *owner*'s."""
    if key is None:
        db.execute(_RELEASE_ALL, {"o": owner})
    else:
        db.execute(_RELEASE, {"o": owner, "k": key})


def _new_row(table: sa.Table, names: Sequence[str]) -> list[sa.ColumnElement[Any]]:
    return [sa.bindparam(name, type_=table.c[name].type) for name in names]


_ANSWER = ["key", "request", *PAID]
_STORE_ANSWER = (
    ANSWERS.insert()
    .from_select(
        _ANSWER,
        sa.select(*_new_row(ANSWERS, _ANSWER)).where(
            ~sa.exists().where(ANSWERS.c.key == sa.bindparam("key", type_=sa.Text))
        ),
    )
    .execution_options(preserve_rowcount=True)
)
_FAILURE = ["key", "kind", "status", "message", "settled", "request", *PAID]
_STORE_FAILURE = FAILURES.insert().from_select([*_FAILURE, "time"], sa.select(*_new_row(FAILURES, _FAILURE), NOW))


def store_answer(db: sa.Connection, key: str, request: str, reply: Reply, price: Price | None) -> Reply:
    """Store *reply* and end the claim; where an answer is there already, that one stays and is returned."""
    db.execute(_END, {"k": key})
    if db.execute(_STORE_ANSWER, {"key": key, "request": request, **_columns(reply, price)}).rowcount:
        return reply
    kept = read(db, [key])[key]
    assert isinstance(kept, Reply)
    return kept


def store_failure(
    db: sa.Connection, key: str, request: str | None, failure: Failure, settled: bool, price: Price | None
) -> Failure:
    """Store *failure*; a settled one ends the claim and is never asked again."""
    if settled:
        db.execute(_END, {"k": key})
    db.execute(_STORE_FAILURE, _failure(key, request, failure, settled, price))
    return failure


def _failure(key: str, request: str | None, failure: Failure, settled: bool, price: Price | None) -> dict[str, Any]:
    return {
        "key": key,
        "kind": failure.kind,
        "status": failure.status,
        "message": _plain(failure.message),
        "settled": int(settled),
        "request": request,
        **_columns(failure.reply, price),
    }


def adopt(db: sa.Connection, imported: Sequence[tuple[str, str, Outcome]]) -> list[int]:
    """Store ``(key, request, outcome)`` of a bundle where nothing is known; the numbers of those that were new."""
    known = read(db, [key for key, _, _ in imported])
    new = [n for n, (key, _, _) in enumerate(imported) if key not in known]
    answers, failures = [], []
    for key, request, outcome in (imported[n] for n in new):
        if isinstance(outcome, Failure):
            failures.append(_failure(key, request, outcome, settled=True, price=None))
        else:
            answers.append({"key": key, "request": request, **_columns(outcome, None)})
    for statement, found in ((_STORE_ANSWER, answers), (_STORE_FAILURE, failures)):
        if found:
            db.execute(_END, [{"k": row["key"]} for row in found])
            db.execute(statement, found)
    return new


def batches(db: sa.Connection) -> list[tuple[str, str | None, str]]:
    """Name, provider's id and model of every batch on its way, in the order of their names."""
    found = db.execute(sa.select(BATCHES.c.name, BATCHES.c.id, BATCHES.c.model).order_by(BATCHES.c.name))
    return [(name, identity, model) for name, identity, model in found]


def batch_requests(db: sa.Connection, name: str) -> str | None:
    """What the batch *name* asks, as it was stored; None when it has been collected."""
    return db.execute(sa.select(BATCHES.c.requests).where(BATCHES.c.name == name)).scalar_one_or_none()


def keep_batch(db: sa.Connection, name: str, model: str, requests: str) -> None:
    """Store a batch that is about to be submitted."""
    db.execute(BATCHES.insert().values(name=name, model=model, requests=requests))


def name_batch(db: sa.Connection, name: str, identity: str) -> None:
    """Store the provider's *identity* of a batch that was submitted."""
    db.execute(BATCHES.update().where(BATCHES.c.name == name).values(id=identity))


def forget_batch(db: sa.Connection, name: str) -> None:
    """Delete a batch whose replies are stored, or that was not submitted."""
    db.execute(BATCHES.delete().where(BATCHES.c.name == name))
