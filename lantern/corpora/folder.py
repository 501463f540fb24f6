"""A corpus in memory and its folder on disk: a manifest, one feature file per modality, a card beside each. No torch.

::

    corpus.json                    name, label set, splits, licence facts, SHA-256 of the manifest
    manifest.jsonl                 one JSON object per utterance, in order
    features/<modality>.safetensors  "features" float32 [N, D] and "present" uint8 [N], in manifest order
    features/<modality>.json       the feature card, with the SHA-256 of the file beside it
    features/<modality>.fold<k>.safetensors  of an extractor that was fitted without the labels of fold k
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.checks import check_dialogues, check_facts, check_features, check_parts
from lantern.corpora.feature_files import (
    IMPORT_AGAIN,
    FeatureCard,
    check_sum,
    encode_features,
    read_card,
    read_features,
    sha256_of,
)
from lantern.corpora.labels import LABEL_SETS
from lantern.corpora.manifest import decode_manifest, encode_manifest
from lantern.corpora.text_files import parse_json, read_bytes
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError

SCHEMA = 1
_FACTS = ("name", "redistribution", "made_up", "contaminated", "source")
_KINDS: dict[str, type] = {
    **dict.fromkeys(_FACTS, str),
    "made_up": bool,
    **dict.fromkeys(("splits", "label_set"), dict),
    **dict.fromkeys(("modalities", "notes", "checks"), list),
}


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Dialogues, their features and the facts that decide how they may be used.

    Raises:
        UserError: duplicate or unknown ids, or features that do not fit the utterances.
    """

    name: str
    label_set: LabelSet
    dialogues: tuple[Dialogue, ...]
    splits: dict[str, tuple[str, ...]]
    """Dialogue ids of ``train``, ``dev``, ``test``; a corpus need not have all three."""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    """Per modality float32 ``[N, D]``, one row per utterance in corpus order; zeros where it is missing."""
    present: dict[str, np.ndarray] = field(default_factory=dict)
    """Per modality bool ``[N]``: the utterance has it."""
    cards: dict[str, FeatureCard] = field(default_factory=dict)
    folds: dict[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    """Per modality whose extractor was fitted on labels, the features ``[N, D]`` of ``cards[modality].fits[1:]``."""
    score_range: tuple[float, float] | None = None
    """Lowest and highest dimension score, e.g. ``(1.0, 5.0)``; None for a corpus without scores."""
    speaker_numbers: dict[str, int] = field(default_factory=dict)
    """The number that a model sees for each speaker; empty: speakers are numbered as they first speak in a dialogue.

    IEMOCAP's men are 0 and its women 1: published weights have a vector for each, which would be swapped wherever a
    woman speaks first.
    """
    redistribution: str = "forbidden"
    """``allowed`` or ``forbidden``: whether text of the corpus may be passed on."""
    made_up: bool = False
    contaminated: str = ""
    """Why an LLM may know the corpus already; empty when there is no reason to think so."""
    source: str = ""
    notes: tuple[str, ...] = ()
    """What the importer noticed and did, one line each."""
    checks: tuple[str, ...] = ()
    """Agreement with published counts, one line each; a line that disagrees starts with ``differs``."""
    path: Path | None = None
    manifest_sha256: str = ""
    """Of the manifest that the corpus was loaded from; empty when it is in memory only."""

    def __post_init__(self) -> None:
        where = f"corpus {self.name!r}"
        check_facts(where, self.name, self.redistribution, self.score_range)
        check_dialogues(where, self.dialogues, self.speaker_numbers)
        check_parts(where, self.splits, self.by_id)
        check_features(where, [u.id for u in self.utterances], self.features, self.present, self.cards, self.folds)

    def __repr__(self) -> str:
        features = "".join(f", {name} {values.shape[1]}-d" for name, values in self.features.items())
        sizes = f"{len(self.dialogues)} dialogues, {len(self.utterances)} utterances"
        return f"Corpus({self.name!r}, {self.label_set.name}, {sizes}{features})"

    @cached_property
    def utterances(self) -> tuple[Utterance, ...]:
        """All ``N`` utterances in corpus order: row *i* of every feature array belongs to the *i*-th."""
        return tuple(u for d in self.dialogues for u in d.utterances)

    @cached_property
    def by_id(self) -> dict[str, Dialogue]:
        """Dialogues by id."""
        return {d.id: d for d in self.dialogues}

    @cached_property
    def rows(self) -> dict[str, slice]:
        """Per dialogue id its rows in the feature arrays."""
        rows, start = {}, 0
        for dialogue in self.dialogues:
            rows[dialogue.id] = slice(start, start + len(dialogue))
            start += len(dialogue)
        return rows

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over manifest, features, label set, score range and splits: equal corpora have equal fingerprints."""
        manifest = self.manifest_sha256 or sha256_of(encode_manifest(self.dialogues, self.label_set))
        sums = {
            name: card.sha256 or sha256_of(encode_features(self.features[name], self.present[name]))
            for name, card in sorted(self.cards.items())
        }
        parts: list[Any] = [manifest, sums, self.label_set.name, self.label_set.classes, self.score_range, self.splits]
        parts += [self.speaker_numbers] if self.speaker_numbers else []
        return sha256_of(json.dumps(parts, sort_keys=True).encode())

    def without_features(self) -> Corpus:
        """The dialogues and labels alone."""
        return replace(self, features={}, present={}, cards={}, folds={})

    def with_features(
        self,
        modality: str,
        features: np.ndarray,
        card: FeatureCard,
        present: np.ndarray | None = None,
        folds: Sequence[np.ndarray] = (),
    ) -> Corpus:
        """The corpus with *features* ``[N, D]`` for *modality*; *present* ``[N]`` is all True when left out.

        *folds*: the features of ``card.fits[1:]``.
        """
        mask = np.ones(len(features), dtype=bool) if present is None else present.astype(bool)
        values, *others = (np.where(mask[:, None], one, 0).astype(np.float32) for one in (features, *folds))
        new = replace(card.unsaved(int(mask.sum())), dims=values.shape[1])
        return replace(
            self,
            features={**self.features, modality: values},
            present={**self.present, modality: mask},
            cards={**self.cards, modality: new},
            folds={**self.folds, modality: tuple(others)},
        )

    def limit(self, dialogues: int) -> Corpus:
        """The first dialogues of each split, *dialogues* in all, in the proportions of the splits.

        Each split keeps at least one. Dialogues outside the splits are dropped; without splits the first *dialogues*
        stay.

        Raises:
            UserError: *dialogues* is smaller than the number of splits.
        """
        sizes = {name: len(ids) for name, ids in self.splits.items() if ids}
        if dialogues < max(1, len(sizes)):
            raise UserError(
                f"corpus.limit_dialogues={dialogues} leaves a split without dialogues; give at least "
                f"{max(1, len(sizes))}, or null for all"
            )
        if dialogues >= (sum(sizes.values()) or len(self.dialogues)):
            return self
        splits = dict(self.splits)
        for name, count in _shares(sizes, dialogues).items():
            splits[name] = self.splits[name][:count]
        kept = {i for ids in splits.values() for i in ids} if sizes else {d.id for d in self.dialogues[:dialogues]}
        chosen = tuple(d for d in self.dialogues if d.id in kept)
        index = np.concatenate([np.arange(self.rows[d.id].start, self.rows[d.id].stop) for d in chosen])
        present = {name: mask[index] for name, mask in self.present.items()}
        return replace(
            self,
            dialogues=chosen,
            splits=splits,
            features={name: values[index] for name, values in self.features.items()},
            present=present,
            cards={n: self.cards[n].unsaved(int(mask.sum())) for n, mask in present.items()},
            folds={name: tuple(one[index] for one in kept) for name, kept in self.folds.items()},
            notes=(*self.notes, f"limited to the first {len(chosen)} of {len(self.dialogues)} dialogues"),
            path=None,
            manifest_sha256="",
        )

    def save(self, path: Path, overwrite: bool = False) -> Path:
        """Write the corpus folder *path*: whole or not at all.

        Raises:
            UserError: *path* exists and *overwrite* is False, it is something other than a corpus folder, or it cannot
                be written.
        """
        path = path.resolve()
        check_target(path, overwrite)
        partial = path.with_name(f".{path.name}.partial{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(self, partial)
            _put_in_place(partial, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return path


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a *path* that :meth:`Corpus.save` would refuse; cheap, so call it before extracting features."""
    if not path.exists():
        if path.is_symlink():
            raise UserError(f"{path} is a link that leads nowhere; give another folder")
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / "corpus.json").is_file()):
        raise UserError(f"{path} exists and is not a corpus folder; give another one")
    if not overwrite and any(path.iterdir()):
        raise UserError(f"{path} exists; give another folder, or --overwrite to replace it")


def load_corpus(path: str | Path, features: bool = True) -> Corpus:
    """Read the corpus folder *path* and verify its checksums, dimensions and counts.

    With ``features=False`` only text, labels and cards are read: enough for a summary, a plan or a prompt.

    Raises:
        UserError: no such folder, or contents that disagree with each other.
    """
    path = Path(path)
    header = _read_json(path / "corpus.json", path)
    source = path / "corpus.json"
    if header.get("schema") != SCHEMA:
        raise UserError(f"{source}: schema {header.get('schema')!r}, this Lantern reads {SCHEMA}; import it again")
    try:
        for key, kind in _KINDS.items():
            if not isinstance(header[key], kind):
                raise TypeError(f"{key} is {header[key]!r}, expected {kind.__name__}")
        labels = LabelSet.from_json(header["label_set"])
        splits = {str(name): tuple(str(i) for i in ids) for name, ids in header["splits"].items()}
        score_range = None
        if header["score_range"] is not None:
            low, high = header["score_range"]
            score_range = (float(low), float(high))
        modalities = [str(name) for name in header["modalities"]]
        expected, count = str(header["manifest_sha256"]), int(header["utterances"])
        facts: dict[str, Any] = {name: header[name] for name in _FACTS}
        facts |= {name: tuple(map(str, header[name])) for name in ("notes", "checks")}
        numbers = {str(name): int(n) for name, n in header.get("speaker_numbers", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: not a corpus header ({type(error).__name__}: {error}); import it again") from None
    # A name that Lantern knows must have the classes that Lantern knows.
    known = LABEL_SETS.get(labels.name, labels)
    if known.classes != labels.classes:
        classes = f"{list(labels.classes)}, expected {list(known.classes)}"
        raise UserError(f"{source}: label set {labels.name!r} has classes {classes}")
    manifest = path / "manifest.jsonl"
    content = read_bytes(manifest, IMPORT_AGAIN)
    check_sum(manifest, sha256_of(content), expected, "corpus.json")
    dialogues = decode_manifest(content, known, manifest)
    read = sum(map(len, dialogues))
    if read != count:
        raise UserError(f"{manifest}: {read} utterances, corpus.json says {count}")
    cards, arrays, masks = {}, {}, {}
    folds: dict[str, tuple[np.ndarray, ...]] = {}
    for name in modalities:
        cards[name] = read_card(path / "features" / f"{name}.json")
        if features:
            arrays[name], masks[name] = read_features(path / "features" / f"{name}.safetensors", cards[name], count)
            for k, fit in enumerate(cards[name].fits[1:], 1):
                of_fold = replace(cards[name], sha256=fit.sha256)
                values, _ = read_features(path / "features" / f"{name}.fold{k}.safetensors", of_fold, count)
                folds[name] = (*folds.get(name, ()), values)
    return Corpus(
        label_set=known,
        dialogues=dialogues,
        splits=splits,
        features=arrays,
        present=masks,
        cards=cards,
        folds=folds,
        score_range=score_range,
        speaker_numbers=numbers,
        path=path,
        manifest_sha256=expected,
        **facts,
    )


def _shares(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Largest-remainder shares of *total*, at least one each."""
    whole = sum(sizes.values())
    exact = {name: total * size / whole for name, size in sizes.items()}
    given = {name: max(1, int(value)) for name, value in exact.items()}
    for name in sorted(sizes, key=lambda n: int(exact[n]) - exact[n]):
        if sum(given.values()) < total and given[name] < sizes[name]:
            given[name] += 1
    while sum(given.values()) > total and max(given.values()) > 1:
        given[max(given, key=lambda n: given[n])] -= 1
    return given


def _write(corpus: Corpus, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "features").mkdir(parents=True)
    manifest = encode_manifest(corpus.dialogues, corpus.label_set)
    if set(corpus.cards) != set(corpus.features):
        raise ValueError("a corpus that was loaded without its features cannot be saved")
    for name, values in corpus.features.items():
        card, fits = corpus.cards[name], []
        for number, one in enumerate((values, *corpus.folds.get(name, ()))):
            content = encode_features(one, corpus.present[name])
            file = f"{name}.fold{number}.safetensors" if number else f"{name}.safetensors"
            _write_file(folder / "features" / file, content)
            fits += [replace(fit, sha256=sha256_of(content)) for fit in card.fits[number : number + 1]]
            card = card if number else replace(card, sha256=sha256_of(content))
        card = replace(card, fits=tuple(fits))
        _write_file(folder / "features" / f"{name}.json", _json(asdict(card)))
    header = {
        "schema": SCHEMA,
        "name": corpus.name,
        "label_set": asdict(corpus.label_set),
        "score_range": corpus.score_range,
        "splits": corpus.splits,
        "speaker_numbers": corpus.speaker_numbers,
        "modalities": list(corpus.features),
        "dialogues": len(corpus.dialogues),
        "utterances": len(corpus.utterances),
        **{name: getattr(corpus, name) for name in (*_FACTS[1:], "notes", "checks")},
        "manifest_sha256": sha256_of(manifest),
    }
    _write_file(folder / "manifest.jsonl", manifest)
    _write_file(folder / "corpus.json", _json(header))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _put_in_place(partial: Path, path: Path) -> None:
    """Rename *partial* to *path*; the folder that was there comes back if that fails."""
    old = path.with_name(f".{path.name}.old{os.getpid()}")
    replaced = path.exists()
    if replaced:
        path.rename(old)
    try:
        partial.rename(path)
    finally:
        if replaced:
            if not path.exists():
                old.rename(path)
            shutil.rmtree(old, ignore_errors=True)


def no_corpus(place: str, folder: Path) -> UserError:
    """The error for a *folder* without a corpus; *place* is how the user named it."""
    return UserError(
        f"{place}: no corpus folder there; make one with python -m experiments.import_corpus, "
        f"for example: python -m experiments.import_corpus meld --csv DIR --out {folder}"
    )


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise no_corpus(str(folder), folder)
    with contextlib.suppress(ValueError):
        value = parse_json(read_bytes(path))
        if isinstance(value, dict):
            return value
    raise UserError(f"{path}: not a JSON object; {IMPORT_AGAIN}")
