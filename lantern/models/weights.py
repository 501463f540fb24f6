"""Weights that a user gives: tensors by name, whatever else the file holds. Nothing in it is run."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

CONVERT = "save the state dict alone: torch.save(model.state_dict(), 'weights.pt')"
_WRAPPERS = ("state_dict", "best_state", "model_state_dict", "model")
"""Keys under which training programs keep the weights, where several of a file could be meant."""
_SETTINGS = ("args", "config", "hyper_parameters", "hparams", "opt")
"""Keys under which they keep the settings of the model."""
_PREFIX = re.compile(r"(module|model|net|network|backbone|_orig_mod)\.")
"""How wrappers of a model, such as ``DataParallel``, begin all its names."""
_MOST_LEVELS = 100
_MOST_MODULES = 100_000
_MAGIC = 0x1950A86A20F9469CFC6C
"""Begins what torch.save wrote before it wrote archives."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class WeightsError(Exception):
    """What is wrong with a file of weights."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a file, and the settings of the model that the file names."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the program that trained it; empty where the file does not hold them."""


def read_weights(path: Path) -> Weights:
    """The weights in *path*: safetensors, or what ``torch.save`` wrote of a state dict, a checkpoint or a whole module.

    Of a whole module the tensors alone are read. Takes about as much memory as the file is long.

    Raises:
        WeightsError: the file holds no weights, or one that no model can use: sparse, complex, quantised, without
            numbers (meta), of a size that the file does not have, not finite.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if zipfile.is_zipfile(path):
        content: Any = _read_archive(path)
    elif start.endswith(b"{") and len(start) == 9:
        from safetensors.torch import load_file

        content = load_file(path)
    else:
        content = _read_before_archives(path)
    state, settings = content, {}
    if isinstance(content, Mapping):
        kept = (content.get(key) for key in _SETTINGS)
        plain = [one.state if isinstance(one, _Thing) else one for one in kept]
        settings = next((dict(one) for one in plain if isinstance(one, Mapping) and one), {})
        state = _weights_in(content)
    if isinstance(state, _Thing):
        state = dict(_of_module(state, "", iter(range(_MOST_MODULES))))
    if not isinstance(state, Mapping) or not state:
        raise WeightsError("no weights, which are tensors by name")
    if any(str(name).startswith("backbone.") for name in state):
        # A checkpoint of a run: the backbone is one part of the multi-task module.
        state = {k: v for k, v in state.items() if str(k).startswith("backbone.")}
    tensors = {_name(name): value for name, value in state.items()}
    while (found := _PREFIX.match(next(iter(tensors)))) and all(name.startswith(found[0]) for name in tensors):
        tensors = {name.removeprefix(found[0]): value for name, value in tensors.items()}
    return Weights({name: _tensor(name, value) for name, value in tensors.items()}, settings)


def _weights_in(content: Mapping[Any, Any]) -> Any:
    """The part of a checkpoint that has the weights: itself, or what one of its keys holds."""
    held = {key: value for key, value in content.items() if isinstance(value, Mapping | _Thing)}
    for key in _WRAPPERS:
        if key in held:
            return held[key]
    models = [
        key
        for key, value in held.items()
        if (isinstance(value, _Thing) and "_modules" in value.state)
        or (isinstance(value, Mapping) and value and all(isinstance(v, Tensor | _Stored) for v in value.values()))
    ]
    if len(models) > 1:
        raise WeightsError(f"several could be its weights: {', '.join(map(str, models))[:200]}; {CONVERT}")
    return held[models[0]] if models else content


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise WeightsError(f"no weights, which are tensors by name: it has {name!r:.60} for a name")
    return name


def _tensor(name: object, value: Any) -> Tensor:
    if isinstance(value, _Unusable):
        raise WeightsError(f"{name} is {value.what}; save it as a plain tensor of numbers")
    if isinstance(value, _Stored):
        value = value.tensor(name)
    if not isinstance(value, Tensor):
        kind = type(value).__name__.lstrip("_")
        raise WeightsError(f"not a safetensors file or a plain state dict: {name} is a {kind}, not a tensor")
    unusable = (
        (value.layout is not torch.strided, "sparse"),
        (value.is_meta, "without its numbers (meta)"),
        (value.is_quantized or value.is_complex(), "quantised" if value.is_quantized else "complex"),
        (value.dtype.is_floating_point and value.dtype not in _FLOATS, f"of type {value.dtype}"),
    )
    for is_so, what in unusable:
        if is_so:
            raise WeightsError(f"{name} is {what}; save it as a plain tensor of numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise WeightsError(f"{name} says {list(value.shape)}, for which the file does not hold the numbers")
    if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):  # of 64 bits, it may overflow
        raise WeightsError(f"{name} holds NaN or infinity: its training went astray")
    return value


def _of_module(thing: _Thing, prefix: str, left: Iterator[int]) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a pickled module, as its ``state_dict`` would give them; *left*: modules that it may have.

    A small file could nest shared modules that would take forever to walk through, and one within itself.
    """
    if next(left, None) is None or prefix.count(".") > _MOST_LEVELS:
        raise WeightsError("more modules within modules than any model has")
    apart = thing.state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers"):
        held = thing.state.get(part)
        for name, value in held.items() if isinstance(held, Mapping) else ():
            if value is not None and name not in apart:
                yield f"{prefix}{name}", value
    modules = thing.state.get("_modules")
    for name, value in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(value, _Thing):
            yield from _of_module(value, f"{prefix}{name}.", left)


class _Thing:
    """Stands for an object of a class that is not imported: its state is kept, nothing of it is run."""

    state: dict[Any, Any]

    def __new__(cls, *_: object, **__: object) -> _Thing:
        made = super().__new__(cls)
        made.state = {}
        return made

    def __init__(self, *_: object, **__: object) -> None: ...

    def __repr__(self) -> str:
        return type(self).__name__.lstrip("_")

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def __setitem__(self, key: object, value: object) -> None:
        """What it holds as a container is not needed; nor below."""

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def update(self, items: object) -> None: ...


class _Unusable:
    """Stands for a tensor of a kind that no weights are."""

    what = ""

    def __init__(self, *_: object, **__: object) -> None: ...


_KINDS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "without its numbers (meta)",
    "_rebuild_qtensor": "quantised",
    "_rebuild_wrapper_subclass": "of a class of its own",
}
_UNUSABLE = {name: type("_Unusable", (_Unusable,), {"what": what}) for name, what in _KINDS.items()}


class _Storage:
    """Numbers in the file, which several tensors may share."""

    def __init__(self, kind: torch.dtype | None, content: bytes = b"") -> None:
        self.type = kind
        """None: complex, quantised or another that is not used for weights."""
        self.content = content

    @cached_property
    def numbers(self) -> Tensor:
        assert self.type is not None
        return torch.frombuffer(bytearray(self.content), dtype=self.type)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor whose numbers are in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, name: object) -> Tensor:
        dtype = self.storage.type
        if dtype is None:
            raise WeightsError(f"{name} is complex, quantised or of another type that is not for weights")
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
            raise WeightsError(f"{name} has no shape")
        there = len(self.storage.content) // dtype.itemsize
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if count and (count > there or last >= there):
            raise WeightsError(f"{name} says {list(self.size)}, for which the file does not hold the numbers")
        if not count:
            return torch.empty(self.size, dtype=dtype)
        return self.storage.numbers.as_strided(self.size, self.stride, self.offset)


def _stored(storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> _Stored:
    if not isinstance(storage, _Storage):
        raise WeightsError("a tensor without numbers")
    return _Stored(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: object) -> Any:
    return data


# The C unpickler would call what is on its stack and reserve memory for any index.
class _Reader(pickle._Unpickler):
    """Reads a pickle of torch.save; every class that it names becomes a :class:`_Thing`.

    *read* gives the bytes of the storage of a key; None: they follow the pickle.
    """

    stack: list[Any]

    def __init__(self, file: BinaryIO, read: Callable[[Any], bytes] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self.content = read
        self.things: dict[tuple[str, str], Any] = {}
        self.storages: dict[tuple[Any, torch.dtype | None], _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils":
            if name == "_rebuild_tensor_v2":
                return _stored
            if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
                return _parameter
        if name in _UNUSABLE and module.startswith("torch"):
            return _UNUSABLE[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("builtins", "set"), ("__builtin__", "set")):
            return frozenset
        if (module, name) not in self.things:
            self.things[module, name] = type(f"_{name}"[:60], (_Thing,), {"full": (module, name)})
        return self.things[module, name]

    def persistent_load(self, pid: Any) -> Any:
        what, kind, key, *more = pid
        if what == "module":  # a class of a module, with its source
            return kind
        if len(more) > 2 and more[2] is not None:
            raise WeightsError("a tensor is a part of another, as torch before 0.4 wrote it")
        module, name = kind.full
        dtype = _TYPES.get(name) if module in ("torch", "torch.storage") else None
        if (key, dtype) not in self.storages:
            self.storages[key, dtype] = _Storage(dtype, b"" if self.content is None else self.content(key))
        return self.storages[key, dtype]

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Thing):
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict | _Stored | _Unusable):  # their attributes are no weights
            raise WeightsError("the state of something that has none")


_operations: dict[int, Any] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _Reader.load_build}
for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4):
    del _operations[_code[0]]
_Reader.dispatch = _operations


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in records):
            raise WeightsError("its records are compressed, which torch.save never does")
        if sum(one.file_size for one in records) > path.stat().st_size:
            raise WeightsError("it says that it holds more than it is long")
        folder = next((one.filename[: -len("data.pkl")] for one in records if one.filename.endswith("data.pkl")), None)
        if folder is None:
            raise WeightsError("not an archive of torch.save")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big":
            raise WeightsError("it was written by a machine that orders its bytes the other way")
        return _Reader(
            BytesIO(archive.read(f"{folder}data.pkl")), lambda key: archive.read(f"{folder}data/{key}")
        ).load()


def _read_before_archives(path: Path) -> Any:
    """What torch.save wrote before version 1.6: pickles, then each storage after the count of its numbers."""
    with path.open("rb") as file:
        if _Reader(file).load() != _MAGIC:
            raise WeightsError("not a file of torch.save")
        _Reader(file).load()
        system = _Reader(file).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise WeightsError("it was written by a machine that orders its bytes the other way")
        reader = _Reader(file)
        content = reader.load()
        storages = {key: storage for (key, _), storage in reader.storages.items()}
        length = path.stat().st_size
        for key in _Reader(file).load():
            kind = storages[key].type
            if kind is None:
                raise WeightsError("its numbers are complex, quantised or of another type that is not for weights")
            size = int.from_bytes(file.read(8), "little") * kind.itemsize
            if size > length - file.tell():
                raise WeightsError("it says that it holds more than it is long")
            storages[key].content = file.read(size)
        return content
