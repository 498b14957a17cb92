"""Frames of a store as training data: batches are gathered and their edges searched while the step before computes.

Nothing is kept of the edges, which are several times as large as the structures. One thread prepares the batch that
will be asked for next; what a batch holds follows from its number alone, so it is the same bits with and without the
thread. The seconds for which a step had to wait for its batch are counted. Called by force matching and replay.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from thalweg.errors import SettingsError, StructureError
from thalweg.potentials.contract import Potential
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Frames
from thalweg.structures.store import Store, open_store, partition
from thalweg.training.settings import StoreTrainSettings

_SAMPLE = 2000  # frames from which shifts, scale and the number of neighbours are measured
_PART = 4000  # frames checked at once

Batch = tuple[Frames, Edges]


@dataclass(frozen=True, eq=False)
class StoredSet:
    """Some frames of a store, in an order."""

    store: Store
    """The store."""
    chosen: NDArray[np.int64]
    """Places of the frames in the store."""

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def digest(self) -> str:
        """Digest of what training learns from: the store's checksums and the choice."""
        account = hashlib.blake2b(self.store.index.digest.encode(), digest_size=8)
        account.update(np.asarray(self.chosen, dtype="<i8").tobytes())
        return account.hexdigest()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Atoms of each frame."""
        return self.store.counts(self.chosen)

    def frames(self, places: Sequence[int]) -> Frames:
        """Return the frames at places of this set."""
        return self.store.select(self.chosen[np.asarray(places, dtype=np.int64)])

    def sample(self) -> Frames:
        """Return frames to measure scales on: the first, and a frame of every element that is not in them.

        Parents come in random order, so the first frames stand for all.
        """
        first = self.store.select(self.chosen[:_SAMPLE])
        missing = set(self.species()) - set(first.structures.numbers.tolist())
        parts = [first]
        for k in range(_SAMPLE, len(self)):
            if not missing:
                break
            here = missing & set(self.store.arrays["numbers"][self._atoms(k)].tolist())
            if here:
                parts.append(self.store.select(self.chosen[k : k + 1]))
                missing -= here
        return Frames.concatenate(parts)

    def _atoms(self, k: int) -> slice:
        offsets, frame = self.store.arrays["offsets"], self.chosen[k]
        return slice(int(offsets[frame]), int(offsets[frame + 1]))

    def species(self) -> list[int]:
        """Return the atomic numbers that occur, ascending."""
        return sorted({int(z) for part in self.parts() for z in part.structures.numbers.unique()})

    def parts(self) -> Iterator[Frames]:
        """Yield all frames, many at once."""
        for first in range(0, len(self), _PART):
            yield self.store.select(self.chosen[first : first + _PART])


def open_sets(settings: StoreTrainSettings, path: str | os.PathLike[str]) -> tuple[StoredSet, StoredSet | None]:
    """Open a store and choose the frames to train on and, where settings hold some out, to validate on.

    The whole store is read once, to check it: into memory where it stays, or to compare checksums.

    Raises:
        StructureError: no store, or a damaged one.
        SettingsError: sizes that the store does not have.
    """
    told = settings.store
    store = open_store(path, in_memory=told.in_memory)
    if not store.in_memory:
        store.verify()
    found = partition(store, told.validation, told.split_seed)
    training = found.training if told.frames is None else found.subset(told.frames)
    held = StoredSet(store, found.validation) if len(found.validation) else None
    return StoredSet(store, training), held


def whole_set(path: str | os.PathLike[str]) -> StoredSet:
    """Open a store and choose all of its frames, in its order; all of it is checked, as `open_sets` does.

    Raises:
        StructureError: no store, or a damaged one.
    """
    store = open_store(path, in_memory="auto")
    if not store.in_memory:
        store.verify()
    return StoredSet(store, np.arange(len(store), dtype=np.int64))


def check_stored(settings: StoreTrainSettings, frames: StoredSet) -> None:
    """Refuse a batch that the frames cannot fill.

    Raises:
        SettingsError: a batch larger than the number of frames, or a cap below the largest frame.
        StructureError: no frames.
    """
    if len(frames) == 0:
        raise StructureError(f"{frames.store.path}: no frames are left to train on: hold fewer out")
    batch, cap, largest = settings.optimiser.batch, settings.store.batch_atoms, int(frames.sizes.max())
    if cap is None and batch > len(frames):
        raise SettingsError(
            f"optimiser.batch is {batch}, but there are {len(frames)} training frames: allowed is 1 to {len(frames)}"
        )
    if cap is not None and cap < largest:
        raise SettingsError(
            f"store.batch_atoms is {cap}, but a training frame has {largest} atoms: allowed is {largest} or more"
        )


class StoredFrames:
    """Batches of a set with their edges, on a device and in a floating type."""

    def __init__(
        self, data: StoredSet, potential: Potential, device: torch.device, dtype: torch.dtype, *, ahead: bool = True
    ) -> None:
        self.data, self.waited, self._ahead = data, 0.0, ahead
        self._potential, self._device, self._dtype = potential, device, dtype
        self._sizes = data.sizes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._coming: tuple[list[int], Future[Batch]] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def atoms(self, chosen: Sequence[int]) -> int:
        """Return the number of atoms of the chosen frames."""
        return int(self._sizes[np.asarray(chosen, dtype=np.int64)].sum())

    def expect(self, chosen: list[int]) -> None:
        """Prepare a batch that will be asked for next, while the caller goes on; nothing without `ahead`."""
        self._coming = (chosen, self._pool.submit(self._prepare, chosen)) if chosen and self._ahead else None

    def select(self, chosen: list[int]) -> Batch:
        """Return the chosen frames and their edges; the time until they are there counts as waiting."""
        began = time.perf_counter()
        coming, self._coming = self._coming, None
        batch = coming[1].result() if coming is not None and coming[0] == chosen else self._prepare(chosen)
        self.waited += time.perf_counter() - began
        return batch

    def _prepare(self, chosen: list[int]) -> Batch:
        frames = self.data.frames(chosen).to(self._device, self._dtype)
        return frames, self._potential.edges(frames.structures)
