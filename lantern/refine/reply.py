"""Reply in, probabilities out: strict, with typed failures. A bad label is never mapped to the nearest one."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

from lantern.errors import FailureKind
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Reply

LEAST_MASS = 0.01
"""Less probability than this on the letters of all classes together says nothing about their proportions."""
_LETTER_LINE = re.compile(r"^[ \t]*(\d{1,6})[ \t]*[:.)\-][ \t]*\(?([A-Za-z])(?![A-Za-z])", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(i\s*('m| am)\s*(sorry|unable|not able)|i\s*(can't|cannot|can not|won't|will not)\b|as an ai)", re.IGNORECASE
)


class _Unusable(Exception):
    """The content of a reply cannot be used."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message[:300])
        self.kind = kind


def parse(reply: Reply, shape: ReplyShape) -> Outcome:
    """Probabilities for the utterances and classes of *shape*, or a :class:`Failure` of the content."""
    try:
        if shape.elicitation == "logprobs":
            vectors, sums = _by_letters(reply, shape)
        else:
            vectors = _by_json(reply, shape)
            sums = [math.fsum(vector) for vector in vectors]
    except _Unusable as problem:
        return Failure(problem.kind, str(problem), reply=reply)
    totals = [math.fsum(vector) for vector in vectors]
    return Answer([[value / total for value in v] for v, total in zip(vectors, totals, strict=True)], sums, reply)


def numbers_of(reply: Reply, shape: ReplyShape) -> list[list[float]] | None:
    """The numbers ``[n, C]`` of a JSON reply as the LLM wrote them; None where there are none to use."""
    if shape.elicitation != "json":
        return None
    try:
        return _by_json(reply, shape)
    except _Unusable:
        return None


def _by_json(reply: Reply, shape: ReplyShape) -> list[list[float]]:
    _check_withheld(reply)
    if reply.finish_reason in ("length", "max_tokens"):
        raise _Unusable(FailureKind.CUT_OFF, "the reply was cut off at the token limit")
    value = _json_object(reply.text.strip())
    keys = shape.numbers
    if set(value) != set(keys):
        missing, extra = [k for k in keys if k not in value], sorted(set(value) - set(keys))
        if missing:
            raise _Unusable(FailureKind.INCOMPLETE, f"utterances missing: {', '.join(missing)}")
        raise _Unusable(FailureKind.UNPARSABLE, f"unknown utterances: {', '.join(extra)}")
    return [_vector(value[key], key, shape.classes) for key in keys]


def _json_object(text: str) -> dict[str, Any]:
    """The one JSON object in *text*, in a code fence or between words too."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise _Unusable(FailureKind.UNPARSABLE, "a key is given twice")
        return dict(pairs)

    start = text.find("{")
    if start < 0:
        if _declines(text):
            raise _Unusable(FailureKind.REFUSAL, "the LLM declined")
        raise _Unusable(FailureKind.UNPARSABLE, "there is no JSON object in it")
    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique).raw_decode(text, start)
    except (ValueError, RecursionError):
        raise _Unusable(FailureKind.UNPARSABLE, "its JSON is broken") from None
    if "{" in text[end:]:
        raise _Unusable(FailureKind.UNPARSABLE, "there is more than one JSON object in it")
    return value


def _vector(value: Any, name: str, classes: tuple[str, ...]) -> list[float]:
    """The numbers of one utterance in class order."""
    if not isinstance(value, dict):
        raise _Unusable(FailureKind.UNPARSABLE, f"utterance {name} is not an object of classes")
    if set(value) != set(classes):
        extra, missing = sorted(set(value) - set(classes)), sorted(set(classes) - set(value))
        parts = [f"unknown: {', '.join(extra)}"] * bool(extra) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise _Unusable(FailureKind.WRONG_CLASSES, f"utterance {name} has the wrong classes ({'; '.join(parts)})")
    numbers: list[float] = []
    for cls in classes:
        number = value[cls]
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise _Unusable(FailureKind.BAD_NUMBERS, f"utterance {name}, {cls}: {str(number)[:40]!r} is not a number")
        try:
            number = float(number)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or number < 0:
            raise _Unusable(
                FailureKind.BAD_NUMBERS, f"utterance {name}, {cls}: {number} is not a finite number of at least 0"
            )
        numbers.append(number)
    total = math.fsum(numbers)
    if total <= 0 or not math.isfinite(total):
        raise _Unusable(FailureKind.BAD_NUMBERS, f"utterance {name}: the numbers add up to {total:g}")
    return numbers


def _by_letters(reply: Reply, shape: ReplyShape) -> tuple[list[list[float]], list[float]]:
    """Probabilities from a reply of lines ``number: letter`` and the token probabilities that came with it.

    For each utterance, the alternatives that the provider lists for the token of its letter are summed by letter,
    whatever blanks and case they are spelt with. A class that is not listed gets no more than the least likely token
    that is, and no more than its share of the probability that is not listed at all. The sums hold what lay on the
    classes before that.
    """
    _check_withheld(reply)
    tokens = reply.logprobs or []
    if not _LETTER_LINE.search(reply.text) and _declines(reply.text):
        raise _Unusable(FailureKind.REFUSAL, "the LLM declined")
    if not any(token["top_logprobs"] for token in tokens):
        raise _Unusable(FailureKind.NO_LOGPROBS, "the reply came without token probabilities")
    text = "".join(str(token["token"]) for token in tokens)
    ends = list(itertools.accumulate(len(str(token["token"])) for token in tokens))
    places: dict[int, int] = {}
    for line in _LETTER_LINE.finditer(text):
        number = int(line[1])
        if number in places:
            raise _Unusable(FailureKind.UNPARSABLE, f"utterance {number} is answered twice")
        places[number] = next(i for i, end in enumerate(ends) if end > line.start(2))
    if set(places) != set(range(1, shape.count + 1)):
        cut = reply.finish_reason in ("length", "max_tokens")
        kind = FailureKind.CUT_OFF if cut else FailureKind.INCOMPLETE if places else FailureKind.UNPARSABLE
        raise _Unusable(kind, f"{len(places)} of {shape.count} utterances have a letter")
    vectors, masses = [], []
    for number in range(1, shape.count + 1):
        vector, mass = _masses(tokens[places[number]], shape.letters or ())
        if mass < LEAST_MASS:
            text = f"utterance {number}: only {mass:.4f} of the probability lies on the letters"
            raise _Unusable(FailureKind.LOW_MASS, text)
        vectors.append(vector)
        masses.append(mass)
    return vectors, masses


def _masses(token: dict[str, Any], wanted: tuple[str, ...]) -> tuple[list[float], float]:
    """Probability of each letter at one place, bounds filled in, and the sum of what was listed."""
    listed = {str(o["token"]): _probability(o["logprob"]) for o in token["top_logprobs"]}
    listed.setdefault(str(token["token"]), _probability(token["logprob"]))
    masses = dict.fromkeys(wanted, 0.0)
    for spelt, probability in listed.items():
        letter = re.sub(r"[\s:.()\-]", "", spelt).upper()
        if letter in masses:
            masses[letter] += probability
    missing = [letter for letter, value in masses.items() if value == 0]
    mass = math.fsum(masses.values())
    if missing:
        rest = max(0.0, 1 - math.fsum(listed.values()))
        bound = max(min(min(listed.values()), rest / len(missing)), 1e-6)
        masses |= dict.fromkeys(missing, bound)
    return list(masses.values()), mass


def _probability(logprob: Any) -> float:
    """0 for what is no logarithm of a probability."""
    if not isinstance(logprob, (int, float)) or math.isnan(logprob):
        return 0.0
    return math.exp(min(0.0, logprob))


def _check_withheld(reply: Reply) -> None:
    if reply.finish_reason in ("content_filter", "refusal"):
        raise _Unusable(FailureKind.REFUSAL, "the provider withheld the reply")


def _declines(text: str) -> bool:
    return _REFUSAL.search(text[:300].replace("\u2019", "'")) is not None
