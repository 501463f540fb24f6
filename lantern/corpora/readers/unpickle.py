"""Pickle files without their dangers: numbers, text, plain containers and NumPy arrays, and nothing that runs.

A pickle is a program: it may name any function and call it. Here the names it may use are a short list, each stands for
a function of this module and never for the real one, and an opcode that could reach further is refused. No NumPy object
is handed to the file: type, shape and bytes of an array are checked, then the array is built.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from lantern.errors import UserError

_OPCODES = """
PROTO FRAME STOP MARK POP POP_MARK DUP GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE NONE NEWTRUE NEWFALSE
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 LIST EMPTY_LIST APPEND APPENDS DICT EMPTY_DICT
SETITEM SETITEMS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL
"""
"""Those that make plain values only, and the two that name something. What else is needed is written below."""
_ELEMENT = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}")
_DEEPEST = 30
_NOT_PICKLES = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: fetch that with git lfs pull",
    b"PK\x03\x04": "it is a ZIP archive (torch.save writes such files): unpack it, or save NumPy arrays with pickle",
    b"\x1f\x8b": "it is compressed with gzip: unpack it",
    b"<": "it is a web page, not the file itself: download that",
}
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""What the interpreter of the format raises on bytes that are no pickle, or not all of one."""


class FileSet(tuple[Any, ...]):
    """A set of the file, in the order in which the file lists it: Python's own order would change from run to run."""


def load_pickle(path: Path) -> Any:
    """What the pickle file *path* holds, in whatever protocol Python 2 or 3 wrote it (text of Python 2 as Latin-1).

    Made of None, bool, int, float, str, bytes, list, tuple, dict, :class:`FileSet` for sets, and NumPy arrays of
    numbers. Arrays of text become lists, ordered and default dicts plain ones.

    Raises:
        UserError: the file is no pickle, is cut off, or names or does anything else; nothing of it was run then.
    """
    try:
        with path.open("rb") as file:
            start = file.read(32)
            for prefix, what in _NOT_PICKLES.items():
                if start.startswith(prefix):
                    raise UserError(f"{path} is not a pickle: {what}")
            if not start:
                raise UserError(f"{path} is empty")
            file.seek(0)
            return _Settled(path).settle(_Unpickler(file, path).load())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a whole pickle ({what[:120]!a}); it may be cut off: compare its size with the original's"
        ) from None


class _Named:
    """What stands for a name of the file: a function of this module, or nothing but the name."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name, self.call = name, call


class _Type:
    """An element type, under construction: ``dtype("f4", ...)``, then its state with the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or _ELEMENT.fullmatch(text) is None:
            what = "arrays of Python objects" if str(text).startswith("O") else f"NumPy type {str(text)[:40]!a}"
            raise _RefusedError(what)
        self.code, self.order = text, "="

    def set_state(self, state: Any) -> None:
        _version, order, *structure = state
        order = order.decode("latin1") if isinstance(order, bytes) else order
        subtype, names, fields, _size, _alignment, _flags, *metadata = structure
        if order not in ("<", ">", "|", "=") or any(x is not None for x in (subtype, names, fields)) or any(metadata):
            raise _RefusedError(f"a NumPy type {self.code!a} with a structure of its own")
        self.order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """An array, under construction: ``_reconstruct(ndarray, (0,), "b")``, then its state."""

    __slots__ = ("value",)

    def __init__(self, kind: Any, *_placeholder: Any) -> None:
        if not isinstance(kind, _Named) or kind.name != "ndarray":
            raise _RefusedError("an array that is not a plain NumPy array")
        self.value: Any = None

    def set_state(self, state: Any) -> None:
        shape, element, fortran, raw = state[-4:]
        self.value = _array(raw, element, shape, "F" if fortran else "C")


class _RefusedError(Exception):
    """The file asks for something that is not read; the message says what."""


def _array(raw: Any, element: Any, shape: Any, order: Any = "C") -> Any:
    """The array of *raw* bytes; its shape must claim exactly them."""
    if not isinstance(element, _Type) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("an array without type or shape")
    if isinstance(raw, list):
        raise _RefusedError("arrays of Python objects")
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes):
        raise ValueError("an array without bytes")
    dtype = element.dtype()
    if len(shape) > 4 or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order=order) if data else np.empty(shape, dtype)
    if dtype.kind == "S":
        array = np.char.decode(array, "latin1")
    return array.tolist() if dtype.kind in "SU" else array


def _scalar(element: Any, raw: Any) -> Any:
    value = _array(raw, element, ())
    return value if isinstance(value, str) else value.item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocols that know no bytes write them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"_codecs.encode with the encoding {str(encoding)[:40]!a}")
    return text.encode("latin1")


class _Set(list[Any]):
    """A set, under construction; in order."""

    add = list.append


def _mapping(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


def _default_mapping(_factory: Any = None) -> dict[Any, Any]:
    return {}


def _no_bytes() -> bytes:
    return b""


def _names() -> dict[tuple[str, str], _Named]:
    found = {("numpy", "ndarray"): _Named("ndarray"), ("numpy", "dtype"): _Named("dtype", _Type)}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _Named("_reconstruct", _Array)
        found[f"{core}.multiarray", "scalar"] = _Named("scalar", _scalar)
        found[f"{core}.numeric", "_frombuffer"] = _Named("_frombuffer", _array)
    for builtins in ("builtins", "__builtin__"):
        for name, call in (("set", _Set), ("frozenset", _Set), ("bytes", _no_bytes)):
            found[builtins, name] = _Named(name, call)
        for name in ("list", "dict", "int", "float", "str"):  # factories of default dicts
            found[builtins, name] = _Named(name)
    found["collections", "OrderedDict"] = _Named("OrderedDict", _mapping)
    found["collections", "defaultdict"] = _Named("defaultdict", _default_mapping)
    found["_codecs", "encode"] = _Named("encode", _encode)
    return found


# The standard library's C unpickler is faster, but calls whatever is on its stack and reserves memory for any index
# that a file names. This one is of the standard library too, and its table of opcodes can be replaced.
class _Unpickler(pickle._Unpickler):
    NAMES: ClassVar = _names()
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: Any, path: Path) -> None:
        super().__init__(content, fix_imports=False, encoding="latin1")
        self.path = path

    def load(self) -> Any:
        try:
            return super().load()
        except _RefusedError as error:
            self.refuse(f"it holds {error}")

    def find_class(self, module: str, name: str) -> Any:
        found = self.NAMES.get((module, name))
        if found is None:
            shown = f"{module}.{name}"[:100]
            if module.split(".")[0] == "torch":
                self.refuse(f"it holds torch tensors ({shown!a}); save the features as NumPy arrays with .numpy()")
            self.refuse(f"it names {shown!a}")
        return found

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Named) or function.call is None:
            self.refuse(f"it calls {_shown(function)}")
        self.stack[-1] = function.call(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Array | _Type):
            self.refuse(f"it sets the state of {_shown(target)}")
        target.set_state(state)

    def load_empty_set(self) -> None:
        self.stack.append(_Set())

    def load_additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], _Set):
            raise ValueError("items of a set that is none")
        self.stack[-1].extend(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(_Set(items))

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(length))

    def refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"{self.path}: refused: {what}; only numbers, text, plain containers and NumPy arrays are read, and "
            "nothing in the file was run"
        )

    def load_inst(self) -> None:
        """Names and calls in one; the name is looked at first so that the refusal can tell it."""
        self.find_class(self._line(), self._line())
        _refuse_opcode(ord(pickle.INST), self)

    def _line(self) -> str:
        return self.readline()[:-1].decode("latin1")


def _refuse_opcode(code: int, unpickler: _Unpickler) -> NoReturn:
    name = next((op.name for op in pickletools.opcodes if ord(op.code) == code), None)
    if name is None:
        raise pickle.UnpicklingError(f"no opcode {code:#04x}")
    unpickler.refuse(f"it uses the opcode {name}")


def _dispatch() -> dict[int, Callable[[Any], None]]:
    """What is done at each opcode: the allowed ones as the standard library does, our own, all others refused."""
    plain: dict[int, Any] = pickle._Unpickler.dispatch
    allowed = {ord(getattr(pickle, name)): plain[ord(getattr(pickle, name))] for name in _OPCODES.split()}
    own = {
        pickle.REDUCE: _Unpickler.load_reduce,
        pickle.BUILD: _Unpickler.load_build,
        pickle.EMPTY_SET: _Unpickler.load_empty_set,
        pickle.ADDITEMS: _Unpickler.load_additems,
        pickle.FROZENSET: _Unpickler.load_frozenset,
        pickle.BYTEARRAY8: _Unpickler.load_bytearray8,
        pickle.INST: _Unpickler.load_inst,
    }
    found: dict[int, Callable[[Any], None]] = {code: partial(_refuse_opcode, code) for code in range(256)}
    return found | allowed | {ord(code): function for code, function in own.items()}


_Unpickler.dispatch = _dispatch()


def _shown(value: Any) -> str:
    return f"{value.name!a}" if isinstance(value, _Named) else f"a {type(value).__name__.lstrip('_').lower()}"


class _Settled:
    """Puts finished arrays and sets where those under construction stand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Every shared container once, else a small file could nest lists that take forever to walk through. Both are
        # kept: an id is only unique while its object lives.
        self._done: dict[int, tuple[Any, Any]] = {}

    def settle(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, _Array):
            if value.value is None:
                raise ValueError("an array without content")
            return value.value
        if isinstance(value, _Named | _Type):
            raise UserError(f"{self.path}: refused: it holds a bare {_shown(value)}; only values are read")
        if not isinstance(value, list | tuple | dict):
            return value
        if depth > _DEEPEST:
            raise UserError(f"{self.path}: containers stand more than {_DEEPEST} deep in one another; no features do")
        if id(value) not in self._done:
            self._done[id(value)] = (value, self._container(value, depth + 1))
        return self._done[id(value)][1]

    def _container(self, value: list[Any] | tuple[Any, ...] | dict[Any, Any], depth: int) -> Any:
        if isinstance(value, dict):
            if not all(isinstance(key, str | bytes | int | float) for key in value):
                raise UserError(f"{self.path}: a dict has keys that are neither text nor numbers")
            return {key: self.settle(item, depth) for key, item in value.items()}
        items = (self.settle(item, depth) for item in value)
        if isinstance(value, _Set):
            return FileSet(items)
        return tuple(items) if isinstance(value, tuple) else list(items)
