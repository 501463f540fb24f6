"""Pickle files read safely: numbers, text, plain containers and NumPy arrays; nothing in the file runs.

A pickle is a program that may name any function and call it. Here it may use a short list of names, each of which calls
a function of this module and never the real one, and every opcode that could reach further is refused.
The file never touches a NumPy object: type, shape and bytes of an array are checked, then the array is built.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import shlex
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lantern.errors import UserError

_OPCODES = """
PROTO FRAME STOP MARK POP POP_MARK DUP GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE NONE NEWTRUE NEWFALSE
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 LIST EMPTY_LIST APPEND APPENDS DICT EMPTY_DICT
SETITEM SETITEMS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL
REDUCE BUILD INST EMPTY_SET ADDITEMS FROZENSET BYTEARRAY8
"""
"""The opcodes that are read; :class:`_Unpickler` has its own versions of the last line's. All others are refused."""
_ELEMENT = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}")
_DEEPEST = 30
_NOT_PICKLES = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: fetch that with git lfs pull",
    b"\x1f\x8b": "it is compressed with gzip: unpack it",
    **dict.fromkeys(
        (b"[", b"{"),
        "it is JSON, in which some projects publish: give the folder that holds its train, dev and test files",
    ),
    b"<": "it is a web page, not the file itself: download that",
}
_TORCH = 0x1950A86A20F9469CFC6C
"""With this number begin files that torch.save wrote before it wrote archives."""
_PLAIN = (
    'p = lambda x: x.detach().cpu().numpy() if hasattr(x, "detach") else {k: p(v) for k, v in x.items()} '
    'if isinstance(x, dict) else [p(v) for v in x] if isinstance(x, (list, tuple, set)) or getattr(x, "dtype", 0) == '
    'object else p(vars(x)) if hasattr(x, "__dict__") else x; pickle.dump(p(v), open(sys.argv[2], "wb"))'
)
_ARCHIVE = f'import pickle, sys, torch; v = torch.load(sys.argv[1], map_location="cpu", weights_only=False); {_PLAIN}'
_OBJECTS = (
    "import pickle, sys; f = pickle.Unpickler.find_class; "
    'known = "builtins __builtin__ collections copyreg copy_reg _codecs numpy torch".split(); '
    'U = type("U", (pickle.Unpickler,), {"find_class": lambda s, m, n: f(s, m, n) if m.split(".")[0] in known else '
    f'type(n, (), {{}})}}); v = U(open(sys.argv[1], "rb"), encoding="latin1").load(); {_PLAIN}'
)
"""Programs that turn tensors and objects of any class, which need not be there, into arrays and dicts."""
_TABLE = "import pandas, sys; pandas.read_pickle(sys.argv[1]).to_csv(sys.argv[2], index=False)"
_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError),
    *(AttributeError, AssertionError, OverflowError, MemoryError, struct.error),
)
"""What the interpreter raises on bytes that are not a pickle, or not a whole one."""


class FileSet(tuple[Any, ...]):
    """A set, in the order in which the file lists it: Python's own order would change from run to run."""


def load_pickle(path: Path) -> Any:
    """The value in the pickle file *path*, in whatever protocol Python 2 or 3 wrote it (text of Python 2 as Latin-1).

    Made of None, bool, int, float, str, bytes, list, tuple, dict, :class:`FileSet` for sets, and NumPy arrays of
    numbers. Arrays of text become lists, ordered and default dicts plain ones.

    Raises:
        UserError: the file is not a pickle, is cut off, or names or does anything else; nothing in it was run then.
    """
    try:
        with path.open("rb") as file:
            start = file.read(32)
            for prefix, what in _NOT_PICKLES.items():
                if start.startswith(prefix):
                    raise UserError(f"{path} is not a pickle: {what}")
            if not start:
                raise UserError(f"{path} is empty")
            if start.startswith(b"PK\x03\x04"):
                raise UserError(f"{path} is not a pickle: it is a ZIP archive, {_in_archive(path)}")
            file.seek(0)
            value = _finished(_Unpickler(file, fix_imports=False, encoding="latin1").load(), 0, {})
            if isinstance(value, int) and value == _TORCH:
                raise UserError(f"{path} is not a pickle: torch.save wrote it; {_converted(path, _ARCHIVE)}")
            return value
    except _RefusedError as error:
        advice = f". {_converted(path, error.program)}" if error.program else ""
        raise UserError(
            f"{path}: refused: it {error}; only numbers, text, plain containers and NumPy arrays are read, and nothing "
            f"in the file was run{advice}"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a whole pickle ({what[:120]!a}); it may be cut off: compare its size with the original's"
        ) from None


def _in_archive(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        names = []
    if any(name.endswith("data.pkl") for name in names):
        return f"which torch.save wrote; {_converted(path, _ARCHIVE)}"
    return "unpack it"


def _converted(path: Path, program: str) -> str:
    """A command that makes a plain file of *path*; it runs what is in the file, as Lantern does not."""
    new = path.with_name(f"{path.stem}-plain{'.csv' if program == _TABLE else '.pkl'}")
    command = shlex.join(["python", "-c", program, str(path), str(new)])
    return f"If you trust who made it, import {new.name} after this command, which runs what is in the file: {command}"


class _RefusedError(Exception):
    """The file asks for something that is not read; the message says what, after the word "it"."""

    def __init__(self, message: str, program: str = "") -> None:
        super().__init__(message)
        self.program = program
        """Makes a plain file of one like this."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A name in the file, and the function of this module that a call of it runs; None: it cannot be called."""

    name: str
    call: Callable[..., Any] | None = None


class _Type:
    """An element type, under construction: ``dtype("f4", ...)``, then its state with the byte order."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        text = _text(code)
        if not isinstance(text, str) or _ELEMENT.fullmatch(text) is None:
            objects = str(text).startswith("O")
            what = "arrays of Python objects" if objects else f"NumPy type {str(text)[:40]!a}"
            raise _RefusedError(f"holds {what}", _OBJECTS if objects else "")
        self.code, self.order = text, "="

    def set_state(self, state: Any) -> None:
        _version, order, subtype, names, fields, _size, _alignment, _flags, *metadata = state
        self.order = _text(order)
        if self.order not in ("<", ">", "|", "=") or any(x is not None for x in (subtype, names, fields, *metadata)):
            raise _RefusedError(f"holds a NumPy type {self.code!a} with a structure of its own")


class _Array:
    """An array, under construction: ``_reconstruct(ndarray, (0,), "b")``, then its state."""

    def __init__(self, kind: Any, *_placeholder: Any) -> None:
        if not isinstance(kind, _Name) or kind.name != "ndarray":
            raise _RefusedError("holds an array that is not a plain NumPy array")
        self.value: Any = None

    def set_state(self, state: Any) -> None:
        shape, element, fortran, raw = state[-4:]
        self.value = _array(raw, element, shape, "F" if fortran else "C")


class _Set(list[Any]):
    """A set, under construction; in order."""


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _array(raw: Any, element: Any, shape: Any, order: Any = "C") -> Any:
    """The array in the bytes *raw*, which must be exactly as many as its shape needs."""
    if not isinstance(element, _Type) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("an array without type or shape")
    if isinstance(raw, list):
        raise _RefusedError("holds arrays of Python objects", _OBJECTS)
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes):
        raise ValueError("an array without bytes")
    dtype = np.dtype(element.order + element.code)
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
    """How protocols without an opcode for bytes write them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"holds _codecs.encode with the encoding {str(encoding)[:40]!a}")
    return text.encode("latin1")


_CALLS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _Type,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
    "builtins.set": _Set,
    "builtins.frozenset": _Set,
    "builtins.bytes": lambda: b"",
    **dict.fromkeys(("builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str")),
    "collections.OrderedDict": lambda items=(): dict(items),
    "collections.defaultdict": lambda _factory=None: {},
    "_codecs.encode": _encode,
}
"""What runs here for each name that a file may call; the others serve as factories of default dicts."""


# The standard library's C unpickler is faster, but calls whatever is on its stack and reserves memory for any index
# that a file names. This one is of the standard library too, and its table of opcodes can be replaced.
class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        # The exact split counts: "numpy" + "core.x" would be an attribute of a module.
        if full not in _CALLS or "." in name:
            shown = f"{f'{module}.{name}'[:100]!a}"
            package = module.split(".")[0]
            if package == "torch":
                raise _RefusedError(
                    f"holds torch tensors ({shown}); save the features as NumPy arrays with .numpy()", _OBJECTS
                )
            # Classes of a project are data; what the standard library offers to a pickle is mostly harm.
            harmless = re.fullmatch(r"\w+", package) and package not in {
                *sys.stdlib_module_names,
                "__builtin__",
                "copy_reg",
                "numpy",
            }
            program = _TABLE if package == "pandas" else _OBJECTS
            raise _RefusedError(f"names {shown}", program if harmless else "")
        return _Name(name, _CALLS[full])

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, _Name) or function.call is None:
            raise _RefusedError(f"calls {_shown(function)}")
        self.stack[-1] = function.call(*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Array | _Type):
            raise _RefusedError(f"sets the state of {_shown(target)}")
        target.set_state(state)

    def load_empty_set(self) -> None:
        self.stack.append(_Set())

    def load_additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], _Set):
            raise ValueError("items of something that is not a set")
        self.stack[-1].extend(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # before self.stack is read: it changes the stack
        self.stack.append(_Set(items))

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(length))

    def load_inst(self) -> None:
        """A name and a call in one; the name comes first, for a refusal that shows it."""
        module, name = (self.readline()[:-1].decode("latin1") for _ in range(2))
        self.find_class(module, name)
        _refuse_opcode("INST", self)


def _refuse_opcode(name: str, _unpickler: _Unpickler) -> NoReturn:
    raise _RefusedError(f"uses the opcode {name}")


_Unpickler.dispatch = {
    ord(op.code): (
        getattr(_Unpickler, pickle._Unpickler.dispatch[ord(op.code)].__name__)
        if op.name in _OPCODES.split()
        else partial(_refuse_opcode, op.name)
    )
    for op in pickletools.opcodes
}


def _shown(value: Any) -> str:
    return f"{value.name!a}" if isinstance(value, _Name) else f"a {type(value).__name__.lstrip('_').lower()}"


def _finished(value: Any, depth: int, done: dict[int, tuple[Any, Any]]) -> Any:
    """*value* with finished arrays and sets in place of those under construction.

    *done* holds every container by its id, with its result: a small file could nest shared lists that would take
    forever to walk through. It keeps the container too, since an id is only unique while its object lives.
    """
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, _Name | _Type):
        raise _RefusedError(f"holds a bare {_shown(value)}")
    if not isinstance(value, list | tuple | dict):
        return value
    if depth > _DEEPEST:
        raise _RefusedError(f"nests containers more than {_DEEPEST} deep")
    if id(value) not in done:
        done[id(value)] = (value, _container(value, depth + 1, done))
    return done[id(value)][1]


def _container(value: Any, depth: int, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str | bytes | int | float) for key in value):
            raise _RefusedError("has a dict with keys that are neither text nor numbers")
        return {key: _finished(item, depth, done) for key, item in value.items()}
    items = (_finished(item, depth, done) for item in value)
    if isinstance(value, _Set):
        return FileSet(items)
    return tuple(items) if isinstance(value, tuple) else list(items)
