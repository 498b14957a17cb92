"""Batches of frames with a cap on their atoms, in a new order every epoch, from any place of any epoch.

    epoch e:  a permutation keyed by (seed, e); frames go into a batch until the next would pass the cap

The batches of an epoch follow from sizes, cap, seed and epoch alone. So the state of a run is (epoch, position), and
a run that goes on from there sees the same batches bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import SettingsError, StructureError
from thalweg.seeds import numpy_stream


@dataclass(frozen=True, eq=False)
class AtomBatches:
    """The endless series of batches over some frames."""

    sizes: NDArray[np.int64]
    """Atoms of each frame."""
    cap: int
    """Most atoms of a batch."""
    seed: int
    """Root seed."""
    purpose: str = "atom batches"
    """Name of the stream of epochs."""

    def __post_init__(self) -> None:
        if len(self.sizes) == 0:
            raise StructureError("there are no frames to make batches of: give at least one")
        if int(self.sizes.max()) > self.cap:
            raise SettingsError(
                f"a batch of {self.cap} atoms at most, but a frame has {int(self.sizes.max())}: raise the cap to that "
                "or more, or leave larger frames out"
            )

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], ...]:
        """Return the batches of an epoch: places in `sizes`, each exactly once."""
        return _epoch(self, epoch)

    def place(self, batch: int) -> tuple[int, int]:
        """Return (epoch, position) of batch number `batch` of the whole series, from 0."""
        epoch = 0
        while batch >= (size := _number(self, epoch)):
            batch, epoch = batch - size, epoch + 1
        return epoch, batch

    def after(self, epoch: int, position: int) -> Iterator[tuple[tuple[int, int], NDArray[np.int64]]]:
        """Yield batches from a place on, each with the place at which to go on after it.

        Args:
            epoch: number of the epoch, from 0.
            position: batches of it that are done.

        Raises:
            SettingsError: a place that the epoch does not have.
        """
        if epoch < 0 or not 0 <= position <= len(self.epoch(max(epoch, 0))):
            raise SettingsError(f"there is no batch {position} in epoch {epoch}: its batches are {len(self.epoch(0))}")
        while True:
            batches = self.epoch(epoch)
            for k in range(position, len(batches)):
                yield (epoch, k + 1), batches[k]
            epoch, position = epoch + 1, 0


@lru_cache(maxsize=4)
def _epoch(batches: AtomBatches, epoch: int) -> tuple[NDArray[np.int64], ...]:
    order = numpy_stream(batches.seed, batches.purpose, epoch).permutation(len(batches.sizes))
    ends = np.cumsum(batches.sizes[order])
    cuts, begin, before = [], 0, 0
    while begin < len(order):
        begin = int(np.searchsorted(ends, before + batches.cap, side="right"))
        before = int(ends[begin - 1])
        cuts.append(begin)
    return tuple(np.split(order, cuts[:-1]))


@lru_cache(maxsize=4096)
def _number(batches: AtomBatches, epoch: int) -> int:
    return len(batches.epoch(epoch))
