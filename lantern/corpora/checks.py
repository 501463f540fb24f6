"""Checks of every corpus in memory. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.types import MODALITIES, PARTS, Dialogue
from lantern.errors import UserError

ROWS = 8192
"""Utterances whose features are checked together: the file may be larger than the memory."""


def check_facts(where: str, name: str, redistribution: str, score_range: tuple[float, float] | None) -> None:
    """Refuse a name that cannot name a folder, and facts with other values than the known ones."""
    if not name.strip(" .") or not name.isprintable() or len(name) > 60 or set("/\\") & set(name):
        raise UserError(
            f"{where}: a corpus name is a line of at most 60 characters without / and \\: it names run folders"
        )
    if redistribution not in ("allowed", "forbidden"):
        raise UserError(f"{where}: redistribution={redistribution!r} is not one of allowed, forbidden")
    if score_range is not None and not -np.inf < score_range[0] < score_range[1] < np.inf:
        raise UserError(f"{where}: score_range={list(score_range)} must be two finite numbers that rise")


def check_dialogues(where: str, dialogues: Sequence[Dialogue], speaker_numbers: Mapping[str, int]) -> None:
    """Refuse ids that occur twice, empty dialogues, and speakers without a number of their own."""
    for kind, ids in (
        ("dialogue", [d.id for d in dialogues]),
        ("utterance", [u.id for d in dialogues for u in d.utterances]),
    ):
        if len(set(ids)) != len(ids):
            raise UserError(f"{where}: {kind} {Counter(ids).most_common(1)[0][0]!r} occurs twice")
    for dialogue in dialogues:
        if not dialogue.utterances:
            raise UserError(f"{where}: dialogue {dialogue.id!r} has no utterances")
        owner: dict[int, str] = {}
        for speaker in dialogue.speakers if speaker_numbers else ():
            number = speaker_numbers.get(speaker, -1)
            if number < 0:
                raise UserError(f"{where}: speaker {speaker!r} of dialogue {dialogue.id!r} has no number")
            if owner.setdefault(number, speaker) != speaker:
                both = f"{owner[number]!r} and {speaker!r}"
                raise UserError(f"{where}: speakers {both} of dialogue {dialogue.id!r} have the same number, {number}")


def check_parts(where: str, parts: Mapping[str, Sequence[str]], known: Collection[str]) -> None:
    """Refuse parts other than train, dev and test, dialogues that are not *known*, and dialogues that occur twice."""
    placed: dict[str, str] = {}
    for part, ids in parts.items():
        if part not in PARTS:
            raise UserError(f"{where}: split {part!r} is not one of {', '.join(PARTS)}")
        for i in ids:
            if i not in known:
                raise UserError(f"{where} has no dialogue {i!r}, which is named in {part}")
            if i in placed:
                places = f"twice in {part}" if placed[i] == part else f"in {placed[i]} and in {part}"
                raise UserError(f"{where}: dialogue {i!r} is {places}")
            placed[i] = part


def check_features(
    where: str,
    ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    cards: Mapping[str, FeatureCard],
    folds: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Refuse unknown modalities, and features that do not fit the utterances *ids*, their card or their mask."""
    for name, values in features.items():
        if name not in MODALITIES:
            raise UserError(f"{where}: modality {name!r} is not one of {', '.join(MODALITIES)}")
        mask, card = present.get(name), cards.get(name)
        if card is None or mask is None:
            raise UserError(f"{where}: {name} features come without a card or without their present mask")
        expected = (len(ids), card.dims)
        if values.shape != expected or mask.shape != expected[:1]:
            raise UserError(f"{where}: {name} features have shape {list(values.shape)}, expected {list(expected)}")
        if int(mask.sum()) != card.count:
            raise UserError(f"{where}: {int(mask.sum())} utterances have {name} features, the card says {card.count}")
        others = folds.get(name, ())
        if len(others) != max(0, len(card.fits) - 1) or any(one.shape != expected for one in others):
            raise UserError(f"{where}: {name} features of the folds do not fit their card")
        for start in (start for one in (values, *others) for start in _rows_not_finite(one)):
            raise UserError(f"{where}: {name} features of utterance {ids[start]!r} are not finite")


def _rows_not_finite(values: np.ndarray) -> Iterator[int]:
    for start in range(0, len(values), ROWS):
        finite = np.isfinite(values[start : start + ROWS]).all(axis=1)
        yield from (start + int(row) for row in np.flatnonzero(~finite))
