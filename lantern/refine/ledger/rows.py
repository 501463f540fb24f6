"""The statements on the ledger's tables. Every function here runs inside the caller's transaction."""

from __future__ import annotations

import functools
import json
import os
import socket
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lantern.errors import FailureKind
from lantern.refine.ledger.schema import ANSWERS, CLAIMS, FAILURES, NOW, PAID
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Price, Reply, Request, Stored, Usage

KINDS = frozenset(FailureKind)
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
    """*request* as canonical JSON: what its key covers, then what it does not."""
    content = {
        "backend": [request.provider, request.model, request.api_base],
        "messages": list(request.messages),
        "sampling": request.sampling,
        "response_format": request.response_format,
        "replicate": request.replicate,
        "oracle": request.oracle,
    }
    if request.shape is not None:
        content["shape"] = asdict(request.shape)
    if request.bundle_key is not None:
        content["bundle_key"] = request.bundle_key
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def request_of(text: str) -> Request | None:
    """The request that :func:`request_json` wrote; None for a row that came with a bundle, which has no words.

    Rows of an older Lantern have no shape; that of a JSON schema follows from the schema.
    """
    content = json.loads(text)
    if "imported" in content:
        return None
    provider, model, api_base = content.pop("backend")
    shape = content.pop("shape", None)
    content["shape"] = (
        ReplyShape.of_response_format(content["response_format"])
        if shape is None
        else ReplyShape(shape["count"], tuple(shape["classes"]), shape["elicitation"])
    )
    return Request(provider, model, api_base, tuple(content.pop("messages")), **content)


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
    """Delete or count what *what* describes, and claims that have run out."""
    doomed: list[tuple[str, sa.Table, sa.ColumnElement[bool]]] = [
        ("claims that have run out", CLAIMS, CLAIMS.c.expires < NOW)
    ]
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


def sent_to(model: str) -> sa.ColumnElement[bool]:
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
    """A row is not what was stored; the message says which."""


def _reply(row: Sequence[Any], key: str) -> Reply:
    if check_sum(row[:11]) != row[11]:
        raise DamagedRow(f"the reply to request {key} is not what was stored")
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


def read(db: sa.Connection, keys: Sequence[str]) -> dict[str, Stored]:
    """Replies and settled failures among *keys*."""
    stored: dict[str, Stored] = {}
    for chunk in chunks(keys):
        for key, kind, message, status, *paid in db.execute(_SETTLED, {"keys": chunk}):
            if kind not in KINDS:
                raise DamagedRow(f"request {key} failed as {kind!r}, a kind that this Lantern does not know")
            stored[key] = Failure(FailureKind(kind), message, status, None if paid[0] is None else _reply(paid, key))
        for key, *paid in db.execute(_ANSWERED, {"keys": chunk}):
            stored[key] = _reply(paid, key)
    return stored


_CLAIM = sa.select(CLAIMS.c.owner, CLAIMS.c.expires > NOW).where(CLAIMS.c.key == sa.bindparam("k"))
_EXPIRES = NOW + sa.bindparam("lease", type_=sa.Double)
_TAKE = CLAIMS.insert().values(key=sa.bindparam("k"), owner=sa.bindparam("o"), expires=_EXPIRES)
_TAKE_OVER = CLAIMS.update().where(CLAIMS.c.key == sa.bindparam("k")).values(owner=sa.bindparam("o"), expires=_EXPIRES)


def claim(db: sa.Connection, key: str, owner: str, lease: float = LEASE) -> Stored | bool:
    """What is stored for *key*; else True when *owner* is to send it now, False when another process is sending it."""
    known = read(db, [key])
    if known:
        return known[key]
    held = db.execute(_CLAIM, {"k": key}).first()
    if held is not None and held[1] and not is_dead(held[0]):
        return False
    db.execute(_TAKE if held is None else _TAKE_OVER, {"k": key, "o": owner, "lease": lease})
    return True


def free(db: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Those of *keys* without a claim of a living process."""
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
_STORE_REPLY = (
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
_VERDICT = ["kind", "status", "message"]
_REFUSE = FAILURES.insert().from_select(
    [*_VERDICT, "settled", "time", *_ANSWER],
    sa.select(*_new_row(FAILURES, _VERDICT), sa.literal(1), NOW, *(ANSWERS.c[name] for name in _ANSWER)).where(
        ANSWERS.c.key == sa.bindparam("k")
    ),
)
_FORGET = ANSWERS.delete().where(ANSWERS.c.key == sa.bindparam("k"))


def store_reply(db: sa.Connection, key: str, request: Request, reply: Reply, price: Price | None) -> Reply:
    """Store *reply* and end the claim; where a reply is there already, that one stays and is returned."""
    db.execute(_END, {"k": key})
    row = {"key": key, "request": request_json(request), **_columns(reply, price)}
    if db.execute(_STORE_REPLY, row).rowcount:
        return reply
    kept = read(db, [key])[key]
    assert isinstance(kept, Reply)
    return kept


def refuse(db: sa.Connection, key: str, failure: Failure) -> None:
    """Make the stored reply of *key* a settled failure: its content cannot be used."""
    verdict = {"kind": failure.kind.value, "status": failure.status, "message": _plain(failure.message)}
    db.execute(_REFUSE, {"k": key, **verdict})
    db.execute(_FORGET, {"k": key})


def store_failure(db: sa.Connection, key: str, request: Request, failure: Failure, price: Price | None) -> None:
    """Store *failure*; one of the content is settled: it ends the claim, and the request is never sent again."""
    settled = failure.kind.content
    if settled:
        db.execute(_END, {"k": key})
    db.execute(_STORE_FAILURE, _failure(key, request_json(request) if settled else None, failure, settled, price))


def _failure(key: str, request: str | None, failure: Failure, settled: bool, price: Price | None) -> dict[str, Any]:
    return {
        "key": key,
        "kind": failure.kind.value,
        "status": failure.status,
        "message": _plain(failure.message),
        "settled": int(settled),
        "request": request,
        **_columns(failure.reply, price),
    }


def adopt(db: sa.Connection, imported: Sequence[tuple[str, str, Stored]]) -> list[int]:
    """Store ``(key, backend, stored)`` of a bundle where the key is new; the numbers of those that were."""
    known = read(db, [key for key, _, _ in imported])
    new = [n for n, (key, _, _) in enumerate(imported) if key not in known]
    replies, failures = [], []
    for key, backend, stored in (imported[n] for n in new):
        request = json.dumps({"imported": backend})
        if isinstance(stored, Failure):
            failures.append(_failure(key, request, stored, settled=True, price=None))
        else:
            replies.append({"key": key, "request": request, **_columns(stored, None)})
    for statement, rows in ((_STORE_REPLY, replies), (_STORE_FAILURE, failures)):
        if rows:
            db.execute(_END, [{"k": row["key"]} for row in rows])
            db.execute(statement, rows)
    return new
