"""Share what an LLM answered without sharing what it was asked: numbers under hashes, no word of a transcript.

A bundle is JSON Lines. Whoever has the same corpus and the same vanilla predictions asks the same questions, finds the
answers under the same keys, and can redo weighting, metrics and tables without an LLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lantern.errors import UserError
from lantern.files import atomic
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.reply import asked, classes_of, parse_reply
from lantern.refine.types import Failure, Outcome, Reply, Request, Usage

FORMAT = "lantern-bundle"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """What was exported or imported."""

    answers: int
    failures: int
    left: int
    """Export: replies that hold no probabilities, or that answer to no prompt of Lantern's. Import: rows that the
    ledger had already."""


def numbers_only(request: Request, reply: Reply) -> str | None:
    """*reply* written anew from its numbers, which :func:`parse_reply` reads as it read the original; None if it
    cannot be read."""
    classes = classes_of(request)
    count = asked(request)
    if len(classes) < 2 or isinstance(parse_reply(reply, count, classes), Failure):
        return None
    found, _ = json.JSONDecoder().raw_decode(reply.text, reply.text.index("{"))
    return json.dumps({str(n): {c: found[str(n)][c] for c in classes} for n in range(1, count + 1)})


def export_bundle(ledger: Ledger, path: Path) -> Moved:
    """Write the answers and settled failures of *ledger* to *path*, atomically."""
    outcomes = ledger.outcomes()
    failed = {request.key: outcome for request, outcome in outcomes if isinstance(outcome, Failure)}
    answers = failures = left = 0
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        for request, outcome in outcomes:
            key = _key_without_words(request, failed)
            if isinstance(outcome, Failure):
                row = _row(key, outcome.reply, "", request) | {"kind": outcome.kind, "status": outcome.status}
                failures += 1
            else:
                text = numbers_only(request, outcome)
                if text is None:
                    left += 1
                    continue
                row = _row(key, outcome, text, request)
                answers += 1
            out.write(json.dumps(row) + "\n")
    return Moved(answers, failures, left)


def import_bundle(ledger: Ledger, path: Path) -> Moved:
    """Store what *path* holds in *ledger*; what is there already stays.

    Raises:
        UserError: not a bundle, of a newer version, or damaged, with the line; nothing is stored then.
    """
    rows: list[tuple[str, str, Outcome]] = []
    for number, line in _lines(path):
        try:
            value = json.loads(line)
            rows.append((str(value["key"]), json.dumps({"imported": value["backend"]}), _outcome(value)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a bundle row ({type(error).__name__}: {error})") from None
    new = ledger.adopt(rows)
    answers = sum(isinstance(rows[n][2], Reply) for n in new)
    return Moved(answers, len(new) - answers, len(rows) - len(new))


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


def _key_without_words(request: Request, failed: dict[str, Failure]) -> str:
    """The key under which a ledger that has only the bundle asks for what *request* asks for.

    A repair turn quotes the reply that could not be used. In the bundle that reply has no words, so its repair turn
    quotes nothing.
    """
    if len(request.messages) < 4 or request.messages[-2]["role"] != "assistant":
        return request.key
    first = replace(request, messages=request.messages[:-2])
    error = failed[first.key].message if first.key in failed else ""
    bare = request.messages[-1]["content"].replace(f": {error}. ", ": . ", 1)
    turns = ({"role": "assistant", "content": ""}, {"role": "user", "content": bare})
    return replace(request, messages=first.messages + turns).key


def _row(key: str, reply: Reply | None, text: str, request: Request) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "backend": f"{request.provider}/{request.model}"}
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


def _outcome(value: dict[str, Any]) -> Outcome:
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
        return Failure(str(value["kind"]), "", value["status"], reply)
    if reply is None:
        raise KeyError("reply")
    return reply
