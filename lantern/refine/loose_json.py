"""The JSON values in a text that an LLM wrote: between words, in fences, with slips that leave the meaning certain.

Read are trailing commas, comments, single quotes, bare keys, Python's ``True`` and ``None``, and numbers such as ``.5``
or ``40%``, which become strings. Every function takes time in proportion to the length of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 1_000_000
"""Characters of a text that is read; no reply that can be used comes near."""
_DEEPEST = 12
"""Brackets within brackets."""
_MOST_BRACKETS = 200
"""Brackets in prose, after which the search ends."""
_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|\#[^\n]*|/\*(?:[^*]++|\*(?!/))*+\*/)
    |(?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")
    |(?P<single>'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+')
    |“(?P<curly>[^“”\n]*)”
    |(?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?+(?:[ ]?%)?+)(?![\w.])
    |(?P<word>[^\W\d][\w-]*(?:[ ][\w-]+)*)
    |(?P<mark>[{}\[\],:])""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_LITERALS = ("true", "false", "null", "NaN", "Infinity")
_BRACKET = re.compile(r"[{\[]")
_BEGUN = re.compile(r"""\[\s*\{|\{\s*(?:$|\{|["'“]|[\w .#-]{1,60}:)""")
"""A bracket that begins a value, unlike one in prose such as ``{see above}``."""


class Unreadable(ValueError):
    """A value was begun that cannot be read, or a key is given twice."""


def values(text: str) -> Iterator[Any]:
    """Objects, and lists that hold one, from left to right; brackets of the prose around them are passed over.

    Raises:
        Unreadable: a value is broken, holds a key twice, or the text is too long.
    """
    if len(text) > LONGEST:
        raise Unreadable(f"it is longer than {LONGEST} characters")
    at = 0
    for _ in range(_MOST_BRACKETS):
        found = _BRACKET.search(text, at)
        if found is None:
            return
        try:
            value, at = _value(text, found.start())
        except Unreadable:
            raise
        except (ValueError, RecursionError):
            if _BEGUN.match(text, found.start()):
                raise Unreadable("its JSON is broken") from None
            at = found.end()
            continue
        if isinstance(value, dict) or any(isinstance(part, dict) for part in value):
            yield value
    raise Unreadable("there are too many brackets in it")


def _value(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at *start* and where it ends."""
    try:
        return _STRICT.raw_decode(text, start)
    except Unreadable:
        raise
    except (ValueError, RecursionError):
        pass
    tidy, end = _tidied(text, start)
    return _STRICT.decode(tidy), end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Unreadable("a key is given twice")
    return dict(pairs)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, strict=False)


def _tidied(text: str, start: int) -> tuple[str, int]:
    """The value at *start* as proper JSON, and where it ends in *text*."""
    out: list[str] = []
    depth, at = 0, start
    while token := _TOKEN.match(text, at):
        at, kind, part = token.end(), token.lastgroup, token[0]
        if kind == "mark":
            depth += (part in "{[") - (part in "}]")
            if part in "}]" and out[-1] == ",":
                out.pop()
            elif part == ":" and not out[-1].startswith('"'):
                out[-1] = json.dumps(out[-1])  # a bare key
            out.append(part)
            if depth == 0:
                return "".join(out), at
            if depth > _DEEPEST:
                break
        elif kind == "text":
            out.append(part)
        elif kind == "single":
            out.append('"' + part[1:-1].replace("\\'", "'").replace('"', '\\"') + '"')
        elif kind == "curly":
            out.append(json.dumps(token["curly"]))
        elif kind == "number":
            out.append(part if _NUMBER.fullmatch(part) else json.dumps(part))
        elif kind == "word":
            out.append(_WORDS.get(part, part if part in _LITERALS else json.dumps(part)))
    raise ValueError("no value")
