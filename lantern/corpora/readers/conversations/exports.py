"""Chats and transcripts as JSON: Telegram, Discord, Slack, Signal, Messenger, and lists of speaker and text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lantern.corpora.readers.conversations.turns import Source, Turn, words
from lantern.corpora.text_files import mended, read_json
from lantern.errors import UserError

_LISTS = ("messages", "segments", "utterances", "turns")
_FORMS = "an export of Telegram, Discord, Slack, Signal or Messenger, or a list of objects with speaker and text"
_SPEAKERS = ("speaker", "from", "sender_name", "sender", "author", "user", "username", "name", "sourceName", "source")
_TEXTS = ("text", "content", "body", "message")
_SYSTEM = frozenset(
    (
        *("channel_join", "channel_leave", "channel_topic", "channel_purpose", "channel_name", "channel_archive"),
        "tombstone",
    )
)
_DISCORD = frozenset(("Default", "Reply", "ThreadStarterMessage", "ChatInputCommand", "0", "19"))


def read_export(source: Source) -> Iterator[Turn]:
    """The messages of a ``.json`` file in the order in which they were written."""
    value = read_json(source.path)
    chats = value.get("chats") if isinstance(value, dict) else None
    if isinstance(chats, dict) and isinstance(chats.get("list"), list):  # all chats of a Telegram account
        for n, chat in enumerate(chats["list"], 1):
            title = _string(chat.get("name")) if isinstance(chat, dict) else ""
            name = f"{n} {title or 'chat'}"
            for turn in _messages(source, chat, f"chat {n}, "):
                yield Turn(turn.speaker, turn.text, name)
        return
    yield from _messages(source, value, "")


def _messages(source: Source, value: Any, where: str) -> Iterator[Turn]:
    found = value
    if isinstance(value, dict):
        found = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), None)
    if not isinstance(found, list):
        raise UserError(f"{source.path}: {where}no list of messages; expected {_FORMS}")
    people = _people(source.path)
    people |= {_string(m.get("user")): name for m in found if isinstance(m, dict) and (name := _profile(m))}
    for n, message in _in_order(f"{source.path}: {where}", list(enumerate(found, 1))):
        place = f"{source.path}, {where}message {n}"
        if not isinstance(message, dict):
            raise UserError(f"{place}: not an object; expected {_FORMS}")
        if not _by_a_person(message):
            source.left_out["by the chat program"] += 1
            continue
        message = _unwrapped(message)
        if not any(key in message for key in _TEXTS):
            if any(key in message for key in (*_SPEAKERS, "attachments", "files", "photos", "sticker")):
                source.left_out["without words"] += 1
                continue
            raise UserError(f"{place}: keys {', '.join(map(str, message))[:80]}; expected {_FORMS}")
        text = _text(place, message, people)
        if not text:
            source.left_out["without words"] += 1
            continue
        speaker = _speaker(message, people)
        if not speaker:
            raise UserError(f"{place}: {text[:40]!r} has no speaker; give it one under 'speaker'")
        yield Turn(speaker, text)


def _in_order(place: str, numbered: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Messages by their time where all have one: Messenger's files and Slack's replies begin with the newest."""
    for key in ("timestamp_ms", "ts"):
        if numbered and all(isinstance(m, dict) and key in m for _, m in numbered):
            try:
                times = {n: float(m[key]) for n, m in numbered}
            except (TypeError, ValueError, OverflowError):
                raise UserError(f"{place}a {key} is not a number") from None
            return sorted(numbered, key=lambda pair: times[pair[0]])
    return numbered


def _by_a_person(message: dict[str, Any]) -> bool:
    kind, subtype = message.get("type"), message.get("subtype")
    if "author" in message and kind is not None and str(kind) not in _DISCORD and "content" in message:
        return False
    service = kind in ("service", "keychange", "group-v2-change", "call-history", "profile-change", "verified-change")
    joined = isinstance(subtype, str) and (subtype in _SYSTEM or subtype.startswith("group_"))
    return not service and not joined and message.get("is_unsent") is not True and not message.get("isErased")


def _unwrapped(message: dict[str, Any]) -> dict[str, Any]:
    """The message inside of signal-cli's envelope."""
    envelope = message.get("envelope")
    if not isinstance(envelope, dict):
        return message
    data = envelope.get("dataMessage")
    body = data.get("message") if isinstance(data, dict) else None
    if body is None and isinstance(sync := envelope.get("syncMessage"), dict):  # what the owner of the account wrote
        sent = sync.get("sentMessage")
        body = sent.get("message") if isinstance(sent, dict) else None
    return {"speaker": envelope.get("sourceName") or envelope.get("source"), "text": body or ""}


def _string(value: object) -> str:
    return words(value) if isinstance(value, str) else ""


def _text(place: str, message: dict[str, Any], people: dict[str, str]) -> str:
    value = next(message[key] for key in _TEXTS if key in message)
    if isinstance(value, list):  # Telegram's links and bold words are objects among strings
        pieces = [piece.get("text") if isinstance(piece, dict) else piece for piece in value]
        if not all(isinstance(piece, str) for piece in pieces):
            raise UserError(f"{place}: text holds {str(value)[:40]!r}, expected words")
        value = "".join(map(str, pieces))
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: text is {str(value)[:40]!r}, expected words")
    if "ts" in message or "user_profile" in message:
        value = _slack(value, people)
    if "sender_name" in message:
        value = mended(value)
    return words(value)


def _slack(text: str, people: dict[str, str]) -> str:
    text = re.sub(r"<@(\w+)(?:\|([^<>]*))?>", lambda m: "@" + (m[2] or people.get(m[1], m[1])), text)
    text = re.sub(r"<[#!]([^<>|]*)(?:\|([^<>]*))?>", lambda m: "@" + (m[2] or m[1]), text)
    text = re.sub(r"<([a-z]+:[^<>|]*)(?:\|([^<>]*))?>", lambda m: m[2] or m[1], text)
    return html.unescape(text)


def _speaker(message: dict[str, Any], people: dict[str, str]) -> str:
    if name := _profile(message):
        return name
    for key in _SPEAKERS:
        value = message.get(key)
        if isinstance(value, dict):  # Discord's author
            value = value.get("nickname") or value.get("name") or value.get("username") or value.get("id")
        if name := _string(value):
            return mended(name) if key == "sender_name" else people.get(name, name)
    return _string(message.get("from_id"))


def _profile(message: dict[str, Any]) -> str:
    """The name in Slack's profile beside a message."""
    profile = message.get("user_profile")
    names = (profile.get("real_name"), profile.get("display_name")) if isinstance(profile, dict) else ()
    return next(filter(None, map(_string, names)), "")


def _people(path: Path) -> dict[str, str]:
    """Names by user id, from Slack's ``users.json`` beside or above the channel's folder."""
    for folder in (path.parent, path.parent.parent):
        file = folder / "users.json"
        if file.is_file() and file != path:
            users = read_json(file)
            known = [user for user in users if isinstance(user, dict)] if isinstance(users, list) else []
            names = {_string(u.get("id")): _string(u.get("real_name")) or _string(u.get("name")) for u in known}
            return {key: name for key, name in names.items() if key and name}
    return {}
