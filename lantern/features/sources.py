"""Find the clip, array or text that belongs to each utterance. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError
from lantern.features.types import Item

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", *VIDEOS)
"""Files with sound; where an utterance has several, the first kind is used."""
UNUSABLE = {"train_125_3": "dia125_utt3 of train", "dev_110_7": "dia110_utt7 of dev"}
"""Clips of MELD that are damaged or missing in its own archive, by utterance id."""
_TWIN = "final_videos_test"
"""How the names of some test clips begin; many of them are there without it, too."""
_MELD = re.compile(rf"({_TWIN})?dia(\d+)_utt(\d+)")
_EMORYNLP = re.compile(r"sea(\d+)_ep(\d+)_sc(\d+)_utt(\d+)")
_IEMOCAP = re.compile(r"Ses\d\d([FM])_.+")
_SPLIT = re.compile(r"(?<![a-z])(train|dev|test)(?![a-z])")
_EXAMPLES = {"meld": "train_splits/dia0_utt0", "emorynlp": "emorynlp_train_splits/sea1_ep1_sc1_utt1"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Items of the utterances that have a source, and why the others have none."""

    items: tuple[Item, ...]
    missing: dict[str, int]
    """Utterances by reason, e.g. ``{"no clip": 3}``."""
    notes: tuple[str, ...] = ()
    """What else was noticed, one line each."""


def utterance_texts(corpus: Corpus) -> Sources:
    """Every utterance with its text."""
    return Sources(tuple(Item(row, u.id, text=u.text) for row, u in enumerate(corpus.utterances)), {})


def find_clips(corpus: Corpus, folder: Path, suffixes: Sequence[str], frames: bool = False) -> Sources:
    """Recordings anywhere under *folder* of utterances or of whole dialogues; with *frames* also folders of images.

    A file is named after its utterance or its dialogue; clips of MELD and EmoryNLP may have the names of their own
    archives. A dialogue is cut by the ``start`` and ``end`` of those of its utterances that have no file of their own.

    Raises:
        UserError: no such folder, two files for one utterance or dialogue, no clip for any utterance.
    """
    found, twins = _named(corpus, folder, suffixes, frames)
    own = {u.id: found[u.id] for u in corpus.utterances if u.id in found}
    archive = any(_MELD.fullmatch(path.stem) for path in own.values())
    ids = {u.id for u in corpus.utterances} & set(UNUSABLE)
    unusable = {i for i in ids if archive and (i not in own or _MELD.fullmatch(own[i].stem))}
    items: list[Item] = []
    missing: Counter[str] = Counter()
    row = -1
    for dialogue in corpus.dialogues:
        for u in dialogue.utterances:
            row += 1
            if u.id in unusable:
                continue
            if u.id in own:
                items.append(Item(row, u.id, path=own[u.id]))
            elif dialogue.id in found:
                cut = _cut(row, u, dialogue, found[dialogue.id], frames)
                if isinstance(cut, Item):
                    items.append(cut)
                else:
                    missing[cut] += 1
            else:
                missing["no clip"] += 1
    if unusable:
        names = ", ".join(UNUSABLE[i] for i in sorted(unusable))
        missing[f"a clip that is known to be unusable ({names})"] = len(unusable)
    if not items:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in missing.items())
        first = corpus.dialogues[0]
        names = " or ".join(f"**/{n}" for n in (first.utterances[0].id, _EXAMPLES.get(corpus.name), first.id) if n)
        raise UserError(
            f"{folder}: no clip for any utterance ({reasons}); the first would be {names} (the whole dialogue), "
            f"with one of {', '.join(suffixes)}"
        )
    second = f"{twins} clips have a second version, {_TWIN}…; the one without these words is used"
    return Sources(tuple(items), dict(missing), (second,) if twins else ())


def find_arrays(corpus: Corpus, folder: Path) -> Sources:
    """Arrays anywhere under *folder* that are named after an utterance: ``<utterance id>.npy``.

    Raises:
        UserError: no such folder, two arrays for one utterance, no array for any.
    """
    found, _ = _named(corpus, folder, (".npy",), frames=False)
    items = tuple(Item(row, u.id, path=found[u.id]) for row, u in enumerate(corpus.utterances) if u.id in found)
    if not items:
        first = f"**/{corpus.utterances[0].id}.npy"
        raise UserError(f"{folder}: no array for any utterance; the first would be {first}")
    absent = len(corpus.utterances) - len(items)
    return Sources(items, {"no array": absent} if absent else {})


def _cut(row: int, u: Utterance, dialogue: Dialogue, path: Path, frames: bool) -> Item | str:
    """The piece of a dialogue's recording that holds *u*, or why there is none."""
    start, end = u.times
    if start is None or end is None:
        return "no times"
    if end <= start:
        return "end not after start"
    half = ""
    if frames and (match := _IEMOCAP.fullmatch(dialogue.id)):
        # IEMOCAP films both actors side by side: on the left the one who wears the markers, whom the id names.
        half = "left" if u.id.rpartition("_")[2].startswith(match[1]) else "right"
    return Item(row, u.id, path=path, start=start, end=end, half=half)


def _named(corpus: Corpus, folder: Path, suffixes: Sequence[str], frames: bool) -> tuple[dict[str, Path], int]:
    """One file by the id of its utterance or dialogue, and how many second versions of clips were left out."""
    ids = {u.id for u in corpus.utterances}
    found: dict[str, list[Path]] = {}
    for name, path in _files(folder, suffixes, frames):
        known = name in ids or (name in corpus.by_id and path.is_file())
        identity = name if known else _utterance_of_clip(corpus.name, name, path, folder)
        if known or identity in ids:
            found.setdefault(identity, []).append(path)
    twins = 0
    chosen: dict[str, Path] = {}
    for identity, paths in found.items():
        first = [path for path in paths if not path.name.startswith(_TWIN)]
        twins += len(paths) - len(first) if first else 0
        kinds = ["" if path.is_dir() else path.suffix.lower() for path in first or paths]
        best = min(kinds, key=("", *suffixes).index)
        same = [path for path, kind in zip(first or paths, kinds, strict=True) if kind == best]
        if len(same) > 1:
            raise UserError(f"{folder}: two files for {identity!r}: {same[0]} and {same[1]}")
        chosen[identity] = same[0]
    return chosen, twins


def _utterance_of_clip(corpus: str, name: str, path: Path, folder: Path) -> str:
    """The utterance whose clip the corpus's own archive calls *name*; "" if that is no such name."""
    if corpus == "emorynlp" and (match := _EMORYNLP.fullmatch(name)):
        season, episode, scene, number = map(int, match.groups())
        return f"s{season:02d}_e{episode:02d}_c{scene:02d}_u{number:03d}"
    match = _MELD.fullmatch(name) if corpus == "meld" else None
    if match is None:
        return ""
    within = path.relative_to(folder).parent.parts
    for place in (*reversed(within), folder.resolve().name, "test" if match[1] else ""):
        if split := _SPLIT.search(place.lower()):
            return f"{split[1]}_{int(match[2])}_{int(match[3])}"
    raise UserError(
        f"{path}: a clip of train, dev or test? MELD has a clip of this name in each; put them into folders named "
        "train, dev and test"
    )


def _files(folder: Path, suffixes: Sequence[str], frames: bool) -> Iterator[tuple[str, Path]]:
    """Files anywhere under *folder*, and with *frames* also folders, with what they are named after."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    for path in sorted(folder.rglob("*")):
        if frames and path.is_dir():
            yield path.name, path
        # Archives from a Mac hold a "._name" beside every file; no utterance has such a name.
        elif path.suffix.lower() in suffixes and path.is_file():
            yield path.stem, path
