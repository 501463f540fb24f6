"""Share what an LLM answered without sharing its prompts: numbers under hashes, no word of a transcript.

A bundle is JSON Lines. The same corpus and the same vanilla predictions give the same requests and so the same keys:
with the bundle, weighting, metrics and tables can be redone without an LLM.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lantern.errors import FailureKind, UserError
from lantern.files import atomic
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.reply import numbers_of
from lantern.refine.types import Failure, Reply, Request, Stored, Usage

FORMAT = "lantern-bundle"
VERSION = 1
NO_NUMBERS = "the reply holds no probabilities that go without words"
NO_SHAPE = "an older Lantern stored the request without the utterances and classes that it asks about"
QUOTES = "an older Lantern stored the repair turn, which quotes a reply"
KNOWN = "the ledger has them already"


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
    return BundleCounts(answers, failures, dict(skipped))


def import_bundle(ledger: Ledger, path: Path) -> BundleCounts:
    """Store what *path* holds in *ledger*; what is there already stays.

    Raises:
        UserError: not a bundle, of a newer version, or damaged, with the line; nothing is stored then.
    """
    rows: list[tuple[str, str, Stored]] = []
    for number, line in _lines(path):
        try:
            value = json.loads(line)
            rows.append((str(value["key"]), str(value["backend"]), _stored(value)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a bundle row ({type(error).__name__}: {error})") from None
    new = ledger.adopt(rows)
    answers = sum(isinstance(rows[n][2], Reply) for n in new)
    known = len(rows) - len(new)
    return BundleCounts(answers, len(new) - answers, {KNOWN: known} if known else {})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a bundle: {getattr(error, 'strerror', None) or error}") from None
    lines = text.rstrip("\n").split("\n")
    try:
        head = json.loads(lines[0])
        version = head["version"] if head["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if version is None:
        raise UserError(f"{path} is not a bundle; python -m experiments.ledger export writes one")
    if version > VERSION:
        raise UserError(f"{path} is a bundle of version {version}, this Lantern reads up to {VERSION}; update Lantern")
    yield from enumerate(lines[1:], 2)


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


def _stored(value: dict[str, Any]) -> Stored:
    reply = None
    if "reply" in value:
        reply = Reply(
            text=value["reply"],
            finish_reason=value["finish_reason"],
            usage=Usage(*map(int, value["usage"])),
            cost=None if value["cost"] is None else float(value["cost"]),
            latency=float(value["latency"]),
            model=value["model"],
            created=float(value["created"]),
        )
        if not isinstance(reply.text, str):
            raise TypeError("reply is not text")
    if "kind" in value:
        return Failure(FailureKind(value["kind"]), "", value["status"], reply)
    if reply is None:
        raise KeyError("reply")
    return reply
