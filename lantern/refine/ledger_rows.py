"""The ledger's tables and the statements on them. Every function here runs inside the caller's transaction."""

from __future__ import annotations

import functools
import json
import os
import socket
import sqlite3
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.errors import UserError
from lantern.refine.types import Failure, Outcome, Price, Reply, Request, Usage

VERSION = 1
LEASE = 60.0
"""Seconds after which the claim of a process that stopped renewing it is void."""

_PAID = """text TEXT, finish_reason TEXT, logprobs TEXT, input INTEGER, cached_input INTEGER, output INTEGER,
  cost REAL, price TEXT, latency REAL, model TEXT, created REAL, check_sum INTEGER"""
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, {_PAID})",
    f"""CREATE TABLE IF NOT EXISTS failures (id INTEGER PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL,
  status INTEGER, message TEXT NOT NULL, settled INTEGER NOT NULL, request TEXT, time REAL NOT NULL, {_PAID})""",
    "CREATE INDEX IF NOT EXISTS failures_by_key ON failures (key, settled)",
    "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL)",
    "INSERT OR IGNORE INTO ledger VALUES ('format', 'lantern-ledger')",
    f"INSERT OR IGNORE INTO ledger VALUES ('version', '{VERSION}')",
)
_COLUMNS = "text, finish_reason, logprobs, input, cached_input, output, cost, price, latency, model, created, check_sum"
_MARKS = ", ".join("?" * 12)


def explain(error: sqlite3.Error, path: Path) -> UserError:
    """What an SQLite *error* on the ledger at *path* means for the user and what to do."""
    text = str(error)
    if "not a database" in text:
        return UserError(f"{path} is not a Lantern ledger (no SQLite file, or its head is damaged); {_MOVE}")
    if "malformed" in text or "corrupt" in text:
        return damaged(path, text)
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
        return UserError(f"the ledger {path} was locked by another program for a minute; run the same command again")
    if "unable to open" in text:
        return UserError(f"the ledger {path} cannot be opened; check that its folder exists and is writable")
    return UserError(f"the ledger {path}: {text}")


_MOVE = "move it away or set refine.ledger to another path"


def damaged(path: Path, what: str) -> UserError:
    """The error for a ledger whose content is damaged."""
    return UserError(
        f"the ledger {path} is damaged ({what}); nothing was changed. Copy it, then save what is readable with: "
        f"sqlite3 {path} .recover | sqlite3 {path}.recovered"
    )


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


def prune(db: sqlite3.Connection, what: Prune, dry: bool) -> dict[str, int]:
    """Delete or count what *what* describes, and claims that have run out."""
    found = {}
    values: list[Any]
    doomed: list[tuple[str, str, list[Any]]] = [("claims that have run out", "claims WHERE expires < ?", [time.time()])]
    if what.answers_before is not None or what.model is not None:
        where, values = "answers WHERE created < ?", [what.answers_before or 1e18]
        if what.model is not None:
            where += " AND (model = ? OR request LIKE ? ESCAPE '\\')"
            values += [what.model, backend_pattern(what.model)]
        doomed.append(("answers", where, values))
    if what.failures:
        doomed.append(("failures", "failures", []))
    for name, where, values in doomed:
        if dry:
            found[name] = db.execute(f"SELECT COUNT(*) FROM {where}", values).fetchone()[0]
        else:
            found[name] = db.execute(f"DELETE FROM {where}", values).rowcount
    return found


def backend_pattern(model: str) -> str:
    """A LIKE pattern, escaped with a backslash, of the stored requests to *model* (``provider/model``)."""
    provider, _, name = model.partition("/")
    text = json.dumps([provider, name], ensure_ascii=False, separators=(",", ":"))[:-1]
    return '{"backend":' + _literal(text) + ",%"


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _columns(reply: Reply | None, price: Price | None) -> list[Any]:
    if reply is None:
        return [None] * 12
    logprobs = None if reply.logprobs is None else json.dumps(reply.logprobs, separators=(",", ":"))
    priced = None if price is None else json.dumps([price.input, price.output, price.cached_input])
    usage = reply.usage
    values = [
        reply.text.encode("utf-8", "replace").decode(),
        reply.finish_reason,
        logprobs,
        usage.input,
        usage.cached_input,
        usage.output,
        None if reply.cost is None else float(reply.cost),
        priced,
        float(reply.latency),
        reply.model,
        float(reply.created),
    ]
    return [*values, check_sum(values)]


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


def read(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Outcome]:
    """Answers and settled failures among *keys*."""
    found: dict[str, Outcome] = {}
    for start in range(0, len(keys), 500):
        chunk = keys[start : start + 500]
        marks = ",".join("?" * len(chunk))
        rows = db.execute(
            f"SELECT key, kind, message, status, {_COLUMNS} FROM failures WHERE settled = 1 AND key IN ({marks}) "
            "ORDER BY id",
            chunk,
        )
        for key, kind, message, status, *paid in rows:
            found[key] = Failure(kind, message, status, None if paid[0] is None else _reply(paid, key))
        for key, *paid in db.execute(f"SELECT key, {_COLUMNS} FROM answers WHERE key IN ({marks})", chunk):
            found[key] = _reply(paid, key)
    return found


def claim(db: sqlite3.Connection, key: str, owner: str, lease: float = LEASE) -> Outcome | bool:
    """What is known about *key*; else True when it is *owner*'s to ask now, False when another is asking."""
    known = read(db, [key])
    if known:
        return known[key]
    now = time.time()
    row = db.execute("SELECT owner, expires FROM claims WHERE key = ?", (key,)).fetchone()
    if row is not None and row[1] > now and not is_dead(row[0]):
        return False
    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, owner, now + lease))
    return True


def free(db: sqlite3.Connection, keys: Sequence[str]) -> list[str]:
    """Those of *keys* that nobody holds at present."""
    now = time.time()
    held: set[str] = set()
    dead: dict[str, bool] = {}
    for start in range(0, len(keys), 500):
        chunk = keys[start : start + 500]
        marks = ",".join("?" * len(chunk))
        for key, owner, expires in db.execute(f"SELECT key, owner, expires FROM claims WHERE key IN ({marks})", chunk):
            if owner not in dead:
                dead[owner] = is_dead(owner)
            if expires > now and not dead[owner]:
                held.add(key)
    return [key for key in keys if key not in held]


def look(db: sqlite3.Connection, keys: Sequence[str]) -> tuple[dict[str, Outcome], set[str]]:
    """What is known of *keys*, and those of them that nobody holds."""
    return read(db, keys), set(free(db, keys))


def renew(db: sqlite3.Connection, owner: str, lease: float = LEASE) -> None:
    """Prolong every claim of *owner*."""
    db.execute("UPDATE claims SET expires = ? WHERE owner = ?", (time.time() + lease, owner))


def release(db: sqlite3.Connection, owner: str, key: str | None = None) -> None:
    """Give up the claim on *key*, or all of *owner*'s."""
    db.execute("DELETE FROM claims WHERE owner = ? AND (key = ? OR ? IS NULL)", (owner, key, key))


def store_answer(db: sqlite3.Connection, key: str, request: str, reply: Reply, price: Price | None) -> Reply:
    """Store *reply* and end the claim; where an answer is there already, that one stays and is returned."""
    db.execute("DELETE FROM claims WHERE key = ?", (key,))
    stored = db.execute(
        f"INSERT OR IGNORE INTO answers (key, request, {_COLUMNS}) VALUES (?, ?, {_MARKS})",
        (key, request, *_columns(reply, price)),
    )
    if stored.rowcount:
        return reply
    kept = read(db, [key])[key]
    assert isinstance(kept, Reply)
    return kept


def store_failure(
    db: sqlite3.Connection, key: str, request: str | None, failure: Failure, settled: bool, price: Price | None
) -> Failure:
    """Store *failure*; a settled one ends the claim and is never asked again."""
    if settled:
        db.execute("DELETE FROM claims WHERE key = ?", (key,))
    db.execute(
        f"INSERT INTO failures (key, kind, status, message, settled, request, time, {_COLUMNS}) "
        f"VALUES (?, ?, ?, ?, ?, ?, ?, {_MARKS})",
        (
            *(key, failure.kind, failure.status, failure.message.encode("utf-8", "replace").decode()),
            *(int(settled), request, time.time()),
            *_columns(failure.reply, price),
        ),
    )
    return failure
