"""What chat programs write in place of a message, in several languages."""

from __future__ import annotations

import re

from lantern.corpora.readers.conversations.wordlists import ATTACHED, NO_MESSAGE

_KIND = (
    "image|photo|video|audio|sticker|gif|document|contact card|bild|foto|dokument|kontaktkarte|imagen|imagem|vidéo|"
    "vídeo|áudio|immagine|afbeelding|documento|kuva|ääni|asiakirja|media|multimedia|medien|médias"
)
_LEFT_OUT = (
    "omitted|weggelassen|ausgeschlossen|absente?|omise?s?|omitid[oa]|ocultad[oa]|omess[oai]|weggelaten|jätetty pois"
)
_OMITTED = re.compile(rf"(?:[^\s.]+\.\w{{2,5}} • .{{1,30}})?(?:{_KIND})s? (?:{_LEFT_OUT})", re.IGNORECASE)
_EDITED = re.compile(
    "edit|bearbeit|modifi|édit|muoka|bewerk|edytow|измен|düzenlen|redig|upraven|编辑|編輯|編集|수정|تعديل|تحرير",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(
    r"^<(?=[^<>]*[\s:.]|multi|media|médi|mídia|[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]{5})[^<>]{4,120}>\s*",
    re.IGNORECASE,
)
"""``<Media omitted>``, ``<attached: 1.jpg>`` and the like: two words or more, which leaves ``<3`` and ``<grin>``;
in scripts that write no blanks (``<省略多媒体文件>``), five letters or more."""
_FILE = re.compile(
    r"(?:IMG|VID|PTT|AUD|STK|DOC|GIF|PHOTO|VIDEO|AUDIO|STICKER)-[\d-]+(?:-WA\d+|-\w+)*\.\w{2,5}(?:\s*[(<][^()<>]*[)>])?"
)
_ATTACHED = re.compile(r".{1,200}\.\w{2,5} \((?P<note>[^()]+)\)")
_LAST_BRACKETS = re.compile(r"\s*\u200e?<(?P<note>[^<>]{4,80})>$")


def said(lines: list[str]) -> tuple[str, bool]:
    """The words of a message whose *lines* are given, and whether something was left out.

    A caption below or after a placeholder is words; the mark of an edited message is none.
    """
    kept: list[str] = []
    left_out = False
    for line in lines:
        text = line.strip()
        if (last := _LAST_BRACKETS.search(text)) and _EDITED.search(last["note"]):
            text = text[: last.start()]
        if text.startswith("\u200e"):  # WhatsApp for iOS marks what it writes itself
            left_out = True
            continue
        text, _, mark = text.partition(" \u200e")  # a caption, then the mark
        text = text.replace("\u200e", "").strip()
        words = _IN_BRACKETS.sub("", text)
        placeholder = not kept and _placeholder(words)
        left_out = left_out or bool(mark) or placeholder or words != text
        if not placeholder:
            kept.append(words)
    return " ".join(" ".join(kept).split()), left_out


def _placeholder(text: str) -> bool:
    """Whether *text*, not empty, stands in place of words."""
    if _FILE.fullmatch(text) or _OMITTED.fullmatch(text) or text.strip("🚫 .。").casefold() in NO_MESSAGE:
        return True
    attached = _ATTACHED.fullmatch(text)
    return attached is not None and attached["note"].strip().casefold() in ATTACHED
