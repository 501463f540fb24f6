"""A published pickle as a corpus: alone, or its features joined to the full transcript of a corpus folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.protocols.overlaps import normalised
from lantern.corpora.readers.pickled import (
    count_checks,
    meld_csv_id,
    pickle_corpus,
    read_pickle,
    with_published_features,
)
from lantern.corpora.readers.published import PublishedDialogue, PublishedFeatures, read_published
from lantern.errors import UserError

_SCENE = re.compile(r"(\d+)_(\d+)_(\d+)")


def import_pickle(
    of: str,
    path: Path,
    layout: str | None = None,
    label_set_name: str | None = None,
    ids: Path | None = None,
    folder: Path | None = None,
) -> Corpus:
    """The corpus *of* the published features in *path*, alone or joined to the corpus in *folder*.

    Args:
        of: ``iemocap``, ``meld`` or ``emorynlp``.
        ids: a pickle that has turn ids.

    Raises:
        UserError: see :func:`read_pickle`, :func:`with_turn_ids` and :func:`join`.
    """
    corpus = None if folder is None else load_corpus(folder)
    published = read_pickle(of, path, layout, label_set_name)
    if ids is not None:
        if published.dialogues[0].turns is not None:
            raise UserError(f"--ids {ids}: {path} has turn ids of its own")
        published = with_turn_ids(published, read_published(ids, of))
    return pickle_corpus(published) if corpus is None else join(corpus, published)


def with_turn_ids(published: PublishedFeatures, ids: PublishedFeatures) -> PublishedFeatures:
    """*published*, whose layout has no turn ids, with those of the same turns in *ids*.

    Turns are matched by dialogue and by place among the turns whose class is in the label set. Every dialogue must have
    as many of them, with the same labels.

    Raises:
        UserError: *ids* has no turn ids either, lacks a dialogue, or differs from *published* in one.
    """
    known = {d.id: d for d in ids.dialogues}
    dialogues = []
    for dialogue in published.dialogues:
        other = known.get(dialogue.id)
        if other is None or other.turns is None:
            what = "no turn ids" if other else f"no dialogue {dialogue.id!r}"
            raise UserError(f"--ids: {ids.title} ({ids.source}) has {what}")
        classes = range(len(published.labels))
        other = other.select([n for n, label in enumerate(other.labels) if label in classes])
        if dialogue.labels != other.labels:
            raise UserError(
                f"--ids: {_difference(dialogue.id, dialogue.labels, other.labels, 'the file with the ids')}"
            )
        dialogues.append(replace(dialogue, turns=other.turns))
    notes = (*published.notes, f"turn ids from {ids.title} ({ids.source})")
    return replace(published, dialogues=tuple(dialogues), notes=notes)


def join(corpus: Corpus, published: PublishedFeatures) -> Corpus:
    """*corpus* with the pickle's features; its transcript, labels and scores stay, turns without features are masked.

    Turns are matched by id. Where the pickle has none, or MELD's mere numbers, they are matched by dialogue and place,
    and only if every dialogue has as many turns of the label set's classes, with the same labels. The pickle's lists
    become the splits.

    Raises:
        UserError: turns or dialogues that *corpus* does not have, or a match by place that is not exact.
    """
    # Others cannot be matched by label, and few files have any.
    labelled = ([n for n, label in enumerate(d.labels) if label is not None] for d in published.dialogues)
    dialogues = tuple(d.select(turns) for d, turns in zip(published.dialogues, labelled))
    published = replace(published, dialogues=dialogues)
    if not published.cards:
        raise UserError(f"{published.title} ({published.source}) has no features to join")
    names = _dialogue_names(corpus, published)
    rows = _rows(corpus, published, names)
    notes = [f"features of {len(rows):,} of {len(corpus.utterances):,} turns from {published.source}", *published.notes]
    notes += _compared(corpus, published, rows)
    splits = {part: tuple(names[i] for i in ids) for part, ids in published.splits.items()}
    left = len(corpus.dialogues) - len({i for ids in splits.values() for i in ids})
    if left:
        notes.append(f"{left} dialogues are in none of the pickle's lists")
    joined = replace(
        corpus,
        splits=splits,
        source=f"{corpus.source}; features: {published.title} ({published.source})",
        notes=(*corpus.notes, *notes),
        checks=(*corpus.checks, *count_checks(published)),
        path=None,
        manifest_sha256="",
    )
    return with_published_features(joined, published, rows)


def _dialogue_names(corpus: Corpus, published: PublishedFeatures) -> dict[str, str]:
    """Ids in the corpus by ids in the file.

    MELD's pickles number the dialogues of the CSV files consecutively, EmoryNLP's join the three numbers of a scene.
    Files without ids are matched by their words.
    """
    classes = published.labels.classes
    names = {}
    said: dict[tuple[str, ...], list[str]] = {}
    if not published.named:
        for identity, rows in corpus.rows.items():
            scored = [row for row in range(rows.start, rows.stop) if _class(corpus, row) in classes]
            said.setdefault(tuple(normalised(corpus.utterances[row].text) for row in scored), []).append(identity)
    for dialogue in published.dialogues:
        name: str | None = dialogue.id
        if not published.named:
            found = said.get(tuple(normalised(text) for text in dialogue.sentences), [])
            if len(found) != 1:
                what = "several dialogues" if found else "no dialogue"
                raise UserError(f"dialogue {dialogue.id!r} has the words of {what} in {corpus.path or corpus.name}")
            name = found[0]
        elif name not in corpus.by_id and published.corpus == "meld":
            name = meld_csv_id(dialogue.id)
        elif name not in corpus.by_id and (scene := _SCENE.fullmatch(dialogue.id)):
            name = "s{:02d}_e{:02d}_c{:02d}".format(*map(int, scene.groups()))
        names[dialogue.id] = name or dialogue.id
    _refuse_unknown(corpus, [i for i, name in names.items() if name not in corpus.by_id], "dialogues")
    return names


def _rows(corpus: Corpus, published: PublishedFeatures, names: dict[str, str]) -> np.ndarray:
    """The row of every turn of the pickle, in its order."""
    dialogues = published.dialogues
    index = {u.id: row for row, u in enumerate(corpus.utterances)}
    given = [turn for d in dialogues for turn in d.turns or ()]
    by_id = bool(given) and (published.corpus == "iemocap" or all(turn in index for turn in given))
    if not by_id:
        return np.concatenate([_places(corpus, published, d, names[d.id]) for d in dialogues])
    _refuse_unknown(corpus, [turn for turn in given if turn not in index], "turns")
    twice = [turn for turn, count in Counter(given).items() if count > 1]
    if twice:
        raise UserError(f"{published.source}: turn {twice[0]!r} occurs twice")
    for dialogue in dialogues:
        rows = corpus.rows[names[dialogue.id]]
        strayed = [turn for turn in dialogue.turns or () if not rows.start <= index[turn] < rows.stop]
        if strayed:
            raise UserError(
                f"turn {strayed[0]!r} is in dialogue {dialogue.id!r} of the pickle, in another of the corpus"
            )
    return np.array([index[turn] for turn in given])


def _places(corpus: Corpus, published: PublishedFeatures, dialogue: PublishedDialogue, name: str) -> np.ndarray:
    """Rows of the turns of one dialogue by place among those of the pickle's classes."""
    rows = corpus.rows[name]
    classes = published.labels.classes
    labels = [_class(corpus, row) for row in range(rows.start, rows.stop)]
    kept = [row for row, label in zip(range(rows.start, rows.stop), labels) if label in classes]
    mine = [classes[label] for label in dialogue.labels if label is not None]
    theirs = [label for label in labels if label in classes]
    if mine != theirs:
        hint = ""
        if published.corpus == "iemocap":
            hint = (
                "; import the release with --label-set iemocap-6-legacy, whose labels are the pickles', or give a "
                "pickle that has turn ids with --ids"
            )
        raise UserError(f"no turn ids, and {_difference(dialogue.id, mine, theirs, 'the corpus')}{hint}")
    return np.array(kept)


def _difference(dialogue: str, mine: Sequence[object], theirs: Sequence[object], where: str) -> str:
    if len(mine) != len(theirs):
        return f"dialogue {dialogue!r} has {len(mine)} turns in the pickle and {len(theirs)} of its classes in {where}"
    place = next(n for n, (one, other) in enumerate(zip(mine, theirs)) if one != other)
    return f"turn {place} of dialogue {dialogue!r} is {mine[place]} in the pickle and {theirs[place]} in {where}"


def _refuse_unknown(corpus: Corpus, unknown: list[str], what: str) -> None:
    if unknown:
        named = ", ".join(map(repr, unknown[:3]))
        raise UserError(
            f"{len(unknown)} {what} of the pickle are not in {corpus.path or corpus.name}: {named}"
            f"{' and others' if len(unknown) > 3 else ''}"
        )


def _class(corpus: Corpus, row: int) -> str | None:
    label = corpus.utterances[row].label
    return None if label is None else corpus.label_set.classes[label]


def _compared(corpus: Corpus, published: PublishedFeatures, rows: np.ndarray) -> list[str]:
    """Notes on where the pickle differs from the corpus, which keeps its own labels and texts."""
    dialogues, classes, places = published.dialogues, published.labels.classes, rows.tolist()
    labels = [classes[label] for d in dialogues for label in d.labels if label is not None]
    pairs = Counter((label, _class(corpus, row) or "unlabelled") for label, row in zip(labels, places))
    changes = [f"{count} {one} not {other}" for (one, other), count in sorted(pairs.items()) if one != other]
    differing = sum(count for (one, other), count in pairs.items() if one != other)
    sentences = [text for d in dialogues for text in d.sentences]
    other_texts = sum(
        normalised(text) != normalised(corpus.utterances[row].text) for text, row in zip(sentences, places)
    )
    bare = len({row for row, u in enumerate(corpus.utterances) if u.label is not None} - set(places))
    notes = {
        f"{differing} labels differ, the corpus's are kept; the pickle has {', '.join(changes)}": differing,
        f"{other_texts} texts differ in more than spelling, the corpus's are kept": other_texts,
        f"{bare} labelled turns have no features; they are scored all the same": bare,
    }
    return [note for note, count in notes.items() if count]
