"""Add a modality to a corpus folder; the folder can be loaded at every moment. No torch."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard, encode_features, read_bytes, sha256_of
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.files import atomic, write_json


def add_modality(
    corpus: Corpus,
    modality: str,
    features: np.ndarray,
    card: FeatureCard,
    present: np.ndarray,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Corpus:
    """Write *features* ``[N, D]`` of *corpus*, as it was loaded from its folder, into that folder.

    A reader sees the folder without the modality or with the whole of it. *notes* are added to the corpus's notes;
    what earlier extractions noted for this modality goes.

    Returns:
        The corpus as it now stands in the folder.

    Raises:
        UserError: the corpus has the modality and *overwrite* is False, the folder holds another corpus by now, or it
            cannot be written.
    """
    path = corpus.path
    if path is None:
        raise ValueError("a corpus in memory has no folder")
    # Also checks shapes, counts and values before anything is written.
    checked = replace(corpus, features={}, present={}, cards={}).with_features(modality, features, card, present)
    content = encode_features(checked.features[modality], checked.present[modality])
    whole = replace(checked.cards[modality], sha256=sha256_of(content))
    header, target = path / "corpus.json", path / "features"
    try:
        with _lock(path):
            values: dict[str, Any] = json.loads(read_bytes(header))
            if values.get("manifest_sha256") != corpus.manifest_sha256:
                raise UserError(f"{path} was imported again meanwhile; extract its {modality} features again")
            others = [name for name in values["modalities"] if name != modality]
            if len(others) < len(values["modalities"]):
                refuse_present(path, modality, overwrite)
                # Until both new files are there the folder is one without this modality.
                write_json(header, {**values, "modalities": others})
            with atomic(target / f"{modality}.safetensors") as partial:
                partial.write_bytes(content)
            write_json(target / f"{modality}.json", asdict(whole))
            names = sorted([*others, modality], key=MODALITIES.index)
            kept = [note for note in values["notes"] if not note.startswith(f"{modality} features: ")]
            added = [f"{modality} features: {note}" for note in notes]
            write_json(header, {**values, "modalities": names, "notes": [*kept, *added]})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return load_corpus(path, features=False)


def refuse_present(path: Path, modality: str, overwrite: bool) -> None:
    """Refuse to replace the features that the folder has, unless told to *overwrite* them."""
    if not overwrite:
        raise UserError(f"{path} has {modality} features already; --overwrite replaces them")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer at a time: two modalities may be extracted at once, each by a command of its own."""
    with (path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
