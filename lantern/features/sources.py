"""Which file belongs to which utterance. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.readers.clock import seconds
from lantern.errors import UserError
from lantern.features.types import Item

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass(frozen=True, slots=True)
class Sources:
    """Items of the utterances for which there is something to extract from, and why the others have none."""

    items: tuple[Item, ...]
    missing: dict[str, int]
    """Utterances by reason, e.g. ``{"no wav": 3}``."""


def texts(corpus: Corpus) -> Sources:
    """Every utterance with its text."""
    return Sources(tuple(Item(row, u.id, text=u.text) for row, u in enumerate(corpus.utterances)), {})


def per_utterance(corpus: Corpus, folder: Path, suffixes: Sequence[str], what: str, frames: bool = False) -> Sources:
    """Files anywhere under *folder* that are named after an utterance; with *frames* also folders.

    Raises:
        UserError: no such folder, two files for one utterance, no file for any.
    """
    files = _named(folder, {u.id for u in corpus.utterances}, suffixes, frames)
    items = tuple(Item(row, u.id, path=files[u.id]) for row, u in enumerate(corpus.utterances) if u.id in files)
    first = corpus.utterances[0].id
    if not items:
        raise UserError(f"{folder}: no {what} for any utterance; the first would be **/{first}{suffixes[0]}")
    missing = len(corpus.utterances) - len(items)
    return Sources(items, {f"no {what}": missing} if missing else {})


def cut_from_dialogues(corpus: Corpus, folder: Path, suffixes: Sequence[str], what: str) -> Sources:
    """Pieces of files named after a dialogue, by the utterances' ``start`` and ``end``.

    Raises:
        UserError: no such folder, two files for one dialogue, no piece for any utterance.
    """
    files = _named(folder, set(corpus.by_id), suffixes, False)
    items: list[Item] = []
    missing: dict[str, int] = {}
    row = -1
    for dialogue in corpus.dialogues:
        for u in dialogue.utterances:
            row += 1
            start, end = (seconds(u.extra.get(key)) for key in ("start", "end"))
            reason = ""
            if dialogue.id not in files:
                reason = f"no {what} of the dialogue"
            elif start is None or end is None:
                reason = "no times"
            elif end <= start:
                reason = "end not after start"
            if reason:
                missing[reason] = missing.get(reason, 0) + 1
            else:
                items.append(Item(row, u.id, path=files[dialogue.id], start=start, end=end))
    if not items:
        told = ", ".join(f"{reason}: {count}" for reason, count in missing.items())
        first = corpus.dialogues[0].id
        raise UserError(f"{folder}: nothing to cut ({told}); the first file would be **/{first}{suffixes[0]}")
    return Sources(tuple(items), missing)


def _named(folder: Path, names: Collection[str], suffixes: Sequence[str], frames: bool) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        is_folder = frames and path.is_dir()
        name = path.name if is_folder else path.stem
        # Archives from a Mac hold a "._name" beside every file; no utterance is called so.
        if name not in names or not (is_folder or (path.suffix.lower() in suffixes and path.is_file())):
            continue
        if name in found:
            raise UserError(f"{folder}: two files for {name!r}: {found[name]} and {path}")
        found[name] = path
    return found
