"""Neighbour lists: which pairs of atoms (and periodic images) lie within a cutoff, and the vectors between them.

The search runs without a graph (vesin, one call per structure); the vectors are differentiable with respect to
positions and cell:

    r_e = x[neighbour_e] + shift_e · cell[owner] − x[centre_e]

Edges are sorted by centre. Both directions of every pair are listed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import vesin
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Edges:
    """Directed pairs within a cutoff, sorted by centre."""

    centre: Int[Tensor, " edges"]
    """Index along the atom axis of the atom that receives."""
    neighbour: Int[Tensor, " edges"]
    """Index along the atom axis of the atom that sends."""
    shift: Float[Tensor, "edges 3"]
    """Lattice translation of the neighbour, whole numbers in the floating type of the structures."""

    def __len__(self) -> int:
        return self.centre.shape[0]

    def vectors(self, structures: Structures) -> Float[Tensor, "edges 3"]:
        """Return the vectors from centre to neighbour, Å; differentiable to positions and cell."""
        cell = structures.cell[structures.owner[self.centre]]  # edges 3 3
        offset = (self.shift.unsqueeze(1) @ cell).squeeze(1)
        x = structures.positions
        return x.index_select(0, self.neighbour) - x.index_select(0, self.centre) + offset


@torch.no_grad()
def find_edges(structures: Structures, cutoff: float) -> Edges:
    """Find all pairs closer than `cutoff` (Å) in every structure, periodic images included.

    Positions need not lie inside the cell. The order of the edges depends on each structure alone, so a
    structure has the same edges in any batch. A structure with a position that is not finite has no edges: what
    became of it shows in its positions, and its companions go on.
    """
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    positions = structures.positions.detach().double()
    cell = structures.cell.detach().double()
    lost = set(structures.owner[~torch.isfinite(positions).all(dim=1)].tolist())
    centres, neighbours, shifts = [], [], []
    for k, (start, stop) in enumerate(zip(structures.offsets[:-1], structures.offsets[1:], strict=True)):
        if k in lost:
            continue
        i, j, shift = search.compute(positions[start:stop], cell[k], structures.pbc[k], quantities="ijS", copy=True)
        centres.append(i.long() + start)
        neighbours.append(j.long() + start)
        shifts.append(shift)
    if not centres:
        none = structures.owner.new_zeros(0)
        return Edges(centre=none, neighbour=none, shift=structures.positions.new_zeros((0, 3)))
    return Edges(
        centre=torch.cat(centres),
        neighbour=torch.cat(neighbours),
        shift=torch.cat(shifts).to(dtype=structures.dtype),
    )
