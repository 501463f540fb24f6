"""Speakers and texts that the parts of a split share, for the start of a run and for its result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.config import ProtocolConfig
from lantern.corpora.protocols.splits import FEW_SESSIONS, Split
from lantern.corpora.types import PARTS, Utterance

PAPER_STYLE = "paper-style: the epoch was chosen on the test dialogues"


def normalised(text: str) -> str:
    """*text* in lower case, words only: turns with the same normalised text are twins."""
    return " ".join(re.findall(r"\w+", text.lower()))


def training_texts(corpus: Corpus, split: Split) -> set[str]:
    """:func:`normalised` texts of the training dialogues; turns without words are left out."""
    return {normalised(u.text) for u in _turns(corpus, split.train)} - {""}


def text_twins(corpus: Corpus, split: Split) -> frozenset[str]:
    """Ids of the test utterances whose normalised text also occurs in training.

    IEMOCAP's scripted dialogues are acted again in every session, so its parts share them word for word.
    """
    known = training_texts(corpus, split)
    return frozenset(u.id for u in _turns(corpus, split.test) if normalised(u.text) in known)


def speaker_overlap(corpus: Corpus, split: Split) -> dict[str, tuple[str, ...]]:
    """For ``dev`` and ``test`` the speakers who also speak in training; empty where speakers are disjoint."""
    speakers = {part: {s for i in ids for s in corpus.by_id[i].speakers} for part, ids in split.parts.items()}
    return {part: tuple(sorted(speakers[part] & speakers["train"])) for part in ("dev", "test")}


def protocol_report(corpus: Corpus, split: Split, protocol: ProtocolConfig) -> dict[str, Any]:
    """Names, counts and overlaps of a split as plain JSON: the ``protocol`` of a result.

    ``train``, ``dev`` and ``test`` count dialogues (no dialogue is in two of them unless ``dev_is_test``), ``labelled``
    their utterances with a label. ``same_speakers`` are those of dev and test who also speak in training, ``twins`` the
    labelled test utterances whose text also occurs in training.
    """
    parts = split.parts
    labelled = {part: {u.id for u in _turns(corpus, ids) if u.label is not None} for part, ids in parts.items()}
    sessions = {part: sorted({corpus.by_id[i].session or "" for i in ids}) for part, ids in parts.items()}
    few = all(len(names) <= FEW_SESSIONS and "" not in names for names in sessions.values())
    return {
        "name": protocol.name if protocol.fold is None else f"{protocol.name}, fold {protocol.fold}",
        "selection": protocol.selection,
        **{part: len(ids) for part, ids in parts.items()},
        "labelled": {part: len(ids) for part, ids in labelled.items()},
        "sessions": sessions if few else None,
        "held_out": split.held_out,
        "same_speakers": {part: list(names) for part, names in speaker_overlap(corpus, split).items()},
        "dev_is_test": split.dev == split.test,
        "twins": len(text_twins(corpus, split) & labelled["test"]),
    }


def protocol_lines(report: dict[str, Any]) -> list[str]:
    """The facts of :func:`protocol_report` in sentences."""
    counts = ", ".join(f"{part} {report[part]} ({report['labelled'][part]:,} labelled turns)" for part in PARTS)
    lines = [f"protocol {report['name']}, in dialogues: {counts}"]
    if report["sessions"]:
        named = (f"{part} {'+'.join(report['sessions'][part])}" for part in PARTS)
        lines.append(f"sessions: {', '.join(named)}")
    if report["selection"] == "paper-style":
        lines.append(f"{PAPER_STYLE}: good for a comparison with printed numbers only")
    elif report["held_out"]:
        lines.append(f"dev: {report['held_out']}")
    shared = {part: names for part, names in report["same_speakers"].items() if names}
    lines += [
        f"{part} shares {len(names)} speakers with training: {', '.join(names[:5])}"
        f"{' and others' if len(names) > 5 else ''}"
        for part, names in shared.items()
    ]
    if not shared:
        lines.append("no speaker of dev or test is heard in training")
    test = report["labelled"]["test"]
    share = f", {100 * report['twins'] / test:.1f} %" if test else ""
    lines.append(f"{report['twins']} of {test:,} labelled test turns have a text that also occurs in training{share}")
    return lines


def _turns(corpus: Corpus, ids: Iterable[str]) -> list[Utterance]:
    return [u for i in ids for u in corpus.by_id[i].utterances]
