"""IEMOCAP from its raw release (Busso et al., Language Resources and Evaluation 42, 2008)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import COUNTS, label_set
from lantern.corpora.readers.iemocap_files import CODES, SESSIONS, RawDialogue, Skipped, Turn, read_release
from lantern.corpora.summary import class_differences, differences
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError

SCORE_RANGE = (1.0, 5.0)
DIALOGUES = (28, 30, 32, 30, 31)
"""By session."""
TURNS = 10_039
CODE_COUNTS = dict(zip(CODES, (1103, 595, 1041, 1084, 1708, 1849, 40, 107, 2, 3, 2507)))
SPEAKER_NUMBERS = {f"{letter}{session}": number for session in SESSIONS for number, letter in enumerate("MF")}
"""0 for the men and 1 for the women, as in the published feature files and in weights trained on them."""
_CLASSES = {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"}


def import_iemocap(root: Path, label_set_name: str = "iemocap-6") -> Corpus:
    """All evaluated turns of ``IEMOCAP_full_release`` in transcript order, without features.

    Turns whose consensus is no class of the label set stay in the transcript without a label. Scores are valence,
    arousal (the release says activation) and dominance, 1 to 5. Sessions are ``1`` to ``5``; ``train`` are sessions 1
    to 4, ``test`` is session 5. Speakers are ``F1``, ``M1``, ... ``M5``: the same ones in every dialogue of a session.
    ``extra`` of an utterance has ``start`` and ``end`` (seconds), ``consensus``, ``sex``, ``votes`` and ``ratings`` by
    annotator. ``checks`` of the corpus compares the counts with the known ones; a difference is not an error.

    Raises:
        UserError: another label set, or files that cannot be used; names file and line.
    """
    labels = iemocap_labels(label_set_name)
    raw, skipped = read_release(root)
    dialogues = tuple(
        Dialogue(d.id, tuple(_utterance(turn, text, d.session, labels) for turn, text in d.turns), str(d.session))
        for d in raw
    )
    splits = {
        "train": tuple(d.id for d in raw if d.session != SESSIONS[-1]),
        "test": tuple(d.id for d in raw if d.session == SESSIONS[-1]),
    }
    return Corpus(
        name="iemocap",
        label_set=labels,
        dialogues=dialogues,
        splits=splits,
        score_range=SCORE_RANGE,
        speaker_numbers=SPEAKER_NUMBERS,
        redistribution="forbidden",
        source="IEMOCAP_full_release (Busso et al. 2008), under USC's licence: not to be passed on",
        notes=tuple(_notes(raw, skipped)),
        checks=(*_raw_checks(raw), *_label_checks(dialogues, labels)),
    )


def iemocap_labels(name: str) -> LabelSet:
    """The label set *name* if it is one of IEMOCAP's; anything else is a UserError."""
    labels = label_set(name)
    if not labels.name.startswith("iemocap-"):
        valid = [name for name in COUNTS if name.startswith("iemocap-")]
        raise UserError(f"label set {labels.name!r} is not one of IEMOCAP's: {', '.join(valid)}")
    return labels


def happy_by_self_report(turn: Turn) -> bool:
    """Whether the widespread feature files call this turn happy though its annotators did not agree.

    No consensus, the speaker named Happiness and nothing else, and at least one external annotator named Happiness.
    This is true of 53 turns, exactly those that the files have in addition to the 595 of the consensus.
    """
    own = {name for who, named in turn.votes.items() if not who.startswith("C-E") for name in named}
    external = {name for who, named in turn.votes.items() if who.startswith("C-E") for name in named}
    return turn.code == "xxx" and own == {"Happiness"} and "Happiness" in external


def _label(turn: Turn, labels: LabelSet) -> int | None:
    name = _CLASSES.get(turn.code)
    if labels.name == "iemocap-4-happexc" and turn.code == "exc":
        name = "happy"
    if labels.name.endswith("-legacy") and happy_by_self_report(turn):
        name = "happy"
    return labels.classes.index(name) if name in labels.classes else None


def _utterance(turn: Turn, text: str, session: int, labels: LabelSet) -> Utterance:
    return Utterance(
        id=turn.id,
        speaker=f"{turn.letter}{session}",
        text=text,
        label=_label(turn, labels),
        scores=turn.scores,
        extra={
            "start": turn.start,
            "end": turn.end,
            "consensus": turn.code,
            "sex": turn.letter,
            "votes": turn.votes,
            "ratings": turn.ratings,
        },
    )


def _notes(raw: list[RawDialogue], skipped: Skipped) -> list[str]:
    turns = [turn for d in raw for turn, _ in d.turns]
    files = ", ".join(f"{count} {name}" for name, count in sorted(skipped.files.items()) if count)
    unknown = ", ".join(f"{name} ({count})" for name, count in skipped.unknown.most_common(5))
    outside = sum(not all(SCORE_RANGE[0] <= s <= SCORE_RANGE[1] for s in turn.scores) for turn in turns)
    late = sum(any(a.start > b.start for (a, _), (b, _) in zip(d.turns, d.turns[1:])) for d in raw)
    lines = skipped.overlaps + skipped.unevaluated
    notes = {
        f"skipped {lines} transcript lines that nobody evaluated: {skipped.overlaps} of overlapping speech (MXX, FXX), "
        f"{skipped.unevaluated} other turns": lines,
        f"skipped {skipped.anonymous} transcript lines without a turn id": skipped.anonymous,
        f"skipped files: {files}": files,
        f"skipped {len(skipped.odd)} lines that are neither turn nor vote, the first in {''.join(skipped.odd[:1])}": (
            skipped.odd
        ),
        f"{skipped.empty_votes} votes name no category": skipped.empty_votes,
        f"votes for categories that the evaluation form does not have: {unknown}": unknown,
        f"{outside} turns have a score outside 1-5, kept as it is": outside,
        f"{late} dialogues are not in the order of their start times; the transcript's order is kept": late,
    }
    return [note for note, present in notes.items() if present]


def _raw_checks(raw: list[RawDialogue]) -> list[str]:
    sessions = Counter(d.session for d in raw)
    codes = Counter(turn.code for d in raw for turn, _ in d.turns)
    pairs = [(f"dialogues in session {n}", sessions[n], known) for n, known in zip(SESSIONS, DIALOGUES)]
    pairs += [("turns", codes.total(), TURNS)]
    pairs += [(f"turns with consensus {code}", codes[code], known) for code, known in CODE_COUNTS.items()]
    return differences("", pairs, "known") or [
        f"agrees: {sum(DIALOGUES)} dialogues, {TURNS:,} turns and all consensus codes as known"
    ]


def _label_checks(dialogues: tuple[Dialogue, ...], labels: LabelSet) -> list[str]:
    counts: dict[str, Counter[int | None]] = {"train": Counter(), "test": Counter()}
    for d in dialogues:
        counts["test" if d.session == str(SESSIONS[-1]) else "train"].update(u.label for u in d.utterances)
    total = sum(map(sum, COUNTS[labels.name].values()))
    agrees = f"agrees: {labels.name}: {total:,} utterances and all class counts of both splits as known"
    return class_differences("", counts, labels, "known") or [agrees]
