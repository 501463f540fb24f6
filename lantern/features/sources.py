"""Find the file that belongs to each utterance. No torch."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.errors import UserError
from lantern.features.types import Item

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
UNUSABLE = {"train_125_3": "dia125_utt3 of train", "dev_110_7": "dia110_utt7 of dev"}
"""Clips of MELD that are damaged or missing in its own archive, by utterance id."""
_TWIN = "final_videos_test"
"""How the names of some test clips begin; many of them are there without it, too."""
_CLIP = re.compile(rf"({_TWIN})?dia(\d+)_utt(\d+)")
_SPLIT = re.compile(r"(?<![a-z])(train|dev|test)(?![a-z])")


@dataclass(frozen=True, slots=True)
class Sources:
    """Items of the utterances that have a source, and why the others have none."""

    items: tuple[Item, ...]
    missing: dict[str, int]
    """Utterances by reason, e.g. ``{"no wav": 3}``."""
    notes: tuple[str, ...] = ()
    """What else was noticed, one line each."""


def utterance_texts(corpus: Corpus) -> Sources:
    """Every utterance with its text."""
    return Sources(tuple(Item(row, u.id, text=u.text) for row, u in enumerate(corpus.utterances)), {})


def per_utterance(corpus: Corpus, folder: Path, suffixes: Sequence[str], what: str, frames: bool = False) -> Sources:
    """Files anywhere under *folder* that are named after an utterance; with *frames* also folders.

    Clips of MELD may have the names and folders of its own archive: ``train_splits/dia0_utt0.wav``.

    Raises:
        UserError: no such folder, two files for one utterance, no file for any.
    """
    meld, ids = corpus.name == "meld", {u.id for u in corpus.utterances}
    found: dict[str, list[Path]] = {}
    twins: set[Path] = set()
    for own, path in _files(folder, suffixes, frames):
        name = own if own in ids or not meld else _utterance_of_clip(own, path, folder)
        if name in ids:
            found.setdefault(name, []).append(path)
    for paths in found.values():
        if any(not path.name.startswith(_TWIN) for path in paths):
            twins |= {path for path in paths if path.name.startswith(_TWIN)}
    files = _single(folder, {name: [path for path in paths if path not in twins] for name, paths in found.items()})
    clips = any(_CLIP.fullmatch(path.stem) for path in files.values())
    unusable = {i for i in UNUSABLE if i in ids and clips and (i not in files or _CLIP.fullmatch(files[i].stem))}
    files = {i: path for i, path in files.items() if i not in unusable}
    items = tuple(Item(row, u.id, path=files[u.id]) for row, u in enumerate(corpus.utterances) if u.id in files)
    if not items:
        first = f"**/{corpus.utterances[0].id}{suffixes[0]}"
        also = f" or **/train_splits/dia0_utt0{suffixes[0]}" if meld else ""
        raise UserError(
            f"{folder}: no {what} for any utterance; the first would be {first}{also}{_soundtracks(folder)}"
        )
    missing = {
        f"no {what}": len(corpus.utterances) - len(items) - len(unusable),
        f"a clip that is known to be unusable ({', '.join(UNUSABLE[i] for i in sorted(unusable))})": len(unusable),
    }
    second = f"{len(twins)} clips have a second version, {_TWIN}…; the one without these words is used"
    return Sources(items, {reason: n for reason, n in missing.items() if n}, (second,) if twins else ())


def _utterance_of_clip(name: str, path: Path, folder: Path) -> str:
    """The utterance whose clip MELD calls *name*; other names are returned as they are."""
    match = _CLIP.fullmatch(name)
    if match is None:
        return name
    within = path.relative_to(folder).parent.parts
    for place in (*reversed(within), folder.resolve().name, "test" if match[1] else ""):
        if split := _SPLIT.search(place.lower()):
            return f"{split[1]}_{int(match[2])}_{int(match[3])}"
    raise UserError(
        f"{path}: a clip of train, dev or test? MELD has a clip of this name in each; put them into folders named "
        "train, dev and test"
    )


def _soundtracks(folder: Path) -> str:
    """How to get recordings out of the videos in *folder*, if there are any."""
    count = sum(path.suffix.lower() == ".mp4" and not path.name.startswith("._") for path in folder.rglob("*"))
    if not count:
        return ""
    each = 'ffmpeg -nostdin -loglevel error -i "$1" -ac 1 -ar 16000 "${1%.mp4}.wav"'
    command = f"find {shlex.quote(str(folder))} -name '[!.]*.mp4' -exec sh -c '{each}' _ {{}} \\;"
    return f"; there are {count:,} videos, whose sound this takes out: {command}"


def cut_from_dialogues(corpus: Corpus, folder: Path, suffixes: Sequence[str], what: str) -> Sources:
    """Pieces of files named after a dialogue, by the utterances' ``start`` and ``end``.

    Raises:
        UserError: no such folder, two files for one dialogue, no piece for any utterance.
    """
    named: dict[str, list[Path]] = {}
    for name, path in _files(folder, suffixes):
        if name in corpus.by_id:
            named.setdefault(name, []).append(path)
    files = _single(folder, named)
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


def _files(folder: Path, suffixes: Sequence[str], frames: bool = False) -> Iterator[tuple[str, Path]]:
    """Files anywhere under *folder*, and with *frames* also folders, with what they are named after."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    for path in sorted(folder.rglob("*")):
        if frames and path.is_dir():
            yield path.name, path
        # Archives from a Mac hold a "._name" beside every file; no utterance has such a name.
        elif path.suffix.lower() in suffixes and path.is_file():
            yield path.stem, path


def _single(folder: Path, found: dict[str, list[Path]]) -> dict[str, Path]:
    for name, paths in found.items():
        if len(paths) > 1:
            raise UserError(f"{folder}: two files for {name!r}: {paths[0]} and {paths[1]}")
    return {name: paths[0] for name, paths in found.items()}
