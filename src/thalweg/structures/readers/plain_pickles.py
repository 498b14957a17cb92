"""Pickled records of numbers, opened without running anything that they name.

The LMDBs of OC20 and OC22 hold pickles of torch_geometric's `Data`: dicts of tensors. A pickle names functions and
classes to call; here each of the few names that such records need stands for a small builder of this file, and any
other is refused by name before anything of the record is used. Tensors become numpy arrays that are checked against
the bytes at hand. Python's own unpickler in Python is used, since the one in C reserves memory that a damaged record
asks for.

Layouts: `pickle` of the standard library; torch's serialised storages as its `torch.serialization` writes them in the
old format (magic number, protocol, system, persistent id, keys, then element count and raw bytes).
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import StructureError

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    **{"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"},
    **{"IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?"},
}


class Record:
    """An object of a class that is not loaded: what it would have held."""

    def __init__(self) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array:
    """A numpy array or type on its way: numpy pickles an empty one and then its state."""

    def __init__(self, kind: str = "") -> None:
        self.kind, self.value = kind, np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        if self.kind:  # a type: (version, byte order, …)
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
            self.kind = (order if order in ("<", ">") else "") + self.kind.lstrip("<>=|")
            return
        _, shape, kind, by_column, raw = state
        self.value = _shaped(raw, kind, shape, "F" if by_column else "C")


class _Builder:
    """Something to call in place of what a pickle names; it has no state that a pickle could set."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *given: Any) -> Any:
        return self._build(*given)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("a function cannot be given a state")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function cannot be given a state")


def load_record(data: bytes) -> Any:
    """Open one pickled record.

    Returns:
        Plain containers, numbers, text, numpy arrays; objects of torch_geometric as `Record`.

    Raises:
        StructureError: it names anything but the numeric types that such records need, or it is damaged.
    """
    try:
        return settled(_Unpickler(io.BytesIO(data)).load(), 0)
    except StructureError:
        raise
    except (Exception, RecursionError) as error:  # a damaged pickle fails in as many ways as it has instructions
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise StructureError(f"a damaged pickle ({reason})") from error


def settled(value: Any, depth: int) -> Any:
    """Return arrays in place of what stood for them, down to a depth of 8."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, Record) and depth < 8:
        return {key: settled(part, depth + 1) for key, part in fields(value).items() if key != "_parent"}
    if isinstance(value, Mapping) and depth < 8:
        return {key: settled(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple) and depth < 8 and len(value) < 100_000:
        return [settled(part, depth + 1) for part in value]
    return value


def fields(record: Record) -> dict[str, Any]:
    """Return the fields of a `Data` record, of the older layout (flat) or the newer (`_store`, `_mapping`)."""
    state = record.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], Mapping):
        state = {**state[0], **(state[1] if isinstance(state[1], Mapping) else {})}
    if not isinstance(state, Mapping):
        raise StructureError("a pickled object without fields: the record is damaged")
    for inner in ("_store", "_mapping"):
        if isinstance(state.get(inner), Record):
            return fields(state[inner])
        if isinstance(state.get(inner), Mapping):
            return {str(key): value for key, value in state[inner].items()}
    return {str(key): value for key, value in state.items()}


class _Unpickler(pickle._Unpickler):
    """Finds builders only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the builder of a name.

        Raises:
            StructureError: there is none.
        """
        try:
            return _KNOWN[(module, name)]
        except KeyError:
            raise StructureError(
                f"the pickle asks for {module[:60]}.{name[:60]}, which is no plain data: refused, nothing was run"
            ) from None


class _StorageUnpickler(_Unpickler):
    """For a serialised storage: its persistent id names type, key and size."""

    def persistent_load(self, given: Any) -> Any:
        """Return the type and the size that the id names."""
        if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage":
            raise pickle.UnpicklingError("a storage without its id")
        return given[1], given[2], given[4]


def _storage(data: Any) -> NDArray[Any]:
    """Read a tensor's numbers in torch's old format."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage without its bytes")
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _TORCH_MAGIC or _Unpickler(file).load() != 1001:
        raise pickle.UnpicklingError("a storage of an unknown format")
    _Unpickler(file).load()  # byte order and sizes of the machine
    kind, key, count = _StorageUnpickler(file).load()
    if _Unpickler(file).load() != [key] or not isinstance(kind, str):
        raise pickle.UnpicklingError("a storage of several parts")
    written = int.from_bytes(file.read(8), "little")
    raw = file.read()
    if written != count or len(raw) != count * np.dtype(kind).itemsize:
        raise pickle.UnpicklingError(f"a storage of {count} numbers with {len(raw)} bytes: cut or damaged")
    return np.frombuffer(raw, dtype=kind)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> NDArray[Any]:
    if not isinstance(storage, np.ndarray) or len(size) != len(stride) or len(size) > 8:
        raise pickle.UnpicklingError("a tensor without its storage")
    if any(not isinstance(n, int) or n < 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor with a negative size")
    if 0 in size:
        return np.zeros(tuple(min(n, len(storage)) for n in size), dtype=storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    total = 1
    for n in size:
        total *= n
    if last >= len(storage) or total > len(storage):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} over {len(storage)} numbers")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), strides).copy()


def _shaped(raw: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    if not isinstance(kind, _Array) or np.dtype(kind.kind).kind not in "biuf" or not isinstance(raw, bytes | bytearray):
        raise pickle.UnpicklingError("an array of something else than numbers")
    flat = np.frombuffer(bytes(raw), dtype=kind.kind)
    return flat.reshape(tuple(int(n) for n in shape), order="F" if order == "F" else "C").copy()


def _dtype(kind: Any, *_: object) -> _Array:
    if not isinstance(kind, str) or np.dtype(kind).kind not in "biuf":
        raise pickle.UnpicklingError(f"an array of type {str(kind)[:20]!r}: allowed are numbers")
    return _Array(kind)


def _number(kind: Any, raw: Any) -> Any:
    return _shaped(raw, kind, ()).item()


def _encoded(text: Any, coding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or coding != "latin1":  # how bytes are written in old protocols
        raise pickle.UnpicklingError("text in place of bytes")
    return text.encode("latin1")


def _reconstructed(kind: Any, *_: object) -> Any:
    if kind is not Record:
        raise pickle.UnpicklingError("an object of an unknown class")
    return Record()


def _known() -> dict[tuple[str, str], Any]:
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("copyreg", "_reconstructor"): _Builder(_reconstructed),
        ("copy_reg", "_reconstructor"): _Builder(_reconstructed),
        ("builtins", "object"): _Builder(Record),
        ("_codecs", "encode"): _Builder(_encoded),
        ("torch", "Size"): _Builder(lambda sizes: tuple(sizes)),
        ("torch._utils", "_rebuild_tensor"): _Builder(_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
        ("torch.storage", "_load_from_bytes"): _Builder(_storage),
        ("numpy", "dtype"): _Builder(_dtype),
        ("numpy", "ndarray"): _Builder(lambda *_: _Array()),
    }
    for name in ("Data", "DataEdgeAttr", "DataTensorAttr"):
        known[("torch_geometric.data.data", name)] = Record
        known[("torch_geometric.data", name)] = Record
    for name in ("BaseStorage", "NodeStorage", "EdgeStorage", "GlobalStorage"):
        known[("torch_geometric.data.storage", name)] = Record
    for core in ("numpy.core", "numpy._core"):
        known[(f"{core}.multiarray", "_reconstruct")] = _Builder(lambda *_: _Array())
        known[(f"{core}.multiarray", "scalar")] = _Builder(_number)
        known[(f"{core}.numeric", "_frombuffer")] = _Builder(_shaped)
    known.update({("torch", name): kind for name, kind in _STORAGES.items()})
    return known


_KNOWN = _known()
