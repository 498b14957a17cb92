"""Neighbour lists kept in few bytes, so that recomputation need not search again.

Seven bytes an edge instead of 28 (float32) or 40: edges are sorted by centre, so counts give the centres, and
lattice translations are small whole numbers. A list equal to the one before, order included, shares its storage.
Called by `unroll` and by the memory planner.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.structures.neighbours import Edges

_FAR = 127  # largest translation of one byte


class KeptEdges(NamedTuple):
    """A neighbour list, packed."""

    counts: Int[Tensor, " atoms"]
    """Edges of each atom."""
    neighbour: Int[Tensor, " edges"]
    """Index of the atom that sends."""
    shift: Int[Tensor, "edges 3"]
    """Lattice translations."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return sum(tensor.nbytes for tensor in self)

    def edges(self, dtype: torch.dtype) -> Edges:
        """Return the list as it was; `dtype` is the floating type of the structures."""
        atoms = torch.arange(len(self.counts), device=self.counts.device)
        centre = torch.repeat_interleave(atoms, self.counts.long(), output_size=len(self.neighbour))
        return Edges(centre=centre, neighbour=self.neighbour.long(), shift=self.shift.to(dtype))


def keep_edges(edges: Edges, atoms: int, before: KeptEdges | None = None) -> KeptEdges:
    """Return a list packed, sharing tensors with the one before where they are equal.

    Args:
        edges: sorted by centre.
        atoms: number of atoms of the batch.
        before: the list of the step before.
    """
    far = len(edges) > 0 and float(edges.shift.abs().max()) > _FAR
    packed = KeptEdges(
        torch.bincount(edges.centre, minlength=atoms).to(torch.int32),
        edges.neighbour.to(torch.int32),
        edges.shift.to(torch.int32 if far else torch.int8),
    )
    if before is None:
        return packed
    return KeptEdges(*(old if torch.equal(old, new) else new for old, new in zip(before, packed, strict=True)))
