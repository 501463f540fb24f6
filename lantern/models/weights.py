"""Weights that a user gives: tensors by name, whatever else the file holds. Nothing in it is run."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONVERT = "save the state dict alone: torch.save(model.state_dict(), 'weights.pt')"
_WRAPPERS = ("state_dict", "best_state", "model_state_dict", "model")
"""Keys under which training programs keep the weights."""
_MOST_LEVELS = 100
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
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        content: Any = load_file(path)
    elif zipfile.is_zipfile(path):
        content = _read_archive(path)
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
    state, settings = content, {}
    if isinstance(content, Mapping):
        arguments = content.get("args")
        settings = dict(arguments.state) if isinstance(arguments, _Thing) else {}
        state = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping | _Thing)), content)
    if isinstance(state, _Thing):
        state = dict(_of_module(state, "", 0))
    if not isinstance(state, Mapping) or not state:
        raise WeightsError("no weights, which are tensors by name")
    if any(str(name).startswith("backbone.") for name in state):
        # A checkpoint of a run: the backbone is one part of the multi-task module.
        state = {str(k).removeprefix("backbone."): v for k, v in state.items() if str(k).startswith("backbone.")}
    return Weights({_name(name): _tensor(name, value) for name, value in state.items()}, settings)


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
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise WeightsError(f"{name} holds NaN or infinity: its training went astray")
    return value


def _of_module(thing: _Thing, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a pickled module, as its ``state_dict`` would give them."""
    if depth > _MOST_LEVELS:
        raise WeightsError("a module within a module more than a hundred times")
    apart = thing.state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers"):
        held = thing.state.get(part)
        for name, value in held.items() if isinstance(held, Mapping) else ():
            if value is not None and name not in apart:
                yield f"{prefix}{name}", value
    modules = thing.state.get("_modules")
    for name, value in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(value, _Thing):
            yield from _of_module(value, f"{prefix}{name}.", depth + 1)


class _Thing:
    """Stands for an object of a class that is not imported: its state is kept, nothing of it is run."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: dict[Any, Any] = {}

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


@dataclass(frozen=True, slots=True)
class _Storage:
    content: bytes
    type: torch.dtype | None
    """None: complex, quantised or another that is not used for weights."""


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
        whole = torch.frombuffer(bytearray(self.storage.content), dtype=dtype, count=there)
        return whole.as_strided(self.size, self.stride, self.offset)


def _stored(storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> _Stored:
    if not isinstance(storage, _Storage):
        raise WeightsError("a tensor without numbers")
    return _Stored(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: object) -> Any:
    return data


# The C unpickler would call what is on its stack and reserve memory for any index.
class _Reader(pickle._Unpickler):
    """Reads the pickle of an archive; every class that it names becomes a :class:`_Thing`."""

    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder
        self.things: dict[tuple[str, str], Any] = {}
        self.storages: dict[tuple[str, Any], _Storage] = {}

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

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        module, name = kind.full
        dtype = _TYPES.get(name) if module in ("torch", "torch.storage") else None
        if (key, dtype) not in self.storages:
            self.storages[key, dtype] = _Storage(self.archive.read(f"{self.folder}data/{key}"), dtype)
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
        return _Reader(archive, folder).load()
