"""What every corpus in memory fulfils. No torch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from lantern.corpora.types import MODALITIES, Dialogue
from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.corpora.folder import Corpus

SPLITS = ("train", "dev", "test")
ROWS = 8192
"""Utterances whose features are looked at together: they may be in a file larger than the memory."""


def check_corpus(corpus: Corpus) -> None:
    """Refuse duplicate or unknown ids, speakers without a number, and features that do not fit the utterances."""
    where = f"corpus {corpus.name!r}"
    if (
        not corpus.name.strip(" .")
        or not corpus.name.isprintable()
        or len(corpus.name) > 60
        or set("/\\") & set(corpus.name)
    ):
        raise UserError(
            f"{where}: a corpus name is a line of at most 60 characters without / and \\: it names run folders"
        )
    if corpus.redistribution not in ("allowed", "forbidden"):
        raise UserError(f"{where}: redistribution={corpus.redistribution!r} is not one of allowed, forbidden")
    if corpus.score_range is not None and not -np.inf < corpus.score_range[0] < corpus.score_range[1] < np.inf:
        raise UserError(f"{where}: score_range={list(corpus.score_range)} must be two finite numbers that rise")
    seen: set[str] = set()
    for dialogue in corpus.dialogues:
        if dialogue.id in seen:
            raise UserError(f"{where}: dialogue {dialogue.id!r} occurs twice")
        if not dialogue.utterances:
            raise UserError(f"{where}: dialogue {dialogue.id!r} has no utterances")
        if corpus.speaker_numbers:
            _check_speakers(corpus.speaker_numbers, dialogue, where)
        seen.add(dialogue.id)
    turns = [u.id for u in corpus.utterances]
    if len(set(turns)) != len(turns):
        double = Counter(turns).most_common(1)[0][0]
        raise UserError(f"{where}: utterance {double!r} occurs twice")
    placed: dict[str, str] = {}
    for name, ids in corpus.splits.items():
        if name not in SPLITS:
            raise UserError(f"{where}: split {name!r} is not one of {', '.join(SPLITS)}")
        for identity in ids:
            if identity not in seen:
                raise UserError(f"{where}: split {name!r} names dialogue {identity!r}, which the corpus does not have")
            if identity in placed:
                raise UserError(f"{where}: dialogue {identity!r} is in split {placed[identity]!r} and in {name!r}")
            placed[identity] = name
    for name, values in corpus.features.items():
        if name not in MODALITIES:
            raise UserError(f"{where}: modality {name!r} is not one of {', '.join(MODALITIES)}")
        mask, card = corpus.present.get(name), corpus.cards.get(name)
        if card is None or mask is None:
            raise UserError(f"{where}: {name} features come without a card or without their present mask")
        wanted = (len(turns), card.dims)
        if values.shape != wanted or mask.shape != wanted[:1]:
            raise UserError(f"{where}: {name} features have shape {list(values.shape)}, expected {list(wanted)}")
        if int(mask.sum()) != card.count:
            raise UserError(f"{where}: {int(mask.sum())} utterances have {name} features, the card says {card.count}")
        for start in range(0, len(values), ROWS):
            finite = np.isfinite(values[start : start + ROWS]).all(axis=1)
            if not finite.all():
                bad = turns[start + int(np.flatnonzero(~finite)[0])]
                raise UserError(f"{where}: {name} features of utterance {bad!r} are not finite")


def _check_speakers(numbers: dict[str, int], dialogue: Dialogue, where: str) -> None:
    given: dict[int, str] = {}
    for speaker in dialogue.speakers:
        number = numbers.get(speaker)
        if number is None or number < 0:
            raise UserError(f"{where}: speaker {speaker!r} of dialogue {dialogue.id!r} has no number")
        if number in given:
            both = f"{given[number]!r} and {speaker!r}"
            raise UserError(f"{where}: speakers {both} of dialogue {dialogue.id!r} have the same number, {number}")
        given[number] = speaker
