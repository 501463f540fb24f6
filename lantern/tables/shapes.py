"""The columns of a predictions table: their names in the file, their types and their shapes. The one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lantern.tables.table import PredictionTable

DIMENSIONS = 3
"""Valence, arousal and dominance."""


@dataclass(frozen=True, slots=True)
class Column:
    """An array of a table and the column of the file that holds it."""

    attribute: str
    name: str
    """In the file."""
    kind: str
    """Letters of NumPy's kinds that it may have; ``O`` holds texts."""
    shape: str
    """A letter for each axis: ``N`` utterances, ``C`` classes, ``T`` fields, ``D`` dimensions, ``S`` sources."""


ROWS = (
    Column("dialogues", "dialogue", "O", "N"),
    Column("utterances", "utterance", "O", "N"),
    Column("indices", "index", "iu", "N"),
    Column("speakers", "speaker", "O", "N"),
    Column("labels", "label", "iu", "N"),
    Column("scores", "scores", "f", "ND"),
    Column("vanilla", "vanilla", "f", "NC"),
)
OPTIONAL = (
    Column("predicted_scores", "predicted_scores", "f", "ND"),
    Column("weights", "weights", "f", "NS"),
    Column("merged", "merged", "f", "NC"),
)
FIELDS = (
    Column("probabilities", "refined", "f", "NTC"),
    Column("failures", "failure", "i", "NT"),
    Column("lengths", "field_length", "iu", "NT"),
    Column("positions", "field_position", "iu", "NT"),
    Column("repaired", "repaired", "b", "NT"),
    Column("raw_sums", "raw_sum", "f", "NT"),
    Column("spreads", "spread", "f", "NT"),
)
"""Those of the receptive fields."""
NAMES = {column.attribute: column.name for column in (*ROWS, *OPTIONAL, *FIELDS)}


def wrong_column(table: PredictionTable) -> str | None:
    """The first column of *table* that is of another type or size than it must be; None where all are right."""
    sizes = {"N": len(table.labels), "C": len(table.classes), "T": table.coverage, "D": DIMENSIONS}
    sizes["S"] = 0 if table.weights is None else table.weights.shape[-1]
    if not all(isinstance(name, str) for name in table.classes):
        return "classes"
    for owner, columns in ((table, ROWS), (table, OPTIONAL), (table.fields, FIELDS)):
        for column in columns if owner is not None else ():
            values = getattr(owner, column.attribute)
            if values is None and columns is OPTIONAL:
                continue
            expected = tuple(sizes[letter] for letter in column.shape)
            if not isinstance(values, np.ndarray) or values.shape != expected or values.dtype.kind not in column.kind:
                return column.name
            if column.kind == "O" and not all(isinstance(value, str) for value in values.flat):
                return column.name
    return None
