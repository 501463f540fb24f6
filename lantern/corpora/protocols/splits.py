"""Which dialogues train, select and test, and how training dialogues are cut for cross-fitting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lantern.corpora.checks import check_parts
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.config import ProtocolConfig
from lantern.corpora.types import PARTS
from lantern.errors import UserError

FEW_SESSIONS = 8
"""Up to this many sessions count as recording sessions with their own speakers; more are episodes of one cast."""
COSMIC = (108, 12, 31)
"""Dialogues that COSMIC trains, selects and tests on."""


@dataclass(frozen=True, slots=True)
class Split:
    """Dialogue ids in corpus order; the parts are disjoint, but for paper-style selection, where dev is test."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    held_out: str = ""
    """Where dev comes from, for people; empty when the corpus came with one."""

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Dialogue ids by part."""
        return {part: getattr(self, part) for part in PARTS}


def resolve_split(corpus: Corpus, protocol: ProtocolConfig, seed: int = 0) -> Split:
    """The split that *protocol* makes of *corpus*.

    ``own``: the corpus's own; without a dev split the last training session is held out where the training dialogues
    have 2 to 8, else a share ``dev_share`` of them chosen by *seed*. The other protocols are described at
    :class:`ProtocolConfig`.

    Raises:
        UserError: a protocol that does not fit the corpus, an empty part, a dialogue in two parts or twice in one.
    """
    if protocol.test_session is not None:
        split = _by_session(corpus, protocol, protocol.test_session)
    else:
        train, dev, test = (list(corpus.splits.get(part, ())) for part in PARTS)
        held_out = ""
        if protocol.dev_list is not None:
            train, dev = _listed(corpus, Path(protocol.dev_list), [*train, *dev])
            held_out = f"the dialogues of {protocol.dev_list}"
        elif protocol.name == "cosmic" and not dev:
            raise UserError(_no_list(corpus, "cosmic", "the corpus came without COSMIC's list of 12 dev dialogues"))
        elif protocol.name == "corect" and train and not dev:
            dev, held_out = _first_tenth(corpus, train)
            train = train[len(dev) :]
        elif not dev and train:
            dev, held_out = _hold_out(corpus, train, seed, protocol.dev_share)
            chosen = set(dev)
            train = [i for i in train if i not in chosen]
        split = Split(tuple(train), tuple(dev), tuple(test), held_out)
    check_split(corpus, split.parts)
    sizes = tuple(map(len, split.parts.values()))
    if protocol.name == "cosmic" and sizes != COSMIC:
        given = " / ".join(map(str, sizes))
        raise UserError(f"protocol=cosmic is 108 / 12 / 31 dialogues, corpus {corpus.name!r} gives {given}")
    if protocol.selection == "paper-style":
        everyone = set(split.train) | set(split.dev)
        train = [d.id for d in corpus.dialogues if d.id in everyone]
        split = replace(split, train=tuple(train), dev=split.test, held_out="the test dialogues (paper-style)")
    return split


def check_split(corpus: Corpus, parts: Mapping[str, Sequence[str]]) -> None:
    """Refuse empty *parts*, dialogues that the corpus lacks, and dialogues that occur twice."""
    for part, ids in parts.items():
        if not ids:
            splits = ", ".join(f"{name} {len(chosen)}" for name, chosen in corpus.splits.items()) or "none"
            raise UserError(f"corpus {corpus.name!r} has no {part} dialogues; its splits: {splits}")
    check_parts(f"corpus {corpus.name!r}", parts, corpus.by_id)


def _by_session(corpus: Corpus, protocol: ProtocolConfig, test: int) -> Split:
    """Whole sessions, whatever the corpus's own splits are: each recording session has its own speakers."""
    named = f"protocol={protocol.name}"
    sessions: dict[int, list[str]] = {}
    for dialogue in corpus.dialogues:
        # 5, Ses05 or Session5, depending on the importer.
        number = re.fullmatch(r"(?:Ses|Session)?0*(\d)", dialogue.session or "")
        if number is None:
            raise UserError(
                f"{named} needs recording sessions, which corpus {corpus.name!r} does not have; take protocol=own"
            )
        sessions.setdefault(int(number[1]), []).append(dialogue.id)
    dev = (test - 1 if test > 1 else 5) if protocol.dev_session is None else protocol.dev_session
    for key, session in ((f"{named}: test", test), (f"{named}: dev", dev)):
        if session not in sessions:
            numbers = ", ".join(map(str, sorted(sessions)))
            cut = any(note.startswith("limited to") for note in corpus.notes)
            hint = "; corpus.limit_dialogues dropped the others, take protocol=own with it" if cut else ""
            raise UserError(f"{key} session {session} is not in corpus {corpus.name!r}, which has {numbers}{hint}")
    held = {*sessions[test], *sessions[dev]}
    train = [d.id for d in corpus.dialogues if d.id not in held]
    return Split(tuple(train), tuple(sessions[dev]), tuple(sessions[test]), f"session {dev}")


def _listed(corpus: Corpus, path: Path, others: list[str]) -> tuple[list[str], list[str]]:
    """*others* without and with the ids that the file *path* lists."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"protocol.dev_list={path} cannot be read: {why}") from None
    listed: dict[str, None] = {}
    known = set(others)
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name in listed or (name and name not in known):
            what = "a second time" if name in listed else f"which corpus {corpus.name!r} does not have outside test"
            raise UserError(f"{path}, line {number}: dialogue {name!r}, {what}")
        if name:
            listed[name] = None
    if not listed:
        raise UserError(f"protocol.dev_list={path} names no dialogue")
    return [i for i in others if i not in listed], list(listed)


def _first_tenth(corpus: Corpus, train: list[str]) -> tuple[list[str], str]:
    count = len(train) // 10
    # The published lists are in no particular order; a sorted one is not theirs.
    if train == sorted(train) or not count:
        why = "the training dialogues are not in the order of the published file"
        raise UserError(_no_list(corpus, "corect", why))
    return train[:count], f"the first {count} of {len(train)} training dialogues in the file's order"


def _no_list(corpus: Corpus, name: str, why: str) -> str:
    return (
        f"protocol={name} does not fit corpus {corpus.name!r}: {why}. Import the published feature file that has them, "
        "name a file with a dialogue id on every line (protocol.dev_list=FILE), or take protocol=session5"
    )


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
        count = len(train_ids)
        if count < 2:
            raise UserError(f"{count} training dialogue cannot be cut into folds; take weighting.fit_on=dev")
        if not 2 <= k <= count:
            raise UserError(f"oof.folds={k}: {k} folds of {count} training dialogues; give 2 to {count}")
        order = np.random.default_rng([seed, k]).permutation(count)
        groups = [[train_ids[i] for i in part] for part in np.array_split(order, k)]
    pairs = []
    for group in groups:
        chosen = set(group)
        fit = tuple(i for i in train_ids if i not in chosen)
        pairs.append((fit, tuple(i for i in train_ids if i in chosen)))
    return pairs


def _recording_sessions(corpus: Corpus, ids: Sequence[str]) -> dict[str, list[str]]:
    """Dialogue ids by session in the order of their names; empty unless every dialogue has one and they are few."""
    sessions: dict[str, list[str]] = {}
    for i in ids:
        session = corpus.by_id[i].session
        if session is None:
            return {}
        sessions.setdefault(session, []).append(i)
    # By length first, so that session 10 comes after session 9.
    ordered = sorted(sessions, key=lambda name: (len(name), name))
    return {name: sessions[name] for name in ordered} if 2 <= len(sessions) <= FEW_SESSIONS else {}


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
