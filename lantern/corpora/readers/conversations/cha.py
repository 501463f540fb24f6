"""CHAT transcripts (TalkBank's ``.cha``): main tiers of a speaker code and words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lantern.corpora.readers.conversations.turns import Source, Turn, short, words

_TIER = re.compile(r"\*(?P<code>[A-Za-z0-9_+-]{1,20}):\s*(?P<text>.*)")
_BULLET = re.compile("\x15(?:(\\d{1,12})_(\\d{1,12}))?[^\x15]*\x15")
_EVENT = re.compile(
    r"&[=+*{}][^\s]*|\b(?:xxx|yyy|www)\b|(?<!\S)0[\w@]*|\+[/.!?,\"^<+~≈≋]+|\(\d*\.*:?\d*\.*\)|∙h+|(?<!\w)ʔ(?!\w)|[‡„↑↓↗↘→⌈⌉⌊⌋∆∇°⁎∙∾≡∞§☺⁇↻▁▔◉Ϋ∬∮]"
)
"""Events, unintelligible stretches, omitted words, special endings, pauses, breaths and marks of pitch and voice."""
_CODE = re.compile(r"\[[^\[\]]*\]")


def read_cha(source: Source) -> Iterator[Turn]:
    """A turn per main tier; dependent tiers (``%mor:``) and headers (``@``) hold nothing that was said."""
    tiers: list[tuple[int, str]] = []
    for number, line in source.lines():
        if line[:1] in ("\t", " ") and tiers:
            tiers[-1] = (tiers[-1][0], f"{tiers[-1][1]} {line.strip()}")
        elif line[:1] in ("*", "@", "%"):
            tiers.append((number, line))
        elif line.strip():
            raise source.error(
                number, f"{short(line)} begins with none of '*', '@', '%' and a tab, as lines of CHAT do"
            )
    for number, tier in tiers:
        if tier[0] != "*":
            continue
        match = _TIER.match(tier)
        if match is None:
            raise source.error(number, f"{short(tier)} is not of the form '*CODE: words'")
        bullets = [bullet for bullet in _BULLET.finditer(match["text"]) if bullet[1]]
        times = (int(bullets[0][1]) / 1000, int(bullets[-1][2]) / 1000) if bullets else None
        text = _said(match["text"])
        if any(c.isalnum() for c in text):
            yield Turn(match["code"], text, times=times)
        else:
            source.left_out["without words"] += 1


def _said(text: str) -> str:
    """The words of a main tier as a person would write them."""
    text = _BULLET.sub(" ", text)
    text = _CODE.sub(" ", text)
    text = _EVENT.sub(" ", text)
    text = re.sub(r"&[-~]?(?=\w)", "", text)  # fillers and fragments are spoken
    text = re.sub(r"[<>]", "", text)
    text = re.sub(r"\((\w+)\)", r"\1", text)  # (be)cause
    text = re.sub(r"@[a-z:$]+\b", "", text)
    text = re.sub(r"(?<=[^\W\d_]):+(?=[^\W\d_]|\s|$)", "", text)  # a drawn-out sound: ni:ght
    text = re.sub(r"(?<=\w)_(?=\w)", " ", text)
    return re.sub(r"\s+(?=[.?!,;])", "", words(text))
