"""``.npy`` and ``.npz`` files of users: what they declare is checked before memory is given to it. No torch."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np

from lantern.errors import UserError

_SMALL = 2**28
"""Bytes to which any archive may unpack."""
_RATIO = 20
"""How many times its own size a larger archive may unpack to; real features hardly shrink."""
_DAMAGE = (
    *(OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, KeyError, TypeError, OverflowError),
    *(AttributeError, SyntaxError, TokenError, MemoryError),
)
"""What zipfile and NumPy, which parses headers as Python literals, raise on bytes that are not theirs."""


def load_array(path: Path) -> np.ndarray:
    """The array of numbers or text in a ``.npy`` file; the file is as large as its header says.

    Raises:
        UserError: no such file, another format, an array of objects, a header that declares more than the file holds.
    """
    try:
        with path.open("rb") as file:
            return _array(file, path.stat().st_size, f"{path}")
    except _DAMAGE as error:
        raise UserError(f"{path}: not an array of numbers ({_why(error)})") from None


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a ``.npz`` archive by name.

    Raises:
        UserError: as in :func:`load_array`, and an archive that unpacks to far more than real features would.
    """
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
            packed, unpacked = path.stat().st_size, sum(member.file_size for member in members)
            if unpacked > max(_SMALL, _RATIO * packed):
                raise UserError(
                    f"{path}: {packed:,} bytes that unpack to {unpacked:,}; if that is right, save the array as .npy"
                )
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise UserError(f"{path}: two arrays are named {name!r}")
                with archive.open(member) as file:
                    arrays[name] = _array(file, member.file_size, f"{path}, {name!r}")
            return arrays
    except _DAMAGE as error:
        raise UserError(f"{path}: not an archive of arrays of numbers ({_why(error)})") from None


def _array(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """The array in *file*, of *size* bytes in all."""
    versions = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    version = np.lib.format.read_magic(file)
    if version not in versions:
        raise ValueError(f"format version {version}")
    width, parse = versions[version]
    # The length of the header is a declaration, too: NumPy would read as much as it says.
    length = file.read(width)
    header = io.BytesIO(length + file.read(min(int.from_bytes(length, "little"), 2**16)))
    with warnings.catch_warnings(action="ignore"):  # that Python 2 wrote the header
        shape, fortran, dtype = parse(header)
    if dtype.kind not in "biufcUS" or dtype.itemsize == 0 or any(n < 0 for n in shape):
        raise ValueError("another format, or objects")
    needed = math.prod(shape) * dtype.itemsize
    left = max(0, size - np.lib.format.MAGIC_LEN - width - int.from_bytes(length, "little"))
    if needed > left:
        what = f"{dtype} {list(shape)}, which is {needed:,} bytes"
        raise UserError(f"{where}: the header declares {what}; the file holds {left:,}")
    array = np.frombuffer(file.read(needed), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _why(error: Exception) -> str:
    """The reason in one line, without NumPy's advice to load pickles."""
    return "another format, or objects" if "pickle" in str(error) else " ".join(str(error).split())[:200]


def not_finite(values: np.ndarray) -> tuple[int, ...] | None:
    """Where the first number is that is NaN, infinite, or too large for float32, in which features are stored."""
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(values.astype(np.float32)))
    return tuple(bad[0].tolist()) if len(bad) else None
