"""Feature files and the cards beside them. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lantern.corpora.text_files import read_bytes
from lantern.errors import UserError

IMPORT_AGAIN = "import the corpus again"
FITTED_ON = ("none", "train-labels", "unknown")


@dataclass(frozen=True, slots=True)
class Fit:
    """An extractor that was fitted on labels of the corpus, and the features that it made of all dialogues."""

    train: tuple[str, ...]
    """Ids of the dialogues whose labels it was fitted on."""
    dev: tuple[str, ...]
    """Ids of the dialogues that selected its epoch."""
    epoch: int
    score: float
    """Weighted F1 on *dev*."""
    sha256: str = ""
    """Of its feature file; empty until that is written."""
    test: dict[str, dict[str, float]] = field(default_factory=dict)
    """Accuracy and weighted F1 of its own head on the test dialogues, each with ``value``, ``low`` and ``high`` of the
    95 % interval over ``dialogues``; empty unless they were asked for."""


@dataclass(frozen=True, slots=True)
class FeatureCard:
    """Where the features of one modality come from."""

    extractor: str
    version: str
    dims: int
    """Feature size ``D``."""
    count: int
    """Utterances that have this modality."""
    fitted_on: str = "unknown"
    """``none``: the extractor saw no label of this corpus; ``train-labels``: it was fitted on them; ``unknown``."""
    sha256: str = ""
    """Of the feature file; empty until the file is written. Whatever changes the features must empty it."""
    layer: str = ""
    """Which layer or level of the extractor, and how it was pooled to one vector; empty when unknown."""
    licence: str = ""
    """Terms of use of the features; empty when only the corpus's own apply."""
    fits: tuple[Fit, ...] = ()
    """Where Lantern fitted the extractor: the one of the features, then those of the folds, whose features lie in
    files beside. Features of different fits cannot be compared."""

    def __post_init__(self) -> None:
        if self.fitted_on not in FITTED_ON:
            raise UserError(f"feature card: fitted_on={self.fitted_on!r} is not one of {', '.join(FITTED_ON)}")
        for name in ("dims", "count"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise UserError(f"feature card: {name}={value!r} is not a whole number")
        for name in ("extractor", "version", "sha256", "layer", "licence"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"feature card: {name}={getattr(self, name)!r} is not text")

    def unsaved(self, count: int) -> FeatureCard:
        """The card of features of *count* utterances that are not in a file yet."""
        return replace(self, count=count, sha256="", fits=tuple(replace(fit, sha256="") for fit in self.fits))


def sha256_of(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def encode_features(features: np.ndarray, present: np.ndarray) -> bytes:
    """A safetensors file: ``features`` float32 ``[N, D]`` and ``present`` uint8 ``[N]``."""
    from safetensors.numpy import save

    return save({"features": np.ascontiguousarray(features, dtype=np.float32), "present": present.astype(np.uint8)})


def check_sum(path: Path, sha256: str, expected: str, witness: str) -> None:
    """Refuse *path*, whose SHA-256 is *sha256*, unless the file *witness* expects the same."""
    if sha256 != expected:
        raise UserError(
            f"{path} was changed after the import: its SHA-256 is {sha256[:12]}…, {witness} says {expected[:12]}…; "
            f"{IMPORT_AGAIN}"
        )


def read_card(path: Path) -> FeatureCard:
    """The feature card at *path*."""
    content = read_bytes(path, IMPORT_AGAIN)
    try:
        values = json.loads(content)
        # Older folders lack the last fields.
        later = ("layer", "licence", "fits")
        names = [f.name for f in fields(FeatureCard) if f.name in values or f.name not in later]
        fits = [{**fit, "train": tuple(fit["train"]), "dev": tuple(fit["dev"])} for fit in values.get("fits", ())]
        return FeatureCard(**{**{name: values[name] for name in names}, "fits": tuple(Fit(**fit) for fit in fits)})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a feature card ({type(error).__name__}: {error})") from None


def read_features(path: Path, card: FeatureCard, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 ``[N, D]`` and present mask bool ``[N]`` of *count* utterances, checked against *card*.

    The features stay in the file, mapped read-only: pages that are not in use cost no memory.
    """
    try:
        with path.open("rb") as file:
            check_sum(path, hashlib.file_digest(file, "sha256").hexdigest(), card.sha256, f"{path.stem}.json")
            features, present = _mapped(path, file, "features"), np.array(_mapped(path, file, "present"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {IMPORT_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if features.dtype != np.float32 or features.shape != (count, card.dims) or present.shape != (count,):
        raise UserError(
            f"{path}: features are {features.dtype} {list(features.shape)} with present {list(present.shape)}, "
            f"expected float32 {[count, card.dims]} with present {[count]}"
        )
    if int((present != 0).sum()) != card.count:
        raise UserError(f"{path}: {int((present != 0).sum())} utterances are present, its card says {card.count}")
    return features, present != 0


_TYPES = {"F32": np.float32, "U8": np.uint8}


def _mapped(path: Path, file: BinaryIO, name: str) -> np.ndarray:
    """Tensor *name* of the safetensors *file*: its length in 8 bytes, a JSON header, then the numbers."""
    file.seek(0)
    try:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        start = entry["data_offsets"][0]
        shape, kind = tuple(entry["shape"]), _TYPES[entry["dtype"]]
        if 0 in shape:
            return np.zeros(shape, kind)
        return np.asarray(np.memmap(file, kind, "r", 8 + length + start, shape))
    except (ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: no tensors 'features' and 'present' ({error})") from None
