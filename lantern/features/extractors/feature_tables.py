"""Feature files of users: .npy, .npz, .safetensors and CSV, never pickles; and the cards to them. No torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.text_files import pairs, read_csv, read_yaml
from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.features.extractors.array_files import load_array, load_arrays, not_finite

SUFFIXES = (".npy", ".npz", ".safetensors", ".csv")
_PICKLES = {
    **dict.fromkeys(
        (".pt", ".pth", ".bin"), "import numpy, sys, torch; v = torch.load(sys.argv[1], map_location='cpu')"
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"), "import numpy, sys; v = numpy.load(sys.argv[1], allow_pickle=True)"
    ),
}
"""What loads such a file; as a program, since it may run what is in the file."""


def read_feature_table(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 ``[N, D]`` and present mask bool ``[N]`` for the *N* utterances *ids*, from one file.

    =================  ================================================================================================
    ``.npy``           an array ``[N, D]``, a row per utterance in transcript order
    ``.npz``           arrays ``features`` ``[M, D]`` and ``ids`` ``[M]``; or ``features`` alone, in transcript order;
                       or an array ``[D]`` per utterance, named by its id
    ``.safetensors``   a tensor ``features`` in transcript order; or a tensor ``[D]`` per utterance, named by its id
    ``.csv``           a column ``utterance`` and a column per dimension; without it, rows in transcript order
    =================  ================================================================================================

    With ids, utterances that the file lacks are missing; in transcript order, those whose row is NaN throughout.

    Raises:
        UserError: no such file, another format, pickled contents, an id that the transcript lacks or that occurs
            twice, another number of rows or dimensions than expected, values that are not finite.
    """
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        program = f"{_PICKLES[suffix]}; numpy.save(sys.argv[2], numpy.asarray(v))"
        command = shlex.join(["python", "-c", program, str(path), str(path.with_suffix(".npy"))])
        raise UserError(
            f"{path}: a pickle can run code when it is read; save the array as .npy or .npz; if you trust who made it: "
            f"{command}"
        )
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: a feature file ends in {', '.join(SUFFIXES)}, not in {path.suffix or 'nothing'!r}")
    if not path.is_file():
        raise UserError(f"{path} is missing")
    if suffix == ".csv":
        return _csv(path, ids)
    if suffix == ".npy":
        return _in_order(path, load_array(path), ids)
    arrays = load_arrays(path) if suffix == ".npz" else _safetensors(path)
    if "features" in arrays and set(arrays) <= {"features", "ids"}:
        if "ids" not in arrays:
            return _in_order(path, arrays["features"], ids)
        return _by_id(path, [str(i) for i in arrays["ids"].ravel()], arrays["features"], ids)
    widths = {array.shape for array in arrays.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        shapes = sorted(map(str, map(list, widths)))[:3]
        raise UserError(
            f"{path}: expected a row of one length per utterance, found shapes {', '.join(shapes) or 'none'}"
        )
    return _by_id(path, list(arrays), np.stack(list(arrays.values())), ids)


def read_feature_tables(
    files: Sequence[str], cards: Sequence[str], ids: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, FeatureCard]]:
    """Features, present mask and card by modality from ``MODALITY=FILE`` arguments, in the order of the modalities.

    Raises:
        UserError: an unknown modality, a card without features, and as :func:`read_feature_table` and :func:`card_of`.
    """
    tables = pairs(files, "--features", "MODALITY=FILE")
    described = pairs(cards, "--card", "MODALITY=FILE")
    for modality in tables:
        if modality not in MODALITIES:
            raise UserError(f"--features {modality}=…: {modality!r} is not one of {', '.join(MODALITIES)}")
    for modality in described:
        if modality not in tables:
            raise UserError(f"--card {modality}=…: no --features of this modality are given")
    return {
        m: (
            *read_feature_table(Path(tables[m]), ids),
            card_of(Path(tables[m]), Path(described[m]) if m in described else None),
        )
        for m in MODALITIES
        if m in tables
    }


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a safetensors file of numpy types ({error})") from None


def _csv(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    rows = read_csv(path, ())
    columns = [name for name in rows[0][1] if name != "utterance"]
    values = np.empty((len(rows), len(columns)), dtype=np.float64)
    for number, (line, row) in enumerate(rows):
        for place, name in enumerate(columns):
            try:
                values[number, place] = float(row[name])
            except ValueError:
                raise UserError(f"{path}, line {line}: {name} {row[name]!r} is not a number") from None
    if "utterance" in rows[0][1]:
        return _by_id(path, [row["utterance"].strip() for _, row in rows], values, ids)
    return _in_order(path, values, ids)


def _in_order(path: Path, values: np.ndarray, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    _check_numbers(path, values)
    if len(values) != len(ids):
        raise UserError(
            f"{path}: {len(values)} rows in transcript order, the transcript has {len(ids)} utterances; give as many, "
            "or name the rows by utterance id"
        )
    present = ~np.isnan(values).all(axis=1)
    if not present.any():
        raise UserError(f"{path}: every row is NaN: no utterance has these features")
    _check_finite(path, values[present], [i for i, there in zip(ids, present) if there])
    return np.where(present[:, None], values, 0).astype(np.float32), present


def _by_id(path: Path, names: Sequence[str], values: np.ndarray, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    _check_numbers(path, values)
    if len(names) != len(values):
        raise UserError(f"{path}: {len(names)} ids for {len(values)} rows of features")
    place = {i: n for n, i in enumerate(ids)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} utterances are not in the transcript, the first is {unknown[0]!r}; "
            f"the transcript's first is {ids[0]!r}"
        )
    if len(set(names)) != len(names):
        raise UserError(f"{path}: utterance {Counter(names).most_common(1)[0][0]!r} occurs twice")
    _check_finite(path, values, names)
    features, present = np.zeros((len(ids), values.shape[1]), dtype=np.float32), np.zeros(len(ids), dtype=bool)
    rows = [place[name] for name in names]
    features[rows], present[rows] = values, True
    return features, present


def _check_numbers(path: Path, values: np.ndarray) -> None:
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: features are {values.dtype} {list(values.shape)}, expected numbers [utterances, dims]"
        )


def _check_finite(path: Path, values: np.ndarray, names: Sequence[str]) -> None:
    if place := not_finite(values):
        row, column = place
        raise UserError(
            f"{path}: features of utterance {names[row]!r} are not finite: value {column} is {values[row, column]}"
        )


def card_of(features: Path, card: Path | None) -> FeatureCard:
    """The card of the feature file *features*: the contents of the YAML file *card*, otherwise ``unknown``.

    Raises:
        UserError: see :func:`with_card`.
    """
    unknown = FeatureCard(f"unknown ({features.name})", "unknown", 0, 0)
    return unknown if card is None else with_card(unknown, card)


def with_card(known: FeatureCard, path: Path) -> FeatureCard:
    """*known* with the keys of the YAML file *path*: ``extractor``, ``version``, ``layer``, ``fitted_on``, ``licence``.

    Raises:
        UserError: no such file, another key, a value that is not a line of text or not a valid one.
    """
    keys = ("extractor", "version", "layer", "fitted_on", "licence")
    value = read_yaml(path)
    if not isinstance(value, dict) or not set(value) <= set(keys):
        raise UserError(f"{path}: a feature card has the keys {', '.join(keys)} and no others")
    for key, item in value.items():
        if isinstance(item, bool) or not isinstance(item, str | int | float) or "\n" in str(item).strip():
            raise UserError(f"{path}: {key}: {item!r} is not a line of text")
    facts: dict[str, Any] = {key: str(item).strip() for key, item in value.items()}
    try:
        return replace(known, **facts)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
