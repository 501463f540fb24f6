"""Pickles run nothing here, and what is allowed reads as the standard library would read it."""

import builtins
import collections
import copyreg
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.corpora.readers.unpickle import FileSet, load_pickle
from lantern.errors import UserError
from tests.corpora.pickles import iemocap, python2, twelve, write

PLAIN: dict[Any, Any] = {
    "numbers": [1, -7, 2**70, 1.5, True, None, np.float32(3), np.int64(4), np.bool_(True)],
    "text": ["é", "", np.str_("hé"), b"\xff\x00", b""],
    3: (collections.OrderedDict(a=1), collections.defaultdict(list, {"q": [1]})),
    "arrays": [np.arange(5, dtype="f4"), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">i2")],
    "more": [np.array([True, False]), np.zeros((0, 3)), np.array(2.5, dtype="f2")],
    "words": [np.array(["a", "bcd"]), np.array([b"x", b"yz"])],
}


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert type(found) is dict
        assert list(found) == list(wanted)
        for key in wanted:
            same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            same(one, other)
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind in "US":
        assert found == [x.decode() if isinstance(x, bytes) else x for x in wanted.tolist()]
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == wanted


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    same(load_pickle(write(tmp_path / "p", PLAIN, protocol)), PLAIN)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_set_keeps_the_order_of_the_file(tmp_path: Path, protocol: int) -> None:
    given = {"train": {"c", "a", "b"}, "test": frozenset({2})}
    found = load_pickle(write(tmp_path / "p", given, protocol))
    assert isinstance(found["train"], FileSet)
    assert sorted(found["train"]) == ["a", "b", "c"]
    assert found["test"] == (2,)
    assert load_pickle(tmp_path / "p") == found


@pytest.mark.parametrize("old", [False, True])
def test_both_spellings_of_numpys_modules(tmp_path: Path, old: bool) -> None:
    content = pickle.dumps(np.arange(4.0), protocol=2).replace(
        b"numpy._core.", b"numpy.core." if old else b"numpy._core."
    )
    (tmp_path / "p").write_bytes(content)
    same(load_pickle(tmp_path / "p"), np.arange(4.0))


def test_what_python_2_wrote(tmp_path: Path) -> None:
    members = iemocap()
    members["train"] = set(members["train"])
    members["sentences"]["Ses01F_impro01"][0] = "x" * 300 + " é"
    content = python2(twelve(members))
    (tmp_path / "p").write_bytes(content)
    found, wanted = load_pickle(tmp_path / "p"), pickle.loads(content, encoding="latin1")
    same(found[:10], wanted[:10])
    assert list(found[10]) == sorted(wanted[10])
    np.testing.assert_array_equal(found[3]["Ses01F_impro01"][0], members["text"]["Ses01F_impro01"][0])


class Bomb:
    """Calls *function* with *arguments* when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _bombs(canary: Path) -> dict[str, bytes]:
    touch = f"open({str(canary)!r}, 'w').close()"
    shell = f"touch {canary}"
    hidden = np.empty(1, dtype=object)
    hidden[0] = Bomb(os.system, shell)
    shell_ = b"X" + struct.pack("<I", len(shell)) + shell.encode()
    structured = pickle.dumps(np.zeros(1, dtype=[("a", "f4")]), 2)
    return {
        "os.system": pickle.dumps(Bomb(os.system, shell), 2),
        "in protocol 0": pickle.dumps(Bomb(os.system, shell), 0),
        "in protocol 5": pickle.dumps([Bomb(os.system, shell)], 5),
        "builtins.eval": pickle.dumps(Bomb(builtins.eval, touch), 4),
        "builtins.exec": pickle.dumps({"a": [Bomb(builtins.exec, touch)]}, 2),
        "nested": b"\x80\x02c__builtin__\nlist\nc__builtin__\nmap\ncposix\nsystem\n](" + shell_ + b"e\x86R\x85R.",
        "object array": pickle.dumps((1, {"x": hidden}), 2),
        "object array, protocol 5": pickle.dumps(hidden, 5),
        "object scalar": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
        + pickle.dumps(Bomb(os.system, shell), 2)[2:-1]
        + b"\x86R.",
        "structured array": structured,
        "attribute of a module": b"\x80\x04\x8c\x05numpy\x8c\x10_globals.copyreg\x93.",
        "getattr": b"\x80\x02c__builtin__\ngetattr\n.",
        "copyreg": b"\x80\x02ccopy_reg\n_reconstructor\n.",
        "numpy.load": pickle.dumps(Bomb(np.load, str(canary)), 2),
        "a class": pickle.dumps(collections.Counter("aa"), 2),
        "instance": f"(S'{shell}'\niposix\nsystem\n.".encode(),
        "instance of an allowed name": b"(icollections\nOrderedDict\n.",
        "object": b"\x80\x02(ccollections\nOrderedDict\no.",
        "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "persistent id": b"\x80\x02U\x01xQ.",
        "persistent id, protocol 0": b"Px\n.",
        "extension": b"\x80\x02\x82\x01.",
        "buffer": b"\x80\x05\x97.",
        "calling a value": b"\x80\x02U\x01x)R.",
        "calling a mere name": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "state of a container": b"\x80\x02]}U\x09__class__K\x01sb.",
        "state of an allowed function": b"\x80\x02cnumpy\ndtype\nN}U\x04callK\x01s\x86b.",
        "another kind of array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
        "an odd encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x06\x00\x00\x00rot_13\x86R.",
        "a bare name": b"\x80\x02cnumpy\ndtype\n.",
        "torch": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.",
    }


@pytest.mark.parametrize("name", list(_bombs(Path("x"))))
def test_malicious_pickles_are_refused_and_run_nothing(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "p").write_bytes(_bombs(canary)[name])
    with pytest.raises(UserError, match="refused: it ") as caught:
        load_pickle(tmp_path / "p")
    assert not canary.exists()
    assert str(caught.value).startswith(f"{tmp_path / 'p'}: refused")
    assert "\n" not in str(caught.value)


def test_the_bombs_are_live(tmp_path: Path) -> None:
    for name in ("os.system", "in protocol 0", "builtins.eval", "nested", "object array", "instance"):
        canary = tmp_path / name.replace(" ", "")
        pickle.loads(_bombs(canary)[name], encoding="latin1")
        assert canary.exists(), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", "it names 'posix.system'"),
        ("builtins.eval", "'builtins.eval'"),
        ("object array", "arrays of Python objects"),
        ("copyreg", "'copy_reg._reconstructor'"),
        ("persistent id", "the opcode BINPERSID"),
        ("instance", "'posix.system'"),
        ("a class", "'collections.Counter'"),
        ("torch", r"torch tensors .*save the features as NumPy arrays with \.numpy"),
    ],
)
def test_the_refusal_names_what_was_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "p").write_bytes(_bombs(tmp_path / "canary")[name])
    with pytest.raises(UserError, match=message):
        load_pickle(tmp_path / "p")


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\x80\x04\x8c\x05\x1b[31m\x8c\x01x\x93.")
    with pytest.raises(UserError) as caught:
        load_pickle(tmp_path / "p")
    assert "\x1b" not in str(caught.value)


def test_a_registered_extension_is_not_looked_up(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        (tmp_path / "p").write_bytes(pickle.dumps(os.system, 2).replace(b"cposix\nsystem\n", b"\x82\xf0"))
        with pytest.raises(UserError, match="refused"):
            load_pickle(tmp_path / "p")
    finally:
        copyreg.remove_extension("os", "system", 240)


GOOD = pickle.dumps([np.arange(50.0), {"a": "b" * 50}], 4)
ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
HUGE = ARRAY + b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x08AAAAAAAAtb."
"""Claims 2**44 numbers and has the bytes of one."""


@pytest.mark.parametrize(
    "content",
    [
        GOOD[:-1],
        GOOD[: len(GOOD) // 2],
        GOOD[:40],
        b"hello, this is a text\n",
        bytes(range(200, 256)),
        b"\x80\x02h\x07.",
        b"\x80\x02.",
        b"\x80\x02]K\x01s.",
        HUGE,
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x02c__builtin__\nbytes\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UserError, match=r"is not a whole pickle .*it may be cut off") as caught:
        load_pickle(tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_cut_is_reported(tmp_path: Path) -> None:
    for end in range(1, len(GOOD), 7):
        (tmp_path / "p").write_bytes(GOOD[:end])
        with pytest.raises(UserError, match="is not a whole pickle"):
            load_pickle(tmp_path / "p")


def test_a_memo_index_reserves_no_memory(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\x80\x02K\x07r\xff\xff\xff\xff.")
    assert load_pickle(tmp_path / "p") == 7


def test_lists_that_share_their_parts_are_walked_once(tmp_path: Path) -> None:
    nest: list[Any] = [0]
    for _ in range(25):
        nest = [nest] * 10
    found = load_pickle(write(tmp_path / "p", nest))
    assert found[0] is found[9]


def test_cycles_and_deep_nests_are_refused(tmp_path: Path) -> None:
    cycle: list[Any] = []
    cycle += [cycle, cycle]
    (tmp_path / "deep").write_bytes(b"\x80\x02" + b"](" * 5000 + b"e" * 5000 + b".")
    for path in (write(tmp_path / "cycle", cycle), tmp_path / "deep"):
        with pytest.raises(UserError, match="more than 30 deep"):
            load_pickle(path)


def test_files_that_are_something_else_say_what(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match=r"Git LFS pointer.*git lfs pull"):
        load_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(UserError, match="ZIP archive"):
        load_pickle(path)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match="web page"):
        load_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        load_pickle(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_pickle(tmp_path)
