"""Arrays as columns of a Parquet file and back. Shapes are those of the arrays; nothing is turned into text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.errors import UserError
from lantern.files import atomic

if TYPE_CHECKING:
    import pyarrow as pa

_ABOUT = b"lantern"


def write(path: Path, columns: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write *columns* of ``N`` rows, and *about* as plain JSON in the file's metadata, atomically.

    An array ``[N]`` becomes a column, ``[N, A]`` a column of fixed-size lists, ``[N, A, B]`` of lists of lists. Arrays
    of objects hold strings, or None for a missing one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _encoded(values) for name, values in columns.items()})
    with atomic(path) as partial, partial.open("wb") as out:
        pq.write_table(table.replace_schema_metadata({_ABOUT: json.dumps(about)}), out)


def read(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns whose names are *wanted*, and what the file says about itself, as :func:`write` was given them.

    Raises:
        UserError: the file is missing, damaged, or not one of these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"no predictions table at {path}")
    try:
        with pq.ParquetFile(path) as file:
            about = dict(json.loads((file.schema_arrow.metadata or {})[_ABOUT]))
            table = file.read([name for name in file.schema_arrow.names if wanted(name)])
            return {name: _decoded(table[name].combine_chunks()) for name in table.column_names}, about
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a predictions table ({reason})") from None


def frame(data: Any) -> Any:
    """A pandas data frame of *data*: columns by name, or a list of rows.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise UserError("to_frame() needs pandas: pip install pandas") from None
    return pandas.DataFrame(data)


def _encoded(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    flat = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == object:
        # A half of a surrogate pair has no UTF-8 form.
        texts = (None if v is None else str(v).encode("utf-8", "replace").decode() for v in flat)
        encoded = pa.array(texts, pa.string())
        encoded = encoded.dictionary_encode() if values.ndim == 1 else encoded
    else:
        encoded = pa.array(flat)
    for size in reversed(values.shape[1:]):
        encoded = pa.FixedSizeListArray.from_arrays(encoded, size)
    return encoded


def _decoded(column: pa.Array) -> np.ndarray:
    import pyarrow as pa

    shape = [len(column)]
    while pa.types.is_fixed_size_list(column.type):
        shape.append(column.type.list_size)
        column = column.flatten()
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
        names = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        return names[np.where(_flags(column.is_valid()), _plain(column.indices), -1)].reshape(shape)
    values = _flags(column) if pa.types.is_boolean(column.type) else _plain(column)
    return values.reshape(shape)


def _plain(column: pa.Array) -> np.ndarray:
    """The numbers of *column*; anything where one is null. ``Array.to_numpy`` would import pandas."""
    dtype = {"double": "float64", "float": "float32"}.get(str(column.type), str(column.type))
    _, values = column.buffers()
    return np.frombuffer(values or b"", dtype)[column.offset : column.offset + len(column)]


def _flags(column: pa.Array) -> np.ndarray:
    """The bits of *column* as bools."""
    import pyarrow as pa

    return _plain(column.cast(pa.uint8())).astype(bool)
