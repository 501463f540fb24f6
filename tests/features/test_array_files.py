"""Arrays in files: what a header or an archive declares is refused before memory is given to it."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lantern.errors import UserError
from lantern.features.extractors.array_files import load_array, load_arrays, not_finite
from lantern.features.extractors.arrays import Arrays
from lantern.features.extractors.feature_tables import read_feature_table
from lantern.features.types import Item, Recipe, Unusable


def declared(shape: str, dtype: str = "<f8", data: bytes = b"x" * 64, version: bytes = b"\x01\x00") -> bytes:
    """A ``.npy`` file whose header says what the caller wants."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (declared("(1000000000, 1000)"), r"declares float64 \[1000000000, 1000\], which is 8,000,000,000,000 bytes"),
        (declared("(9, )", version=b"\x02\x00"), r"which is 72 bytes; the file holds 64"),
        (declared("(1, )", "<U200000000"), r"which is 800,000,000 bytes"),
        (declared("(99999999999999999999999, 9)"), r"the header declares"),
        (declared("(1000000000000, )", "<U0"), r"another format, or objects"),
        (declared("(-1, )"), r"another format, or objects"),
        (declared("(1, )", "|O"), r"another format, or objects"),
        (declared("(8, )", "<M8[s]"), r"another format, or objects"),
        (declared("8 * 'a'"), r"not an array of numbers"),
        (declared("(" * 40), r"not an array of numbers"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", r"not an array of numbers"),
        (b"\x93NUMPY\x09\x00", r"format version \(9, 0\)"),
        (b"\x80\x04N.", r"not an array of numbers"),
        (b"", r"not an array of numbers"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_header_declares_is_checked_first(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", content)
        message = message.replace("array of numbers", "archive of arrays")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_arrays(path) if packed else load_array(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["a", "bc"]),
        np.empty((0, 4)),
    ],
)
def test_honest_files_read_as_numpy_reads_them(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), array)
    np.savez_compressed(tmp_path / "a.npz", one=array, two=array)
    found = load_arrays(tmp_path / "a.npz")
    assert list(found) == ["one", "two"]
    np.testing.assert_array_equal(found["two"], array)


def test_an_archive_that_unpacks_to_far_more_than_features_is_not_unpacked(tmp_path: Path) -> None:
    path, head = tmp_path / "bomb.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (2**19, 128)})
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with deflated as archive, archive.open("features.npy", "w", force_zip64=True) as member:
        member.write(head.getvalue())
        for _ in range(32):
            member.write(bytes(2**24))
    assert path.stat().st_size < 5 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb\.npz: [\d,]+ bytes that unpack to 536,87.*save the array as \.npy"):
            read_feature_table(path, ["u"])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_sparse_features_that_shrink_are_read(tmp_path: Path) -> None:
    values = np.zeros((2000, 500))
    values[::7] = np.random.default_rng(0).normal(size=500)
    np.savez_compressed(tmp_path / "f.npz", features=values)
    features, present = read_feature_table(tmp_path / "f.npz", [str(n) for n in range(2000)])
    assert present.all()
    np.testing.assert_array_equal(features, values.astype(np.float32))


def test_a_number_that_is_not_finite_is_named_with_its_place(tmp_path: Path) -> None:
    values = np.ones((3, 4))
    values[1, 2] = np.inf
    np.save(tmp_path / "f.npy", values)
    assert not_finite(values) == (1, 2)
    with pytest.raises(UserError, match=r"features of utterance 'b' are not finite: value 2 is inf"):
        read_feature_table(tmp_path / "f.npy", ["a", "b", "c"])
    (found,) = Arrays(Recipe("arrays")).extract([Item(0, "a", path=tmp_path / "f.npy")])
    assert found == Unusable("values that are not finite: [1, 2] is inf")
