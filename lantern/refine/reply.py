"""Reply in, probabilities out: strict, with typed failures. A bad label is never mapped to the nearest one."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lantern.errors import UserError
from lantern.refine.types import Failure, Reply, Request

LEAST_MASS = 0.01
"""Less probability than this on the letters of all classes together says nothing about their proportions."""
_LETTER_LINE = re.compile(r"^[ \t]*(\d{1,6})[ \t]*[:.)\-][ \t]*\(?([A-Za-z])(?![A-Za-z])", re.MULTILINE)
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
        if "{" not in text and _declines(text):
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


def _declines(text: str) -> bool:
    return _REFUSAL.search(text[:300].replace("\u2019", "'")) is not None


def letters(classes: Sequence[str]) -> tuple[str, ...]:
    """The letter that stands for each class; one capital letter is one token for every tokenizer in use."""
    if len(classes) > 26:
        raise UserError(
            f"llm.elicitation=logprobs can tell at most 26 classes apart, this label set has {len(classes)}"
        )
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(classes)])


def parse_letters(reply: Reply, count: int, classes: tuple[str, ...]) -> Parsed | Failure:
    """Probabilities from a reply of lines ``number: letter`` and the token probabilities that came with it.

    For each utterance the token that holds its letter is found, and the alternatives that the provider lists for that
    place are summed by letter, whatever blanks and case they are spelt with. A class that is not listed gets no more
    than the least likely token that is, and no more than its share of the probability that is not listed at all. The
    vector is then renormalised; *sums* hold what lay on the classes before that.
    """
    if reply.finish_reason in ("content_filter", "refusal"):
        return Failure("refusal", "the provider withheld the reply", reply=reply)
    tokens = reply.logprobs or []
    if not _LETTER_LINE.search(reply.text) and _declines(reply.text):
        return Failure("refusal", "the LLM declined", reply=reply)
    if not tokens or not any(token["top_logprobs"] for token in tokens):
        return Failure("no_logprobs", "the reply came without token probabilities", reply=reply)
    text = "".join(str(token["token"]) for token in tokens)
    ends = list(itertools.accumulate(len(str(token["token"])) for token in tokens))
    places: dict[int, int] = {}
    for found in _LETTER_LINE.finditer(text):
        number = int(found[1])
        if number in places:
            return Failure("unparsable", f"utterance {number} is answered twice", reply=reply)
        places[number] = next(i for i, end in enumerate(ends) if end > found.start(2))
    if set(places) != set(range(1, count + 1)):
        cut = reply.finish_reason in ("length", "max_tokens")
        kind = "cut_off" if cut else "incomplete" if places else "unparsable"
        return Failure(kind, f"{len(places)} of {count} utterances have a letter", reply=reply)
    probabilities, sums = [], []
    for number in range(1, count + 1):
        vector, mass = _masses(tokens[places[number]], letters(classes))
        if mass < LEAST_MASS:
            told = f"utterance {number}: only {mass:.4f} of the probability lies on the letters"
            return Failure("low_mass", told, reply=reply)
        total = math.fsum(vector)
        probabilities.append([value / total for value in vector])
        sums.append(mass)
    return Parsed(probabilities, sums)


def _masses(token: dict[str, Any], wanted: tuple[str, ...]) -> tuple[list[float], float]:
    """Probability of each letter at one place, bounds filled in, and the sum of what was listed."""
    listed = {str(o["token"]): _probability(o["logprob"]) for o in token["top_logprobs"]}
    listed.setdefault(str(token["token"]), _probability(token["logprob"]))
    found = dict.fromkeys(wanted, 0.0)
    for spelt, probability in listed.items():
        letter = re.sub(r"[\s:.()\-]", "", spelt).upper()
        if letter in found:
            found[letter] += probability
    missing = [letter for letter, value in found.items() if value == 0]
    mass = math.fsum(found.values())
    if missing:
        rest = max(0.0, 1 - math.fsum(listed.values()))
        bound = max(min(min(listed.values()), rest / len(missing)), 1e-6)
        found |= dict.fromkeys(missing, bound)
    return list(found.values()), mass


def _probability(logprob: Any) -> float:
    """0 for what is no logarithm of a probability."""
    if not isinstance(logprob, (int, float)) or math.isnan(logprob):
        return 0.0
    return math.exp(min(0.0, logprob))


def asked(request: Request) -> int:
    """Utterances that *request* asks about: the numbered lines between the dialogue's delimiters."""
    user = next(m["content"] for m in request.messages if m["role"] == "user")
    lines = user.split("\n</dialogue>", 1)[0].split("\n")[1:]
    return sum(line[:1].isdigit() for line in lines)


def classes_of(request: Request) -> tuple[str, ...]:
    """The classes that *request* asks about, from the list in its system message; no transcript text stands there."""
    system = next((m["content"] for m in request.messages if m["role"] == "system"), "")
    return tuple(re.findall(r"^- (.+?)(?: \([A-Z]\))?: ", system, re.MULTILINE))
