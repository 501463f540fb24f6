"""One HTML page with the facts, histograms and dialogues of a corpus. No network, no library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.corpora.summary import PartSummary, summarise
from lantern.corpora.types import DIMENSIONS, MODALITIES, Utterance
from lantern.errors import UserError
from lantern.files import atomic
from lantern.report import pages
from lantern.report.plots import class_bars, colour, histogram

PIECE = 5_000
"""Turns in one piece of the page's data."""
MARK = "<!doctype html>\n<!-- Lantern corpus page -->\n"


def write_page(corpus: Corpus, path: Path) -> Path:
    """Write the page of *corpus*, loaded with its features, to *path*.

    Raises:
        UserError: *path* is something other than such a page, or cannot be written.
    """
    try:
        if path.exists() and (path.is_dir() or not path.read_bytes().startswith(MARK.encode())):
            raise UserError(f"{path} exists and is not a page of this command; give another file with --out")
        with atomic(path) as partial:
            partial.write_text(page(corpus), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def page(corpus: Corpus) -> str:
    """The page; it holds the text of the corpus."""
    parts = summarise(corpus)
    whole, classes = parts[-1], corpus.label_set.classes
    splits = parts if len(parts) == 1 else parts[:-1]
    data = _reader(corpus)
    return pages.page(
        "corpus.html",
        data,
        _in_pieces(data["sets"][0]["dialogues"]),
        title=f"{corpus.name}, {corpus.label_set.name}",
        corpus=corpus,
        warnings=_warnings(corpus),
        tiles=(
            (whole.dialogues, "dialogues"),
            (whole.utterances, "utterances"),
            (whole.labelled, "labelled"),
            (whole.scored, "scored"),
            (whole.speakers, "speakers"),
            (whole.longest, "turns in the longest"),
        ),
        heads=("split", "dialogues", "turns", "labelled", "scored", "speakers", *classes),
        rows=[_row(part) for part in parts],
        class_plots=[class_bars(part.name, classes, part.classes) for part in splits],
        score_plots=_score_plots(corpus),
        features=_features(corpus),
        transitions=_transitions(corpus),
    )


def _warnings(corpus: Corpus) -> list[str]:
    warnings = []
    if corpus.redistribution == "forbidden":
        warnings.append(
            "For your own use: the text of this corpus may not be passed on, and this page holds it. "
            "Keep it where the corpus is."
        )
    if corpus.contaminated:
        warnings.append(f"{corpus.contaminated}.")
    if corpus.made_up:
        warnings.append("Made up by a generator: nothing measured on it says anything about people.")
    return warnings


def _row(p: PartSummary) -> list[str]:
    counts = (p.dialogues, p.utterances, p.labelled, p.scored, p.speakers, *p.classes)
    return [p.name, *(f"{count:,}" for count in counts)]


def _score_plots(corpus: Corpus) -> list[str]:
    if corpus.score_range is None:
        return []
    plots = []
    for place, name in enumerate(DIMENSIONS):
        given = [u.scores[place] for u in corpus.utterances if u.scores is not None]
        values = np.array([score for score in given if score is not None])
        if len(values):
            plots.append(histogram(name, values, *corpus.score_range))
    return plots


def _transitions(corpus: Corpus) -> dict[str, list[list[int]]]:
    """How often a label follows a label, ``[C, C]`` counts, by what *follows* means; turns without one do not count."""
    size = len(corpus.label_set)
    counts = {name: np.zeros((size, size), dtype=int) for name in ("next turn", "next turn of the same speaker")}
    for dialogue in corpus.dialogues:
        last: dict[str | None, int] = {}
        for turn in dialogue.utterances:
            for name, who in zip(counts, (None, turn.speaker), strict=True):
                if turn.label is not None and who in last:
                    counts[name][last[who], turn.label] += 1
            if turn.label is not None:
                last |= {None: turn.label, turn.speaker: turn.label}
    return {name: found.tolist() for name, found in counts.items() if found.any()}


def _features(corpus: Corpus) -> list[dict[str, Any]]:
    total = len(corpus.utterances)
    features = []
    for name, card in corpus.cards.items():
        count = f"{card.count:,}" if card.count == total else f"{card.count:,} of {total:,}"
        facts = {
            "extractor": card.extractor,
            "version": card.version,
            "layer": card.layer or "unknown",
            "fitted on": card.fitted_on,
            "licence": card.licence,
            "SHA-256": f"{card.sha256[:16]}…",
        }
        features.append({"name": name, "size": f"{card.dims}-d, {count} utterances", "facts": facts})
    return features


def _reader(corpus: Corpus) -> dict[str, Any]:
    """Data of the dialogue reader: one set of turns, and one run that predicts nothing."""
    split_of = {i: name for name, ids in corpus.splits.items() for i in ids}
    missing = np.zeros(len(corpus.utterances), dtype=np.int64)
    for bit, name in enumerate(MODALITIES):
        if name in corpus.present:
            missing |= (~corpus.present[name]).astype(np.int64) << bit
    speakers: dict[str, int] = {}
    dialogues = []
    for d in corpus.dialogues:
        turns = [
            [place, place, u.id, speakers.setdefault(u.speaker, len(speakers)), *_facts(u), int(bits)]
            for place, (u, bits) in enumerate(zip(d.utterances, missing[corpus.rows[d.id]], strict=True))
        ]
        dialogues.append({"id": d.id, "split": split_of.get(d.id, ""), "session": d.session or "", "turns": turns})
    classes = corpus.label_set.classes
    return {
        "sets": [{"classes": classes, "speakers": list(speakers), "dialogues": dialogues}],
        "runs": [{"name": corpus.name, "set": 0, "t": 0, "rows": ""}],
        "colours": [colour(n) for n in range(len(classes))],
        "modalities": MODALITIES,
        "gold": any(u.label is not None for u in corpus.utterances),
    }


def _in_pieces(dialogues: list[dict[str, Any]]) -> list[list[list[Any]]]:
    """Take the turns out of *dialogues* where they are many; the page reads a piece when a dialogue of it is opened."""
    if sum(len(one["turns"]) for one in dialogues) <= PIECE:
        return []
    pieces: list[list[list[Any]]] = []
    room = 0
    for one in dialogues:
        turns = one.pop("turns")
        if room < len(turns):
            pieces.append([])
            room = PIECE
        pieces[-1].append(turns)
        room -= len(turns)
        one |= {"piece": len(pieces) - 1, "count": len(turns)}
    return pieces


def _facts(u: Utterance) -> list[Any]:
    """Label, scores, text and times of a turn."""
    scores = None if u.scores is None else [None if s is None else round(s, 2) for s in u.scores]
    return [-1 if u.label is None else u.label, scores, u.text, _times(u)]


def _times(u: Utterance) -> str:
    start, end = u.times
    return "" if start is None or end is None else f"{_clock(start)} - {_clock(end)}"


def _clock(value: float) -> str:
    minutes, rest = divmod(round(value, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
