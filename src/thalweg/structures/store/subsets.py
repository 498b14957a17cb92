"""Fixed validation and nested training sets of a store, by parent, from one seeded permutation.

Parents come in an order that depends on the seed and their names alone. The first of them are held out until there
are as many frames as asked for; the frames of the others, parent after parent, are the training order. A training
set of n frames is the first n of it, so the smaller of two lies in the larger, and validation is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import SettingsError, StructureError
from thalweg.seeds import stream_seed
from thalweg.structures.store.reading import Store


@dataclass(frozen=True, eq=False)
class Partition:
    """Which frames of a store are for what."""

    training: NDArray[np.int64]
    """Frames to train on, in the order of which every training set is a beginning."""
    validation: NDArray[np.int64]
    """Frames held out, ascending; empty if none are."""

    def subset(self, frames: int) -> NDArray[np.int64]:
        """Return a training set: the first `frames` of the order.

        Raises:
            SettingsError: there are not so many.
        """
        if not 1 <= frames <= len(self.training):
            raise SettingsError(
                f"a training set of {frames} frames: allowed is 1 to {len(self.training)} (besides "
                f"{len(self.validation)} held out)"
            )
        return self.training[:frames]


def partition(store: Store, held_out: float | int, seed: int) -> Partition:
    """Hold out whole parents of a store and put the others into a nested order.

    Args:
        store: the store.
        held_out: frames to hold out, at least: a fraction from 0 to below 1 or a whole number; 0 for none.
        seed: root seed.

    Raises:
        SettingsError: `held_out` is out of range.
        StructureError: something is to be held out, but all frames are of one parent.
    """
    whole = isinstance(held_out, int) and not isinstance(held_out, bool)
    if not (0 <= held_out < len(store) if whole else isinstance(held_out, float) and 0 <= held_out < 1):
        raise SettingsError(
            f"held_out is {held_out!r}: allowed is a fraction from 0 to below 1 or a whole number from 0 to "
            f"{len(store) - 1} (there are {len(store)} frames)"
        )
    names = store.parent_names()
    if held_out and len(names) < 2:
        raise StructureError(
            f"{store.path}: all {len(store)} frames are of one parent, {names[0]!r}, and a parent is never on both "
            "sides: hold out frames of another file"
        )
    keys = np.array([stream_seed(seed, "partition by parent", name) for name in names], dtype=np.int64)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.lexsort((np.array(names), keys))] = np.arange(len(names))
    ranks = rank[np.asarray(store.arrays["parents"])]
    order = np.argsort(ranks, kind="stable")
    ends = np.cumsum(np.bincount(ranks, minlength=len(names)))  # frames up to and with each parent
    target = held_out if whole else held_out * len(store)
    taken = 0 if not held_out else min(int(np.searchsorted(ends, target)), len(names) - 2)
    cut = int(ends[taken]) if held_out else 0
    return Partition(training=order[cut:], validation=np.sort(order[:cut]))
