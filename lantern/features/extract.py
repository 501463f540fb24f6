"""From a corpus folder and recordings, texts or arrays to a corpus folder with one more modality. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import IMPORT_AGAIN, FeatureCard, encode_features, sha256_of
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.text_files import read_bytes
from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.features.extractors.feature_tables import card_of, read_feature_table, with_card
from lantern.features.job import Extracted, Progress, Work, run_job
from lantern.features.registry import EXTRACTORS, build
from lantern.features.sources import Sources
from lantern.features.types import Recipe
from lantern.files import atomic, digest, locked, write_json

SHOWN_IDS = 5
LIMIT = 10.0
"""Standardised values are cut off at this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to extract, and how to keep it."""

    modality: str
    recipe: Recipe
    jobs: int = 1
    raw: bool = False
    """Keep the values as computed where they would be standardised."""
    card: Path | None = None
    """YAML that completes the feature card."""
    overwrite: bool = False


def extract_features(
    corpus: Corpus, plan: Plan, sources: Sources, progress: Progress | None = None
) -> tuple[Corpus, Extracted]:
    """Extract the features of *corpus*, as loaded from its folder, and write them into the folder.

    Results are kept in ``.<folder>.features`` beside the folder until all are done; the same call continues from there.

    Raises:
        UserError: the folder has the modality already, nothing could be extracted, or something cannot be written.
    """
    path = _folder_without(corpus, plan.modality, plan.overwrite).resolve()
    extractor = build(plan.recipe)
    card = extractor.card
    final = card if plan.card is None else with_card(card, plan.card)
    key = digest([corpus.manifest_sha256, plan.modality, plan.recipe.model, asdict(card)])
    work = Work(path.with_name(f".{path.name}.features") / f"{plan.modality}-{plan.recipe.extractor}-{key}.sqlite")
    with work.open():
        made = run_job(work, plan.recipe, extractor, sources.items, len(corpus.utterances), plan.jobs, progress)
        features = made.features
        if EXTRACTORS[plan.recipe.extractor].scaled and not plan.raw:
            features, final = standardise(corpus, features, made.present, final)
        notes = [f"{reason}: {utterances(count)}" for reason, count in sources.missing.items()]
        notes += sources.notes
        notes += _unusable_notes(made.unusable)
        extended = add_modality(corpus, plan.modality, features, final, made.present, notes, plan.overwrite)
        work.remove()
    return extended, made


def add_table(corpus: Corpus, modality: str, path: Path, card: Path | None, overwrite: bool) -> Corpus:
    """Write the features of one file (see :func:`read_feature_table`) into the folder of *corpus*.

    Raises:
        UserError: the folder has the modality already, or the file does not fit.
    """
    _folder_without(corpus, modality, overwrite)
    features, present = read_feature_table(path, [u.id for u in corpus.utterances])
    missing = int((~present).sum())
    notes = [f"not in {path.name}: {utterances(missing)}"] if missing else []
    return add_modality(corpus, modality, features, card_of(path, card), present, notes, overwrite)


def add_modality(
    corpus: Corpus,
    modality: str,
    features: np.ndarray,
    card: FeatureCard,
    present: np.ndarray,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Corpus:
    """Write *features* ``[N, D]`` of *corpus*, as loaded from its folder, into that folder.

    The folder can be loaded at every moment, without the modality or with all of it. *notes* are added to the corpus's
    notes in place of those of an earlier extraction of this modality.

    Returns:
        The corpus that is now in the folder.

    Raises:
        UserError: the corpus has the modality and *overwrite* is False, the folder holds another corpus by now, or it
            cannot be written.
    """
    path = corpus.path
    if path is None:
        raise ValueError("a corpus in memory has no folder")
    # Also checks shapes, counts and values before anything is written.
    checked = corpus.without_features().with_features(modality, features, card, present)
    content = encode_features(checked.features[modality], checked.present[modality])
    final = replace(checked.cards[modality], sha256=sha256_of(content))
    header, target = path / "corpus.json", path / "features"
    try:
        # One writer at a time: two commands may add two modalities at once.
        with locked(path / ".lock"):
            values: dict[str, Any] = json.loads(read_bytes(header, IMPORT_AGAIN))
            if values.get("manifest_sha256") != corpus.manifest_sha256:
                raise UserError(f"{path} was imported again meanwhile; extract its {modality} features again")
            others = [name for name in values["modalities"] if name != modality]
            if len(others) < len(values["modalities"]):
                _refuse_present(path, modality, overwrite)
                # Until both new files are written, the folder is one without this modality.
                write_json(header, {**values, "modalities": others})
            with atomic(target / f"{modality}.safetensors") as partial:
                partial.write_bytes(content)
            write_json(target / f"{modality}.json", asdict(final))
            names = sorted([*others, modality], key=MODALITIES.index)
            kept = [note for note in values["notes"] if not note.startswith(f"{modality} features: ")]
            added = [f"{modality} features: {note}" for note in notes]
            write_json(header, {**values, "modalities": names, "notes": [*kept, *added]})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return load_corpus(path, features=False)


def _folder_without(corpus: Corpus, modality: str, overwrite: bool) -> Path:
    """The folder of *corpus*, which must not have *modality* unless *overwrite*."""
    if corpus.path is None:
        raise ValueError("a corpus in memory has no folder")
    if modality in corpus.cards:
        _refuse_present(corpus.path, modality, overwrite)
    return corpus.path


def _refuse_present(path: Path, modality: str, overwrite: bool) -> None:
    if not overwrite:
        raise UserError(f"{path} has {modality} features already; --overwrite replaces them")


def standardise(
    corpus: Corpus, features: np.ndarray, present: np.ndarray, card: FeatureCard
) -> tuple[np.ndarray, FeatureCard]:
    """*features* ``[N, D]`` with mean 0 and sd 1 on the training dialogues, cut off at 10 sd; the card says so.

    The whole corpus is measured when the training dialogues have no such features. A constant dimension becomes 0.
    """
    chosen = np.zeros(len(present), dtype=bool)
    for dialogue in corpus.splits.get("train", ()):
        chosen[corpus.rows[dialogue]] = True
    where = "training dialogues"
    if not (chosen & present).any():
        chosen, where = np.ones(len(present), dtype=bool), "whole corpus"
    measured = features[chosen & present].astype(np.float64)
    mean, sd = measured.mean(axis=0), measured.std(axis=0)
    varies = sd > 1e-6 * np.maximum(1.0, np.abs(mean))
    scaled = np.where(varies, (features - mean) / np.where(varies, sd, 1.0), 0.0)
    scaled = np.clip(scaled, -LIMIT, LIMIT) * present[:, None]
    return scaled.astype(np.float32), replace(card, version=f"{card.version}; standardised on the {where}")


def _unusable_notes(unusable: dict[str, str]) -> list[str]:
    """A line per kind of reason, with the first ids."""
    kinds = Counter(reason.split(":")[0].split(" at ")[0] for reason in unusable.values())
    lines = []
    for kind, count in kinds.items():
        ids = [i for i, reason in unusable.items() if reason.startswith(kind)]
        more = f" and {count - SHOWN_IDS} more" if count > SHOWN_IDS else ""
        lines.append(f"{kind}: {utterances(count)} ({', '.join(ids[:SHOWN_IDS])}{more})")
    return lines


def utterances(count: int) -> str:
    """``1 utterance``, ``2,000 utterances``."""
    return f"{count:,} utterance{'' if count == 1 else 's'}"
