"""`Store`: labelled frames in flat arrays on the disk, mapped into memory or loaded; gathered when asked for.

Opening reads the index and the sizes of the files and maps them, whatever their length. A batch of frames is one
gather per array, without a loop over structures. Neighbour lists are not stored: they are several times as large as
the structures and depend on the cutoff, so whoever needs edges searches them per batch.
"""

from __future__ import annotations

import operator
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
from thalweg.structures.store.files import array_file, compare, load, mapped
from thalweg.structures.store.schema import StoreIndex, file_checksum, read_index

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
        return self._one(operator.index(k))

    def __iter__(self) -> Iterator[Frames]:
        return (self[k] for k in range(len(self)))

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

        The tensors are copies: what a caller writes into them does not reach the store.

        Raises:
            StructureError: an index outside 0 to `len(store) - 1`, or offsets or flags that the disk has damaged.
        """
        index = self._index(chosen)
        return self._one(index.item()) if len(index) == 1 else self._many(index)

    def _many(self, index: NDArray[np.int64]) -> Frames:
        """Gather frames: one call an array, because calls on small arrays cost more than their rows."""
        first, counts = self._atoms(index)
        arrays, rows = self.arrays, _ragged_rows(first, counts)
        for name in ("positions", "forces", "numbers"):  # memory is waited for once, not frame after frame: 10 % less
            arrays[name].take(first, axis=0, mode="clip")
        real, free, stress = arrays["positions"].dtype, arrays.get("free"), arrays.get("stress")
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite
            cell = arrays["cell"].take(index, axis=0).astype(real)
            stress = None if stress is None else stress.take(index, axis=0).astype(real)
        structures = Structures(
            positions=torch.from_numpy(arrays["positions"].take(rows, axis=0)),
            numbers=torch.from_numpy(arrays["numbers"].take(rows).astype(np.int64)),
            cell=torch.from_numpy(cell),
            pbc=self._flags("pbc", arrays["pbc"].take(index)),
            owner=torch.from_numpy(np.arange(len(index)).repeat(counts)),
            free=_all_free(len(rows)) if free is None else self._flags("free", free.take(rows)),
            ids=self._names("ids", "id_offsets", index),
        )
        return Frames(
            structures=structures,
            energy=torch.from_numpy(arrays["energy"].take(index)),
            forces=torch.from_numpy(arrays["forces"].take(rows, axis=0)),
            parents=self._names("parent_names", "parent_offsets", arrays["parents"].take(index).astype(np.int64)),
            stress=None if stress is None else torch.from_numpy(stress),
        )

    def _one(self, k: int) -> Frames:
        """Copy one frame: its rows lie together, so slices do, at a third of the fixed costs of gathering."""
        arrays = self.arrays
        first, last = arrays["offsets"].item(k), arrays["offsets"].item(k + 1)
        if not 0 <= first <= last <= self.index.atoms:
            raise _unordered(self.path, "offsets")
        real, free, stress = arrays["positions"].dtype, arrays.get("free"), arrays.get("stress")
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite
            cell = arrays["cell"][k : k + 1].astype(real)
            stress = None if stress is None else stress[k : k + 1].astype(real)
        structures = Structures(
            positions=torch.from_numpy(arrays["positions"][first:last].copy()),
            numbers=torch.from_numpy(arrays["numbers"][first:last].astype(np.int64)),
            cell=torch.from_numpy(cell),
            pbc=self._flags("pbc", arrays["pbc"][k : k + 1]),
            owner=torch.from_numpy(np.zeros(last - first, dtype=np.int64)),
            free=_all_free(last - first) if free is None else self._flags("free", free[first:last]),
            ids=self._names("ids", "id_offsets", k),
        )
        return Frames(
            structures=structures,
            energy=torch.from_numpy(arrays["energy"][k : k + 1].copy()),
            forces=torch.from_numpy(arrays["forces"][first:last].copy()),
            parents=self._names("parent_names", "parent_offsets", arrays["parents"].item(k)),
            stress=None if stress is None else torch.from_numpy(stress),
        )

    def parent_names(self) -> tuple[str, ...]:
        """Return the name of every parent; frame k has number `arrays["parents"][k]` among them."""
        return self._names("parent_names", "parent_offsets", np.arange(self.index.parents))

    def loaded(self) -> Self:
        """Return the store with all arrays in memory, their checksums checked.

        Raises:
            StructureError: a file that does not have its checksum.
        """
        arrays = {name: load(self.path, name, stored) for name, stored in self.index.arrays.items()}
        return type(self)(self.path, self.index, arrays, True)

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            StructureError: naming the first file that does not have its checksum.
        """
        for name, stored in self.index.arrays.items():
            compare(self.path, name, stored, file_checksum(array_file(self.path, name)))

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
        first, last = offsets.take(index), offsets.take(index + 1)
        counts = last - first
        furthest = np.maximum(np.maximum(first.view(np.uint64), last.view(np.uint64)), counts.view(np.uint64))
        if index.size and furthest.max() > self.index.atoms:
            raise _unordered(self.path, "offsets")
        return first, counts

    def _flags(self, name: str, bits: NDArray[np.uint8]) -> Tensor:
        """Return three truths for each byte."""
        try:
            return torch.from_numpy(_FLAGS.take(bits, axis=0))
        except IndexError:
            raise StructureError(
                f"{array_file(self.path, name)}: a byte above 7, where three bits are used: damaged; convert again"
            ) from None

    def _names(self, name: str, offsets: str, places: NDArray[np.int64] | int) -> tuple[str, ...]:
        bounds, text = self.arrays[offsets], self.arrays[name].data
        try:
            if isinstance(places, int):
                first, last = [bounds.item(places)], [bounds.item(places + 1)]
            else:
                begin = bounds.take(places)
                first, last = begin.tolist(), bounds.take(places + 1).tolist()
                if len(text):  # likewise waited for once
                    self.arrays[name].take(begin, mode="clip")
        except IndexError:  # frames were checked; the number of a parent comes from the disk
            raise StructureError(
                f"{array_file(self.path, 'parents')}: a parent that has no name: damaged; convert again"
            ) from None
        size, pairs = len(text), zip(first, last, strict=True)
        names = tuple([str(text[a:b], "utf-8", "replace") for a, b in pairs if 0 <= a <= b <= size])
        if len(names) < len(first):
            raise _unordered(self.path, offsets)
        return names


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
    arrays = {name: mapped(folder, name, stored) for name, stored in index.arrays.items()}
    for offsets, total in (("offsets", index.atoms), ("id_offsets", len(arrays["ids"]))):
        if int(arrays[offsets][0]) != 0 or int(arrays[offsets][-1]) != total:
            raise StructureError(
                f"{array_file(folder, offsets)}: offsets do not run from 0 to {total}: damaged; convert again"
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


def _all_free(atoms: int) -> Tensor:
    free = np.empty((atoms, 3), dtype=bool)
    free.fill(True)  # half as long as np.full takes
    return torch.from_numpy(free)


def _unordered(folder: Path, offsets: str) -> StructureError:
    return StructureError(f"{array_file(folder, offsets)}: offsets that do not ascend: damaged; convert again")


def _ragged_rows(first: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows first_k, …, first_k + size_k − 1 of all k, one after the other."""
    ends: NDArray[np.int64] = sizes.cumsum()
    return np.arange(int(ends[-1]) if len(ends) else 0) + (first - (ends - sizes)).repeat(sizes)
