"""Which dialogues train, select and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.errors import UserError, did_you_mean

PROTOCOLS = ("own",)


@dataclass(frozen=True, slots=True)
class Split:
    """Dialogue ids, disjoint."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def resolve_split(corpus: Corpus, protocol: str, seed: int = 0, dev_share: float = 0.1) -> Split:
    """The split that *protocol* makes of *corpus*.

    ``own``: the corpus's own; without a dev split the last training session is held out where the training dialogues
    have at least two, else a seeded share *dev_share* of them.

    Raises:
        UserError: unknown protocol, an empty part, a dialogue in two parts.
    """
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, list(PROTOCOLS))
        raise UserError(f"protocol.name={protocol} is not known.{hint} Valid: {', '.join(PROTOCOLS)}")
    train, test = list(corpus.splits.get("train", ())), corpus.splits.get("test", ())
    dev = list(corpus.splits.get("dev", ()))
    if not dev:
        dev = _held_out(corpus, train, seed, dev_share)
        train = [i for i in train if i not in set(dev)]
    split = Split(tuple(train), tuple(dev), tuple(test))
    check_split(corpus.name, split)
    return split


def check_split(name: str, split: Split) -> None:
    """Refuse empty parts and dialogues that lie in two."""
    seen: dict[str, str] = {}
    for part in ("train", "dev", "test"):
        ids = getattr(split, part)
        if not ids:
            raise UserError(f"corpus {name!r} has no {part} dialogues under this protocol")
        for i in ids:
            if i in seen:
                raise UserError(f"corpus {name!r}: dialogue {i!r} is in {seen[i]} and in {part}")
            seen[i] = part


def sessions_of(corpus: Corpus, ids: list[str]) -> dict[str, list[str]]:
    """Dialogue ids by session, in order of appearance; dialogues without one are left out."""
    wanted, found = set(ids), {}
    for dialogue in corpus.dialogues:
        if dialogue.id in wanted and dialogue.session is not None:
            found.setdefault(dialogue.session, []).append(dialogue.id)
    return found


def _held_out(corpus: Corpus, train: list[str], seed: int, share: float) -> list[str]:
    sessions = sessions_of(corpus, train)
    # Few sessions are recording sessions with their own speakers; many are episodes of the same cast.
    if 2 <= len(sessions) <= 8 and sum(map(len, sessions.values())) == len(train):
        return sessions[max(sessions)]
    count = max(1, round(share * len(train)))
    if len(train) < 2:
        raise UserError(f"corpus {corpus.name!r} has {len(train)} training dialogues; two are needed to hold one out")
    chosen = np.random.default_rng(seed).permutation(len(train))[:count]
    return [train[i] for i in sorted(chosen)]
