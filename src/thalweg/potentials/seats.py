"""Seats: a ragged batch as a table of structures × seats, zeros where no atom sits.

Attention and fully connected networks work on such tables; what sits nowhere is masked or multiplied by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Seats:
    """Where each atom sits; without a mask the table is full."""

    seat: Int[Tensor, " atoms"]
    """Index along the flattened table, structure after structure."""
    structures: int
    """Rows of the table."""
    most: int
    """Seats of a row."""
    mask: Bool[Tensor, "structures 1 1 most"] | None
    """Which seats are taken; None where all are."""

    @staticmethod
    def of(structures: Structures, most: int | None = None) -> Seats:
        """Give every atom a seat, in the order of its structure.

        Args:
            structures: the batch.
            most: seats of a row, at least the atoms of the largest structure; by default just those.
        """
        n, counts = len(structures), structures.counts
        if most is None and n == 1:
            most = structures.positions.shape[0]  # as a shape, so that exports trace any number of atoms
        elif most is None:
            most = max(b - a for a, b in zip(structures.offsets[:-1], structures.offsets[1:], strict=True))
        first = torch.cumsum(counts, 0) - counts
        place = torch.arange(structures.numbers.shape[0], device=structures.device) - first[structures.owner]
        present = torch.arange(most, device=structures.device) < counts[:, None]
        full = n * most == len(structures.numbers)
        return Seats(structures.owner * most + place, n, most, None if full else present[:, None, None])

    def spread(self, x: Float[Tensor, "atoms channels"]) -> Float[Tensor, "structures most channels"]:
        """Return what the atoms carry by structure, zeros where no atom sits."""
        if self.mask is not None:
            x = x.new_zeros((self.structures * self.most, x.shape[1])).index_copy(0, self.seat, x)
        return x.view(self.structures, self.most, -1)

    def gather(self, x: Float[Tensor, "structures most channels"]) -> Float[Tensor, "atoms channels"]:
        """Return what sits where atoms are."""
        flat = x.reshape(self.structures * self.most, -1)
        return flat if self.mask is None else flat.index_select(0, self.seat)
