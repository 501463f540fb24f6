"""Find the file that belongs to each utterance. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.errors import UserError
from lantern.features.types import Item

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass(frozen=True, slots=True)
class Sources:
    """Items of the utterances that have a source, and why the others have none."""

    items: tuple[Item, ...]
    missing: dict[str, int]
    """Utterances by reason, e.g. ``{"no wav": 3}``."""


def utterance_texts(corpus: Corpus) -> Sources:
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
    missing: Counter[str] = Counter()
    row = -1
    for dialogue in corpus.dialogues:
        for u in dialogue.utterances:
            row += 1
            start, end = u.times
            if dialogue.id not in files:
                missing[f"no {what} of the dialogue"] += 1
            elif start is None or end is None:
                missing["no times"] += 1
            elif end <= start:
                missing["end not after start"] += 1
            else:
                items.append(Item(row, u.id, path=files[dialogue.id], start=start, end=end))
    if not items:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in missing.items())
        first = corpus.dialogues[0].id
        raise UserError(f"{folder}: nothing to cut ({reasons}); the first file would be **/{first}{suffixes[0]}")
    return Sources(tuple(items), dict(missing))


def _named(folder: Path, names: Collection[str], suffixes: Sequence[str], frames: bool) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        is_folder = frames and path.is_dir()
        name = path.name if is_folder else path.stem
        # Archives from a Mac hold a "._name" beside every file; no utterance has such a name.
        if name not in names or not (is_folder or (path.suffix.lower() in suffixes and path.is_file())):
            continue
        if name in files:
            raise UserError(f"{folder}: two files for {name!r}: {files[name]} and {path}")
        files[name] = path
    return files
