"""Reply in, probabilities out, or a typed failure: lenient where the meaning is certain, never where two are possible.

A bad label is never mapped to the nearest one. No content of a reply raises.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import math
import re
from typing import Any

from lantern.errors import FailureKind
from lantern.refine.loose_json import Unreadable, values
from lantern.refine.shape import ReplyShape
from lantern.refine.types import NO_MESSAGE, Answer, Failure, Outcome, Reply, plain

LEAST_MASS = 0.01
"""Less probability than this on all classes together says nothing about their proportions."""
LARGEST = 1e12
"""A number above it is no probability, whatever the others are."""
NEAR = 0.05
"""How far the numbers of an utterance may add up from 1, or from 100 %, and still be taken for a whole."""
CUT = ("length", "max_tokens")
_NUMBERED = re.compile(
    r"\s*(?:(?:utterance|utt|turn|line|number|no|u)\.?[\s_:#-]*|[#(\[]\s*)?0{0,3}(\d{1,6})\s*[.:)\]]*\s*",
    re.IGNORECASE | re.ASCII,
)
_IDS = {"id", "utterance", "utterance id", "number", "index", "no", "turn", "line"}
"""Keys under which an object of a list says which utterance it is about."""
_FIGURE = re.compile(r"\+?(\d{1,50}\.?\d{0,50}|\.\d{1,50}|\d{1,20}(?:\.\d{1,20})?[eE][+-]?\d{1,3})\s?(%?)", re.ASCII)
_LETTER_LINE = re.compile(r"^[ \t]*(\d{1,6})[ \t]*[:.)\-][ \t]*\(?([A-Za-z])(?![A-Za-z])", re.MULTILINE)
_WORD_LINE = re.compile(r"^[ \t]*(\d{1,6})[ \t]*[:.)\-][ \t]*[\"'*(]*(\w)", re.MULTILINE)
_AROUND = re.compile(r"^[\s:.,()*\"'\-]+|[\s:.,()*\"'\-]+$")
"""What a token may hold besides the beginning of a class."""
_THOUGHT = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|seed:think)>|\[/THINK\]|◁/think▷"
    r"|<\|channel\|>\s*final\s*<\|message\|>",
    re.IGNORECASE,
)
"""Where thoughts end that a server has left in the text of a reply."""
_REFUSAL = re.compile(
    r"\b(i\s*('m| am)\s*(sorry|unable|not able)|i\s*(can't|cannot|can not|won't|will not)\b|as an ai)", re.IGNORECASE
)


class _Unusable(Exception):
    """The content of a reply cannot be used."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(plain(message)[:300])
        self.kind = kind


def parse(reply: Reply, shape: ReplyShape) -> Outcome:
    """Probabilities for the utterances and classes of *shape*, or a :class:`Failure` of the content."""
    try:
        if shape.answers is not None:
            vectors, sums = _by_tokens(reply, shape)
        else:
            vectors = _by_json(reply, shape)
            sums = [math.fsum(vector) for vector in vectors]
    except _Unusable as problem:
        return Failure(problem.kind, str(problem), reply=reply)
    except RecursionError:
        return Failure(FailureKind.UNPARSABLE, "it is nested too deeply", reply=reply)
    totals = [math.fsum(vector) for vector in vectors]
    return Answer([[value / total for value in v] for v, total in zip(vectors, totals, strict=True)], sums, reply)


def numbers_of(reply: Reply, shape: ReplyShape) -> list[list[float]] | None:
    """The numbers ``[n, C]`` of a JSON reply as the LLM wrote them; None where there are none to use."""
    if shape.elicitation != "json":
        return None
    try:
        return _by_json(reply, shape)
    except (_Unusable, RecursionError):
        return None


def _by_json(reply: Reply, shape: ReplyShape) -> list[list[float]]:
    _check_withheld(reply)
    _check_text(reply)
    if reply.finish_reason in CUT:
        raise _Unusable(FailureKind.CUT_OFF, "the reply was cut off at the token limit")
    given = _by_number(_the_value(reply.text), shape)
    missing = [number for number in shape.numbers if number not in given]
    if missing:
        raise _Unusable(FailureKind.INCOMPLETE, f"utterances missing: {', '.join(missing)}")
    return [_vector(given[number], number, shape.classes) for number in shape.numbers]


def _the_value(text: str) -> Any:
    """The one object, or list of objects, in *text*; said twice in the same words it is still one.

    An object for each utterance, one after the other, is their list.
    """
    found: list[Any] = []
    try:
        for value in values(_quoted(text[_answer_from(text) :])):
            if value and value not in found:
                found.append(value)
        if len(found) > 1:
            return _joined(found)
    except Unreadable as problem:
        raise _Unusable(FailureKind.UNPARSABLE, str(problem)) from None
    if not found:
        if _declines(text):
            raise _Unusable(FailureKind.REFUSAL, "the LLM declined")
        raise _Unusable(FailureKind.UNPARSABLE, "there is no JSON object in it")
    return found[0]


def _quoted(text: str) -> str:
    """What is inside of *text* if that is one JSON string, else *text*."""
    if text.lstrip()[:1] == '"':
        with contextlib.suppress(ValueError):
            return str(json.loads(text, strict=False))
    return text


def _joined(found: list[Any]) -> Any:
    """Objects that are about one utterance each, as one value."""
    if all(isinstance(value, dict) for value in found):
        keys = [key for value in found for key in value]
        if all(any(_fold(key) in _IDS for key in value) for value in found):
            return found
        if all(_number_of(key) is not None for key in keys):  # one that comes again is an utterance given twice
            numbers = {_number_of(key) for key in keys}
            if len(numbers) == len(keys):
                return {key: part for value in found for key, part in value.items()}
    raise _Unusable(FailureKind.UNPARSABLE, "there is more than one JSON object in it")


def _answer_from(text: str) -> int:
    """Where the answer begins in *text*: after the thoughts, unless nothing follows them."""
    start = max((thought.end() for thought in _THOUGHT.finditer(text)), default=0)
    return start if text[start:].strip() else 0


def _by_number(value: Any, shape: ReplyShape) -> dict[str, Any]:
    """What *value* says of each utterance, by its number; what belongs to no utterance is left out."""
    for _ in range(3):
        parts = [_of_list(part) for part in value] if isinstance(value, list) else value.items()
        pairs = [(_number_of(key), part) for key, part in parts]
        numbered = [(number, part) for number, part in pairs if number is not None]
        if numbered or isinstance(value, list):
            break
        if shape.count == 1 and len(_by_class(value, shape.classes)) == len(shape.classes):
            numbered = [("1", value)]
            break
        inner = [part for part in value.values() if isinstance(part, (dict, list))]
        written = [part for part in value.values() if isinstance(part, str) and part.lstrip()[:1] in ("{", "[")]
        if not inner and len(written) == 1:  # arguments of a tool, as text
            inner = [_the_value(written[0])]
        if len(inner) != 1:
            break
        value = inner[0]
    given = dict(numbered)
    if len(given) != len(numbered):
        raise _Unusable(FailureKind.UNPARSABLE, "an utterance is given twice")
    if extra := sorted(given.keys() - set(shape.numbers)):
        raise _Unusable(FailureKind.UNPARSABLE, f"unknown utterances: {', '.join(extra)}")
    return given


def _number_of(name: Any) -> str | None:
    """The number in ``1``, ``1.``, ``#1``, ``utterance 1`` and the like; None where *name* is no number."""
    found = _NUMBERED.fullmatch(str(name)) if isinstance(name, (str, int)) and not isinstance(name, bool) else None
    return found[1] if found else None


def _of_list(part: Any) -> tuple[str, Any]:
    """Number and content of one object of a list: the number is under its one key for it."""
    if isinstance(part, dict):
        names = [key for key in part if _fold(key) in _IDS]
        if len(names) == 1 and (number := _number_of(part[names[0]])) is not None:
            return number, {key: inner for key, inner in part.items() if key != names[0]}
    raise _Unusable(FailureKind.UNPARSABLE, "it is a list whose parts do not say which utterance they are about")


def _fold(name: str) -> str:
    return " ".join(re.sub("[_-]", " ", name).split()).casefold()


def _by_class(value: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """What *value* holds under the names of *classes*, in whatever case, with ``_`` or ``-`` for blanks.

    A class that is named twice with different values is an :class:`_Unusable`.
    """
    meant = {_fold(cls): cls for cls in classes}
    if len(meant) != len(classes):
        return {cls: value[cls] for cls in classes if cls in value}  # they differ in case or blanks only
    given: dict[str, Any] = {}
    for key, part in value.items():
        cls = meant.get(_fold(key))
        if cls is None:
            continue
        if cls in given and given[cls] != part:
            raise _Unusable(FailureKind.WRONG_CLASSES, f"{cls} is given twice")
        given[cls] = part
    return given


def _vector(value: Any, name: str, classes: tuple[str, ...]) -> list[float]:
    """The numbers of one utterance in class order; percent become shares of 1."""
    if isinstance(value, list):
        value = _by_label(value)
    if not isinstance(value, dict):
        raise _Unusable(FailureKind.UNPARSABLE, f"utterance {name} is not an object of classes")
    given = _by_class(value, classes)
    inner = [part for part in value.values() if isinstance(part, dict)]
    if not given and len(inner) == 1:
        value, given = inner[0], _by_class(inner[0], classes)
    known = {_fold(cls) for cls in classes}
    others = sorted(key for key in value if _fold(key) not in known)
    missing = sorted(set(classes) - given.keys())
    if missing:
        parts = [f"unknown: {', '.join(others)}"] * bool(others) + [f"missing: {', '.join(missing)}"]
        raise _Unusable(FailureKind.WRONG_CLASSES, f"utterance {name} has the wrong classes ({'; '.join(parts)})")
    read = [_number(given[cls], f"utterance {name}, {cls}") for cls in classes]
    numbers = [number for number, _ in read]
    marked = [percent for _, percent in read]
    total = math.fsum(numbers)
    if total <= 0:
        raise _Unusable(FailureKind.BAD_NUMBERS, f"utterance {name}: the numbers add up to {total:g}")
    if any(marked) and not all(marked) and abs(total - 1) > NEAR:
        raise _Unusable(FailureKind.BAD_NUMBERS, f"utterance {name}: some numbers are percent and some are not")
    if abs(total - 100) <= 100 * NEAR:
        numbers, total = [number / 100 for number in numbers], total / 100
    masses = [key for key in others if _is_number(value[key])]
    if masses and abs(total - 1) > NEAR:
        # Beside numbers that are whole without them they are something else; else they may be a class's share.
        text = f"utterance {name} has the wrong classes (unknown: {', '.join(masses)})"
        raise _Unusable(FailureKind.WRONG_CLASSES, text)
    return numbers


def _by_label(parts: list[Any]) -> dict[str, Any] | None:
    """``[{"label": "sad", "score": 0.2}, …]`` as an object of classes; None for another list."""
    given: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, dict) or len(part) != 2:
            return None
        name, number = sorted(part.values(), key=_is_number)
        if not isinstance(name, str) or not _is_number(number):
            return None
        given[name] = number
    return given if len(given) == len(parts) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) < 100 and _FIGURE.fullmatch(value.strip()) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any, at: str) -> tuple[float, bool]:
    """*value* as a share, and whether it was given in percent."""
    if not _is_number(value):
        shown = str(value)[:40] if isinstance(value, str) else type(value).__name__
        raise _Unusable(FailureKind.BAD_NUMBERS, f"{at}: {shown!r} is not a number")
    found = _FIGURE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        number = float(found[1] if found else value)
    except OverflowError:
        number = math.inf
    if not 0 <= number <= LARGEST:
        raise _Unusable(FailureKind.BAD_NUMBERS, f"{at}: {number:g} is not a number from 0 to {LARGEST:g}")
    percent = bool(found and found[2])
    return (number / 100 if percent else number), percent


def _by_tokens(reply: Reply, shape: ReplyShape) -> tuple[list[list[float]], list[float]]:
    """Probabilities from a reply of lines ``number: answer`` and the token probabilities that came with it.

    For each utterance, the alternatives that the provider lists for the first token of its answer are summed by class,
    whatever blanks and case they are spelt with. A class that is not listed gets no more than the least likely token
    that is, and no more than its share of the probability that is not listed at all. The sums hold what lay on the
    classes before that.
    """
    _check_withheld(reply)
    _check_text(reply)
    tokens = reply.logprobs or []
    line_of = _WORD_LINE if shape.elicitation == "words" else _LETTER_LINE
    if not line_of.search(reply.text) and _declines(reply.text):
        raise _Unusable(FailureKind.REFUSAL, "the LLM declined")
    if not any(token["top_logprobs"] for token in tokens):
        raise _Unusable(FailureKind.NO_LOGPROBS, "the reply came without token probabilities")
    text = "".join(str(token["token"]) for token in tokens)
    ends = list(itertools.accumulate(len(str(token["token"])) for token in tokens))
    places: dict[int, int] = {}
    for line in line_of.finditer(text, _answer_from(text)):
        number = int(line[1])
        if number in places:
            raise _Unusable(FailureKind.UNPARSABLE, f"utterance {number} is answered twice")
        places[number] = bisect.bisect_right(ends, line.start(2))
    if set(places) != set(range(1, shape.count + 1)):
        cut = reply.finish_reason in CUT
        kind = FailureKind.CUT_OFF if cut else FailureKind.INCOMPLETE if places else FailureKind.UNPARSABLE
        raise _Unusable(kind, f"{len(places)} of {shape.count} utterances have an answer")
    vectors, masses = [], []
    for number in range(1, shape.count + 1):
        vector, mass = _masses(tokens[places[number]], shape, number)
        vectors.append(vector)
        masses.append(mass)
    return vectors, masses


def _masses(token: dict[str, Any], shape: ReplyShape, number: int) -> tuple[list[float], float]:
    """Probability of each class at one place, bounds filled in, and the sum of what was listed."""
    listed = {str(o["token"]): _probability(o["logprob"]) for o in token["top_logprobs"]}
    listed.setdefault(str(token["token"]), _probability(token["logprob"]))
    masses, shared = [0.0] * len(shape.classes), 0.0
    for spelt, probability in listed.items():
        meant = meanings(spelt, shape)
        if len(meant) == 1:
            masses[meant[0]] += probability
        elif meant:
            shared += probability
    mass = math.fsum(masses)
    if shared > mass:
        text = f"utterance {number}: {shared:.4f} of the probability lies on tokens with which several classes begin"
        raise _Unusable(FailureKind.LOW_MASS, text)
    if mass < LEAST_MASS:
        text = f"utterance {number}: only {mass:.4f} of the probability lies on the classes"
        raise _Unusable(FailureKind.LOW_MASS, text)
    missing = masses.count(0)
    if missing:
        rest = max(0.0, 1 - math.fsum(listed.values()))
        bound = max(min(min(listed.values()), rest / missing), 1e-6)
        masses = [value or bound for value in masses]
    return masses, mass


def meanings(token: str, shape: ReplyShape) -> list[int]:
    """Which classes of *shape* an answer that starts with *token* can be: those whose letter it is or whose word it
    begins."""
    if shape.elicitation == "words":
        spelt = _AROUND.sub("", token).casefold()
        return [k for k, name in enumerate(shape.classes) if spelt and name.casefold().startswith(spelt)]
    letter = re.sub(r"[\s:.()\-]", "", token).upper()
    return [k for k, name in enumerate(shape.answers or ()) if name == letter]


def _probability(logprob: Any) -> float:
    """0 for what is no logarithm of a probability."""
    if not isinstance(logprob, (int, float)) or logprob != logprob:
        return 0.0
    return math.exp(max(-1e3, min(0, logprob)))


def _check_withheld(reply: Reply) -> None:
    if reply.finish_reason in ("content_filter", "refusal"):
        raise _Unusable(FailureKind.REFUSAL, "the provider withheld the reply")


def _check_text(reply: Reply) -> None:
    if reply.finish_reason == NO_MESSAGE:
        raise _Unusable(FailureKind.EMPTY, "the reply holds no message")
    if not reply.text.strip() and reply.finish_reason not in CUT:
        raise _Unusable(FailureKind.EMPTY, "the reply has no text")


def _declines(text: str) -> bool:
    return _REFUSAL.search(text[:300].replace("\u2019", "'")) is not None
