"""The predictions table: the one value that passes from stage to stage and to the report. Arrays, no torch."""

from lantern.tables.row import FieldReply, Row
from lantern.tables.shapes import DIMENSIONS
from lantern.tables.table import ANSWERED, KINDS, Fields, PredictionTable, concatenate, mean_vanilla

__all__ = [
    "ANSWERED",
    "DIMENSIONS",
    "KINDS",
    "FieldReply",
    "Fields",
    "PredictionTable",
    "Row",
    "concatenate",
    "mean_vanilla",
]
