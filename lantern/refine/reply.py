"""Reply in, probabilities out: strict, with typed failures. A bad label is never mapped to the nearest one."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from lantern.refine.types import Failure, Reply, Request

_REFUSAL = re.compile(
    r"\b(i\s*('m| am)\s*(sorry|unable|not able)|i\s*(can't|cannot|can not|won't|will not)\b|as an ai)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Probabilities per asked utterance, renormalised; *sums* are the totals as the LLM wrote them."""

    probabilities: list[list[float]]
    sums: list[float]


class _Duplicate(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _Duplicate("a key is given twice")
    return dict(pairs)


def _json_object(text: str) -> dict[str, Any] | str:
    """The one JSON object in *text*, which may stand in a code fence or between words; else what is wrong."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs)
    start = text.find("{")
    if start < 0:
        return "there is no JSON object in it"
    try:
        value, end = decoder.raw_decode(text, start)
    except _Duplicate as error:
        return str(error)
    except (ValueError, RecursionError):
        return "its JSON is broken"
    if "{" in text[end:]:
        return "there is more than one JSON object in it"
    return value


def _vector(value: Any, name: str, classes: tuple[str, ...]) -> list[float] | tuple[str, str]:
    """The numbers of one utterance in class order, or the kind and text of what is wrong."""
    if not isinstance(value, dict):
        return "unparsable", f"utterance {name} is not an object of classes"
    if set(value) != set(classes):
        extra, missing = sorted(set(value) - set(classes)), sorted(set(classes) - set(value))
        told = [f"unknown: {', '.join(extra)}"] * bool(extra) + [f"missing: {', '.join(missing)}"] * bool(missing)
        return "wrong_classes", f"utterance {name} has the wrong classes ({'; '.join(told)})"[:300]
    numbers: list[float] = []
    for cls in classes:
        number = value[cls]
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return "bad_numbers", f"utterance {name}, {cls}: {str(number)[:40]!r} is not a number"
        try:
            number = float(number)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or number < 0:
            return "bad_numbers", f"utterance {name}, {cls}: {number} is not a finite number of at least 0"
        numbers.append(number)
    total = math.fsum(numbers)
    if total <= 0 or not math.isfinite(total):
        return "bad_numbers", f"utterance {name}: the numbers add up to {total:g}"
    return numbers


def parse_reply(reply: Reply, count: int, classes: tuple[str, ...]) -> Parsed | Failure:
    """Probabilities for the *count* utterances that were asked about, or a typed content :class:`Failure`."""
    text = reply.text.strip()
    if reply.finish_reason in ("content_filter", "refusal"):
        return Failure("refusal", "the provider withheld the reply", reply=reply)
    if reply.finish_reason in ("length", "max_tokens"):
        return Failure("cut_off", "the reply was cut off at the token limit", reply=reply)
    value = _json_object(text)
    if not isinstance(value, dict):
        if "{" not in text and _REFUSAL.search(text[:300].replace("\u2019", "'")):
            return Failure("refusal", "the LLM declined", reply=reply)
        return Failure("unparsable", value, reply=reply)
    keys = [str(n) for n in range(1, count + 1)]
    if set(value) != set(keys):
        missing, extra = [k for k in keys if k not in value], sorted(set(value) - set(keys))
        kind = "incomplete" if missing else "unparsable"
        told = f"utterances missing: {', '.join(missing)}" if missing else f"unknown utterances: {', '.join(extra)}"
        return Failure(kind, told[:300], reply=reply)
    probabilities, sums = [], []
    for key in keys:
        vector = _vector(value[key], key, classes)
        if isinstance(vector, tuple):
            return Failure(*vector, reply=reply)
        total = math.fsum(vector)
        sums.append(total)
        probabilities.append([number / total for number in vector])
    return Parsed(probabilities, sums)


def asked(request: Request) -> int:
    """Utterances that *request* asks about: the numbered lines between the dialogue's delimiters."""
    user = next(m["content"] for m in request.messages if m["role"] == "user")
    lines = user.split("\n</dialogue>", 1)[0].split("\n")[1:]
    return sum(line[:1].isdigit() for line in lines)


def classes_of(request: Request) -> tuple[str, ...]:
    """The classes that *request* asks about, from the list in its system message; no transcript text stands there."""
    system = next((m["content"] for m in request.messages if m["role"] == "system"), "")
    return tuple(re.findall(r"^- (.+?): ", system, re.MULTILINE))
