"""The ledger's tables, the same in SQLite and PostgreSQL, and what a sound row of them is."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from lantern.errors import FailureKind
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Price, Reply, Request, Stored, Usage

Row = Mapping[Any, Any]
"""Values of a row by column."""
VERSION = 2
"""Of the format. Since 2 a request says what its reply must look like; a ledger of format 1 is read, and takes format 2
with the first thing that is written to it, so that an older Lantern says that it is too old."""
_OLDER = {"logprobs": "letters"}
"""Elicitations by the names that they had before."""

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
HELD = (ANSWERS, FAILURES, BATCHES)
"""The tables whose rows are worth keeping."""


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


# -- values: whatever is stored by these rules is read back as sound

KINDS = frozenset(FailureKind)
MOST_TOKENS = 10**9
"""Of one call. A count above it, or below 0, is no count."""
_MOST = {"cost": 1e6, "latency": 1e7, "created": 1e11}


def storable(text: str | None) -> str | None:
    """*text* without what a database cannot hold: lone surrogates, and NUL in PostgreSQL."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "?")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and storable(value) == value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _is_amount(name: str) -> Callable[[Any], bool]:
    # The comparison is never true of NaN.
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= _MOST[name]


def _or_null(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


_TEXT, _TEXT_OR_NULL = (_is_text, "text in UTF-8"), (_or_null(_is_text), "text in UTF-8 or null")
_COUNT = (_is_count, f"a whole number from 0 to {MOST_TOKENS}")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "key": _TEXT,
    "request": _TEXT,
    "text": _TEXT,
    "finish_reason": _TEXT_OR_NULL,
    "logprobs": _TEXT_OR_NULL,
    "input": _COUNT,
    "cached_input": _COUNT,
    "output": _COUNT,
    "cost": (_or_null(_is_amount("cost")), f"dollars from 0 to {_MOST['cost']:.0f} or null"),
    "price": _TEXT_OR_NULL,
    "latency": (_is_amount("latency"), f"seconds from 0 to {_MOST['latency']:.0f}"),
    "model": _TEXT_OR_NULL,
    "created": (_is_amount("created"), f"a Unix time from 0 to {_MOST['created']:.0f}"),
    "check_sum": (lambda value: type(value) is int, "a whole number"),
    "kind": (lambda value: isinstance(value, str) and value in KINDS, "a kind of failure that this Lantern knows"),
    "status": (_or_null(lambda value: type(value) is int and 0 <= value < 1000), "an HTTP status or null"),
    "message": _TEXT,
    "settled": (lambda value: type(value) is int and value in (0, 1), "0 or 1"),
    "time": (_is_amount("created"), f"a Unix time from 0 to {_MOST['created']:.0f}"),
    "name": _TEXT,
    "id": _TEXT_OR_NULL,
    "requests": _TEXT,
}
"""What the value of a column must be, and that in words."""
TOKENS = ("input", "cached_input", "output")
_REPLY = tuple(PAID)
_FAILURE = ("key", "kind", "status", "message", "settled", "time")


class DamagedRow(Exception):
    """A row is not what was stored. The message names the column and quotes nothing that is stored."""


def is_sound(name: str, value: Any) -> bool:
    """Whether Lantern stores *value* in a column of that name."""
    return RULES[name][0](value)


def check_values(row: Row, names: Sequence[str]) -> None:
    """Raise :class:`DamagedRow` where the value of a column among *names* is none that Lantern stores."""
    for name in names:
        if not is_sound(name, row[name]):
            raise DamagedRow(f"its {name} is not {RULES[name][1]}")


def check_sum(values: Sequence[Any]) -> int:
    """CRC-32 over the columns of a reply."""
    return zlib.crc32("\x1f".join(map(repr, values)).encode())


def columns(reply: Reply | None, price: Price | None) -> dict[str, Any]:
    """The columns of *reply*; a number that is absurd is stored as unknown (null, or 0)."""
    if reply is None:
        return dict.fromkeys(PAID)
    given: dict[str, Any] = {
        "text": storable(reply.text),
        "finish_reason": storable(reply.finish_reason),
        "logprobs": None if reply.logprobs is None else json.dumps(reply.logprobs, separators=(",", ":")),
        "input": reply.usage.input,
        "cached_input": reply.usage.cached_input,
        "output": reply.usage.output,
        "cost": reply.cost,
        "price": None if price is None else json.dumps([price.input, price.output, price.cached_input]),
        "latency": reply.latency,
        "model": storable(reply.model),
        "created": reply.created,
    }
    for name, unknown in {"cost": None, "latency": 0.0, "created": 0.0, **dict.fromkeys(TOKENS, 0)}.items():
        value: Any = given[name] if RULES[name][0](given[name]) else unknown
        given[name] = float(value) if name in _MOST and value is not None else value
    return {**given, "check_sum": check_sum(list(given.values()))}


def reply_of(row: Row) -> Reply:
    """The reply in the columns of *row*.

    Raises:
        DamagedRow: it is not what was stored.
    """
    check_values(row, _REPLY)
    if check_sum([row[name] for name in _REPLY[:-1]]) != row["check_sum"]:
        raise DamagedRow("its reply is not what was stored")
    logprobs = None if row["logprobs"] is None else _json(row["logprobs"], "logprobs")
    if logprobs is not None and not (isinstance(logprobs, list) and all(isinstance(one, dict) for one in logprobs)):
        raise DamagedRow("its logprobs are no list of tokens")
    return Reply(
        text=row["text"],
        finish_reason=row["finish_reason"],
        usage=Usage(*(row[name] for name in TOKENS)),
        cost=row["cost"],
        latency=row["latency"],
        model=row["model"],
        logprobs=logprobs,
        created=row["created"],
    )


def failure_of(row: Row) -> Failure:
    """The failure in *row*; raises as :func:`reply_of`."""
    check_values(row, _FAILURE)
    if row["text"] is None and any(row[name] is not None for name in _REPLY):
        raise DamagedRow("its reply is gone")
    reply = None if row["text"] is None else reply_of(row)
    return Failure(FailureKind(row["kind"]), row["message"], row["status"], reply)


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


def _json(text: Any, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise DamagedRow(f"its {name} is not JSON") from None


def request_of(text: Any) -> Request | None:
    """The request that :func:`request_json` wrote; None for a row that came with a bundle, which has no words.

    Rows of format 1 may have no shape; that of a JSON schema follows from the schema.

    Raises:
        DamagedRow: it is no request.
    """
    content = _json(text, "request")
    try:
        if "imported" in content:
            return None
        provider, model, api_base = content.pop("backend")
        shape = content.pop("shape", None)
        kind = str(shape["elicitation"]) if shape else ""
        content["shape"] = (
            ReplyShape.of_response_format(content["response_format"])
            if shape is None
            else ReplyShape(int(shape["count"]), tuple(map(str, shape["classes"])), _OLDER.get(kind, kind))
        )
        request = Request(provider, model, api_base, tuple(map(dict, content.pop("messages"))), **content)
        _ = [message["role"] for message in request.messages], request.key
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedRow("its request is not what was stored") from None
    return request


def request_with_key(row: Row) -> Request | None:
    """The request of *row*, as :func:`request_of`, checked against the key of the row."""
    request = request_of(row["request"])
    if request is not None and request.key != row["key"]:
        raise DamagedRow("its request does not have its key")
    return request


def entry_of(table: sa.Table, row: Row) -> tuple[Request | None, Stored] | None:
    """The request and what is stored for it, of a row of *table*; None for a batch or an attempt without a reply.

    Raises:
        DamagedRow: it is not what was stored.
    """
    if table is BATCHES:
        check_values(row, ("name", "id", "model", "requests"))
        batch_of(row["requests"])
        return None
    if table is FAILURES:
        failure = failure_of(row)
        return None if row["request"] is None else (request_with_key(row), failure)
    check_values(row, ("key", "request"))
    return request_with_key(row), reply_of(row)


def batch_of(text: Any) -> dict[str, Request]:
    """The requests of a batch, by key; raises as :func:`request_of`. Format 1 has a list of them, without keys."""
    given = _json(text, "requests")
    if not isinstance(given, dict | list):
        raise DamagedRow("its requests are no list")
    listed = given.items() if isinstance(given, dict) else ((None, one) for one in given)
    requests = {}
    for key, one in listed:
        request = request_of(one)
        if request is None or key not in (None, request.key):
            raise DamagedRow("its requests are not what was stored")
        requests[request.key] = request
    return requests
