"""`Store`: labelled frames in flat arrays on the disk, mapped into memory or loaded; gathered when asked for.

Opening reads the index and the sizes of the files and maps them, whatever their length. A batch of frames is one
gather per array, without a loop over structures. Neighbour lists are not stored: they are several times as large as
the structures and depend on the cutoff, so whoever needs edges searches them per batch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import psutil
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.structures.store.schema import Stored, StoreIndex, file_checksum, read_index

InMemory = bool | Literal["auto"]
MEMORY_SHARE = 0.5
"""Share of the free memory up to which `auto` loads a store."""

_FLAGS = (np.arange(8)[:, None] & np.array([1, 2, 4])).astype(bool)  # three bits as three truths


@dataclass(frozen=True, eq=False)
class Store:
    """Labelled frames; `len()` is their number, `store[k]` and `store.select(…)` give them as `Frames`."""

    path: Path
    """The folder."""
    index: StoreIndex
    """What the folder holds."""
    arrays: Mapping[str, NDArray[Any]]
    """The arrays by name, mapped or in memory."""
    in_memory: bool
    """Whether the arrays were loaded, which also checked their checksums."""

    def __len__(self) -> int:
        return self.index.frames

    def __getitem__(self, k: int) -> Frames:
        if not 0 <= k < len(self):
            raise IndexError(f"frame {k} of {len(self)}: allowed is 0 to {len(self) - 1}")
        return self.select([k])

    def __iter__(self) -> Iterator[Frames]:
        return (self.select([k]) for k in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as a path, not as the arrays."""
        return _reopened, (self.path, self.in_memory)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the frames."""
        return torch.float32 if self.index.dtype == "float32" else torch.float64

    def counts(self, chosen: Sequence[int] | Int[Tensor, " chosen"] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of atoms of the chosen frames."""
        index = self._index(chosen)
        return self._atoms(index)[1]

    def select(self, chosen: Sequence[int] | Int[Tensor, " chosen"] | NDArray[np.int64]) -> Frames:
        """Return the chosen frames, in the order given; indices may repeat.

        Raises:
            StructureError: an index outside 0 to `len(store) - 1`, or offsets that the disk has damaged.
        """
        index = self._index(chosen)
        try:
            return self._gathered(index, *self._atoms(index))
        except IndexError:  # only what the disk has damaged points outside
            raise StructureError(
                f"{_file(self.path, 'offsets')} (or free, pbc): points outside: damaged; convert again"
            ) from None

    def _gathered(self, index: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]) -> Frames:
        arrays = self.arrays
        rows = _ragged_rows(first, counts)
        # cells and labels take the floating type of the positions, energies keep their own until training casts them
        real = self.dtype
        free = arrays.get("free")
        structures = Structures(
            positions=torch.from_numpy(arrays["positions"].take(rows, axis=0)),
            numbers=torch.from_numpy(arrays["numbers"].take(rows).astype(np.int64)),
            cell=torch.from_numpy(arrays["cell"].take(index, axis=0)).to(real),
            pbc=torch.from_numpy(_FLAGS.take(arrays["pbc"].take(index), axis=0)),
            owner=torch.from_numpy(np.repeat(np.arange(len(index)), counts)),
            free=torch.ones((len(rows), 3), dtype=torch.bool)
            if free is None
            else torch.from_numpy(_FLAGS.take(free.take(rows), axis=0)),
            ids=self._names("ids", "id_offsets", index),
        )
        stress = arrays.get("stress")
        return Frames(
            structures=structures,
            energy=torch.from_numpy(arrays["energy"].take(index)),
            forces=torch.from_numpy(arrays["forces"].take(rows, axis=0)),
            parents=self._names("parent_names", "parent_offsets", arrays["parents"].take(index).astype(np.int64)),
            stress=None if stress is None else torch.from_numpy(stress.take(index, axis=0)).to(real),
        )

    def parent_names(self) -> tuple[str, ...]:
        """Return the name of every parent; frame k has number `arrays["parents"][k]` among them."""
        return self._names("parent_names", "parent_offsets", np.arange(self.index.parents))

    def loaded(self) -> Self:
        """Return the store with all arrays in memory, their checksums checked.

        Raises:
            StructureError: a file that does not have its checksum.
        """
        arrays = {name: _load(self.path, name, stored) for name, stored in self.index.arrays.items()}
        return type(self)(self.path, self.index, arrays, True)

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            StructureError: naming the first file that does not have its checksum.
        """
        for name, stored in self.index.arrays.items():
            _compare(self.path, name, stored, file_checksum(_file(self.path, name)))

    def _index(self, chosen: Sequence[int] | Tensor | NDArray[np.int64]) -> NDArray[np.int64]:
        index = np.asarray(chosen, dtype=np.int64)
        # a negative index is a huge one without its sign: one pass finds both kinds, and passes are what costs here
        if index.size and index.view(np.uint64).max() >= len(self):
            wrong = int(index[(index < 0) | (index >= len(self))][0])
            raise StructureError(f"{self.path}: there is no frame {wrong}: allowed is 0 to {len(self) - 1}")
        return index

    def _atoms(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the atoms of frames begin and how many there are."""
        offsets = self.arrays["offsets"]
        first = offsets.take(index)
        counts = offsets.take(index + 1) - first
        if index.size and np.maximum(first.view(np.uint64), counts.view(np.uint64)).max() > self.index.atoms:
            raise StructureError(f"{_file(self.path, 'offsets')}: offsets that do not ascend: damaged; convert again")
        return first, counts

    def _names(self, name: str, offsets: str, index: NDArray[np.int64]) -> tuple[str, ...]:
        bounds, text = self.arrays[offsets], self.arrays[name].data
        names = []
        try:
            ends = zip(bounds.take(index).tolist(), bounds.take(index + 1).tolist(), strict=True)
        except IndexError:  # frames were checked; the number of a parent comes from the disk
            raise StructureError(
                f"{_file(self.path, 'parents')}: a parent that has no name: damaged; convert again"
            ) from None
        for first, last in ends:
            if not 0 <= first <= last <= len(text):
                raise StructureError(f"{_file(self.path, offsets)}: offsets that do not ascend: damaged; convert again")
            names.append(str(text[first:last], "utf-8", "replace"))
        return tuple(names)


def open_store(
    path: str | os.PathLike[str], *, in_memory: InMemory = False, memory_share: float = MEMORY_SHARE
) -> Store:
    """Open a store.

    Args:
        path: the folder.
        in_memory: False maps the files; True loads them, which also checks their checksums; `auto` loads them where
            they take no more than a share of the memory that is free now.
        memory_share: that share, above 0 and up to 1.

    Raises:
        StructureError: no store, an unfinished one, another schema, a damaged index, a file that is missing or has
            another size, or (loaded) another checksum.
        SettingsError: `in_memory` is True and there is not that much free memory, or `memory_share` is out of range.
    """
    if not 0 < memory_share <= 1:
        raise SettingsError(f"memory_share is {memory_share}: allowed is above 0 and up to 1")
    folder = Path(path)
    index = read_index(folder)
    arrays = {name: _mapped(folder, name, stored) for name, stored in index.arrays.items()}
    for offsets, total in (("offsets", index.atoms), ("id_offsets", len(arrays["ids"]))):
        if int(arrays[offsets][0]) != 0 or int(arrays[offsets][-1]) != total:
            raise StructureError(
                f"{_file(folder, offsets)}: offsets do not run from 0 to {total}: damaged; convert again"
            )
    store = Store(folder, index, arrays, False)
    if in_memory is False:
        return store
    free = psutil.virtual_memory().available
    if in_memory is True and index.bytes > free:
        raise SettingsError(
            f"{folder}: {index.bytes / 1e9:.2f} GB do not fit into {free / 1e9:.2f} GB of free memory: "
            "leave the store mapped (in_memory false or auto)"
        )
    return store if in_memory == "auto" and index.bytes > memory_share * free else store.loaded()


def _reopened(path: Path, in_memory: bool) -> Store:
    return open_store(path, in_memory=in_memory)


def _ragged_rows(first: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows first_k, …, first_k + size_k − 1 of all k, one after the other."""
    if len(sizes) == 1:
        return np.arange(first[0], first[0] + sizes[0])
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - sizes), sizes)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _mapped(folder: Path, name: str, stored: Stored) -> NDArray[Any]:
    file = _file(folder, name)
    try:
        size = file.stat().st_size
        if size != stored.bytes or size != int(np.prod(stored.shape)) * np.dtype(stored.type).itemsize:
            raise StructureError(
                f"{file}: {size} bytes where the index says {stored.bytes}: truncated or changed; convert again"
            )
        if size == 0:  # nothing can be mapped
            return np.empty(stored.shape, dtype=stored.type)
        return np.asarray(np.memmap(file, dtype=stored.type, mode="r", shape=stored.shape))
    except FileNotFoundError:
        raise StructureError(f"{file}: the file is missing from the store: convert the source again") from None
    except OSError as error:
        raise StructureError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error


def _load(folder: Path, name: str, stored: Stored) -> NDArray[Any]:
    file = _file(folder, name)
    try:
        data = np.fromfile(file, dtype=stored.type)
    except OSError as error:
        raise StructureError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error
    _compare(folder, name, stored, hashlib.blake2b(data.data, digest_size=16).hexdigest())
    return data.reshape(stored.shape)


def _compare(folder: Path, name: str, stored: Stored, found: str) -> None:
    if found != stored.blake2b:
        raise StructureError(
            f"{_file(folder, name)}: checksum {found[:12]}… where the index says {stored.blake2b[:12]}…: the file is "
            "damaged; copy or convert it again"
        )
