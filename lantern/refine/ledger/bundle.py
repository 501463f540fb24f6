"""Share what an LLM answered without sharing its prompts: numbers under hashes, no word of a transcript.

A bundle is JSON Lines. The same corpus and the same vanilla predictions give the same requests and so the same keys:
with the bundle, weighting, metrics and tables can be redone without an LLM.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lantern.errors import FailureKind, UserError
from lantern.files import atomic
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.schema import MOST_TOKENS, RULES
from lantern.refine.reply import numbers_of
from lantern.refine.types import Failure, Reply, Request, Stored, Usage

FORMAT = "lantern-bundle"
VERSION = 1
NO_NUMBERS = "the reply holds no probabilities that go without words"
NO_SHAPE = "an older Lantern stored the request without the utterances and classes that it asks about"
QUOTES = "an older Lantern stored the repair turn, which quotes a reply"
KNOWN = "the ledger has them already"
DAMAGED = "the ledger's row is damaged; python -m experiments.ledger verify lists them"
USAGE = f"three whole numbers from 0 to {MOST_TOKENS}"
LONGEST = 2**25
"""Bytes of a line; a longer one is none that was exported."""


@dataclass(frozen=True, slots=True)
class BundleCounts:
    """What was exported or imported."""

    answers: int
    failures: int
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows that were left out, by reason."""


def export_bundle(ledger: Ledger, path: Path) -> BundleCounts:
    """Write the answers and settled failures of *ledger* to *path*, atomically."""
    answers = failures = 0
    skipped: Counter[str] = Counter()
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        _, damaged = ledger.check()
        for request, stored in ledger.stored():
            if request.bundle_key is None and any(message["role"] == "assistant" for message in request.messages):
                skipped[QUOTES] += 1
                continue
            if isinstance(stored, Failure):
                row = _row(request, stored.reply, "") | {"kind": stored.kind, "status": stored.status}
                failures += 1
            elif request.shape is None:
                skipped[NO_SHAPE] += 1
                continue
            elif (numbers := numbers_of(stored, request.shape)) is None:
                skipped[NO_NUMBERS] += 1
                continue
            else:
                row = _row(request, stored, request.shape.write(numbers))
                answers += 1
            out.write(json.dumps(row) + "\n")
        if damaged:
            skipped[DAMAGED] = len(damaged)
    return BundleCounts(answers, failures, dict(skipped))


def import_bundle(ledger: Ledger, path: Path) -> BundleCounts:
    """Store what *path* holds in *ledger*, in one transaction; what is there already stays.

    Raises:
        UserError: not a bundle, of a newer version, or a row is not what :func:`export_bundle` writes, with its line
            and what is wrong in it; nothing is stored then.
    """
    imported: list[tuple[str, str, Stored]] = []
    try:
        with path.open("rb") as file:
            _check_head(path, file.readline(LONGEST))
            for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 2):
                try:
                    if line.strip():
                        imported.append(_imported(line))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: not a bundle row: {_reason(error)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a bundle: {error.strerror}") from None
    new = ledger.adopt(imported)
    answers = sum(isinstance(imported[n][2], Reply) for n in new)
    known = len(imported) - len(new)
    return BundleCounts(answers, len(new) - answers, {KNOWN: known} if known else {})


def _check_head(path: Path, line: bytes) -> None:
    try:
        head = _strict(line)
        version = head["version"] if head["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if type(version) is not int or version < 1:
        raise UserError(f"{path} is not a bundle; python -m experiments.ledger export writes one")
    if version > VERSION:
        raise UserError(f"{path} is a bundle of version {version}, this Lantern reads up to {VERSION}; update Lantern")


class _Wrong(ValueError):
    """What is wrong in a row."""


def _reason(error: Exception) -> str:
    if isinstance(error, _Wrong):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} of it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"its JSON is broken at character {error.pos + 1}"
    return "its JSON is nested too deep" if isinstance(error, RecursionError) else "a number in it is too long"


def _strict(text: str | bytes) -> Any:
    """The value of JSON *text*: no key twice, no NaN, no Infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise _Wrong(f"the key {key!r:.60} is there twice")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise _Wrong(f"{constant} is no number of JSON")

    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    return json.loads(decoded, object_pairs_hook=unique, parse_constant=refuse)


_PAID = {"reply", "finish_reason", "usage", "cost", "latency", "model", "created"}
_FAILED = {"kind", "status"}
_CONTENT = [kind.value for kind in FailureKind if kind.content]


def _imported(line: bytes) -> tuple[str, str, Stored]:
    """Key, backend and what is stored, of one row; a ValueError for what :func:`export_bundle` would not write."""
    value = _strict(line)
    if not isinstance(value, dict):
        raise _Wrong(f"it is {value!r:.60}, not an object")
    failed = "kind" in value
    due = {"key", "backend"} | (_FAILED if failed else set()) | (_PAID if not failed or "reply" in value else set())
    for what, names in (("is missing", due - value.keys()), ("is unknown", value.keys() - due)):
        if names:
            raise _Wrong(f"{min(names)!r:.60} {what}")

    def must(name: str, valid: bool, what: str) -> None:
        if not valid:
            raise _Wrong(f"{name} is {json.dumps(value[name])[:60]}; it must be {what}")

    key, backend = value["key"], value["backend"]
    must("key", isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) is not None, "64 digits of 0-9 and a-f")
    must("backend", RULES["key"][0](backend) and "/" in backend, "provider/model")
    reply = None
    if "reply" in value:
        usage = value["usage"]
        must("usage", isinstance(usage, list) and len(usage) == 3 and all(map(RULES["input"][0], usage)), USAGE)
        for name in ("finish_reason", "cost", "latency", "model", "created"):
            must(name, RULES[name][0](value[name]), RULES[name][1])
        wanted = "empty, for a failure" if failed else "JSON of a probability for each class of each utterance"
        must("reply", value["reply"] == "" if failed else _probabilities(value["reply"]), wanted)
        numbers = (None if value[name] is None else float(value[name]) for name in ("cost", "latency", "created"))
        cost, latency, created = numbers
        reply = Reply(
            text=value["reply"],
            finish_reason=value["finish_reason"],
            usage=Usage(*usage),
            cost=cost,
            latency=latency or 0.0,
            model=value["model"],
            created=created or 0.0,
        )
    if failed:
        must("kind", value["kind"] in _CONTENT, f"one of {', '.join(_CONTENT)}")
        must("status", RULES["status"][0](value["status"]), RULES["status"][1])
        return key, backend, Failure(FailureKind(value["kind"]), "", value["status"], reply)
    assert reply is not None
    return key, backend, reply


def _probabilities(text: Any) -> bool:
    """Whether *text* is the JSON of ``{utterance: {class: number}}`` that :meth:`ReplyShape.write` makes."""
    if not RULES["text"][0](text):
        return False
    try:
        rows = _strict(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(rows, dict) or not rows or list(rows) != [str(n + 1) for n in range(len(rows))]:
        return False
    return all(
        isinstance(row, dict)
        and row.keys() == rows["1"].keys()
        and all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p < 1e300 for p in row.values())
        and sum(row.values()) > 0
        for row in rows.values()
    )


def _row(request: Request, reply: Reply | None, text: str) -> dict[str, Any]:
    row: dict[str, Any] = {"key": request.bundle_key or request.key, "backend": f"{request.provider}/{request.model}"}
    if reply is not None:
        usage = reply.usage
        row |= {
            "reply": text,
            "finish_reason": reply.finish_reason,
            "usage": [usage.input, usage.cached_input, usage.output],
            "cost": reply.cost,
            "latency": reply.latency,
            "model": reply.model,
            "created": reply.created,
        }
    return row
