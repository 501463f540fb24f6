"""Which dialogues train, select and test, and how training dialogues are cut for cross-fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.errors import UserError, did_you_mean

PROTOCOLS = ("own",)
PARTS = ("train", "dev", "test")
FEW_SESSIONS = 8
"""Up to so many sessions are taken for recording sessions with their own speakers; more are episodes of one cast."""


@dataclass(frozen=True, slots=True)
class Split:
    """Dialogue ids, disjoint, in corpus order."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    held_out: str = ""
    """How dev was cut out of the training dialogues; empty when the corpus came with one."""


def resolve_split(corpus: Corpus, protocol: str, seed: int = 0, dev_share: float = 0.1) -> Split:
    """The split that *protocol* makes of *corpus*.

    ``own``: the corpus's own; without a dev split the last training session is held out where the training dialogues
    have 2 to 8, else a share *dev_share* of them chosen by *seed*.

    Raises:
        UserError: unknown protocol, an empty part, a dialogue in two parts or twice in one.
    """
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, list(PROTOCOLS))
        raise UserError(f"protocol.name={protocol} is not known.{hint} Valid: {', '.join(PROTOCOLS)}")
    train, dev, test = (list(corpus.splits.get(part, ())) for part in PARTS)
    held_out = ""
    if not dev and train:
        dev, held_out = _hold_out(corpus, train, seed, dev_share)
        train = [i for i in train if i not in set(dev)]
    split = Split(tuple(train), tuple(dev), tuple(test), held_out)
    check_split(corpus, {part: getattr(split, part) for part in PARTS})
    return split


def check_split(corpus: Corpus, parts: dict[str, Sequence[str]]) -> None:
    """Refuse empty *parts*, ids the corpus lacks, and dialogues that occur twice."""
    seen: dict[str, str] = {}
    for part, ids in parts.items():
        if not ids:
            raise UserError(f"corpus {corpus.name!r} has no {part} dialogues; its splits: {_counts(corpus)}")
        for i in ids:
            if i not in corpus.by_id:
                raise UserError(f"corpus {corpus.name!r} has no dialogue {i!r}, which is named in {part}")
            if i in seen:
                where = f"twice in {part}" if seen[i] == part else f"in {seen[i]} and in {part}"
                raise UserError(f"corpus {corpus.name!r}: dialogue {i!r} is {where}")
            seen[i] = part


def speaker_overlap(corpus: Corpus, split: Split) -> dict[str, tuple[str, ...]]:
    """For ``dev`` and ``test`` the speakers who are heard in training too; empty where speakers are disjoint."""
    heard = {s for i in split.train for s in corpus.by_id[i].speakers}
    found = {}
    for part in ("dev", "test"):
        speakers = {s for i in getattr(split, part) for s in corpus.by_id[i].speakers}
        found[part] = tuple(sorted(speakers & heard))
    return found


def folds(corpus: Corpus, train_ids: Sequence[str], k: int, seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Cut *train_ids* into ``(fit, held out)`` pairs, every dialogue held out exactly once.

    One fold per session where all training dialogues have one and there are 2 to 8 (*k* is then not used), else *k*
    groups chosen by *seed*, equal in dialogues to within one. Ids keep their order.

    Raises:
        UserError: *k* is below 2 or above the number of dialogues, or an id is unknown or occurs twice.
    """
    check_split(corpus, {"train": train_ids})
    groups = list(_recording_sessions(corpus, train_ids).values())
    if not groups:
        if not 2 <= k <= len(train_ids):
            raise UserError(f"{k} folds of {len(train_ids)} training dialogues; give 2 to {len(train_ids)}")
        order = np.random.default_rng([seed, k]).permutation(len(train_ids))
        groups = [[train_ids[i] for i in part] for part in np.array_split(order, k)]
    pairs = []
    for group in groups:
        chosen = set(group)
        fit = tuple(i for i in train_ids if i not in chosen)
        pairs.append((fit, tuple(i for i in train_ids if i in chosen)))
    return pairs


def _recording_sessions(corpus: Corpus, ids: Sequence[str]) -> dict[str, list[str]]:
    """Dialogue ids by session in the order of their names; empty unless every dialogue has one and they are few."""
    found: dict[str, list[str]] = {}
    for i in ids:
        session = corpus.by_id[i].session
        if session is None:
            return {}
        found.setdefault(session, []).append(i)
    # By length first, so that session 10 comes after session 9.
    ordered = sorted(found, key=lambda name: (len(name), name))
    return {name: found[name] for name in ordered} if 2 <= len(found) <= FEW_SESSIONS else {}


def _hold_out(corpus: Corpus, train: list[str], seed: int, share: float) -> tuple[list[str], str]:
    check_split(corpus, {"train": train})
    sessions = _recording_sessions(corpus, train)
    if sessions:
        last = list(sessions)[-1]
        return sessions[last], f"training session {last}"
    if len(train) < 2:
        raise UserError(f"corpus {corpus.name!r} has {len(train)} training dialogue; two are needed to hold one out")
    count = min(max(1, round(share * len(train))), len(train) - 1)
    chosen = sorted(np.random.default_rng(seed).permutation(len(train))[:count].tolist())
    return [train[i] for i in chosen], f"{count} of {len(train)} training dialogues, seed {seed}"


def _counts(corpus: Corpus) -> str:
    return ", ".join(f"{name} {len(ids)}" for name, ids in corpus.splits.items()) or "none"
