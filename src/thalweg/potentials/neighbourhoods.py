"""Neighbourhoods: the edges of a batch as one row of slots per atom, for products instead of scatters.

An atom with fewer neighbours than the fullest one has empty slots. An empty slot points at the atom itself,
displaced to the cutoff, where every radial function and its first three derivatives vanish: it adds exactly
nothing, and no mask is needed downstream. Message-passing potentials sum over slots by matrix products, which
store no value per edge and channel but the features gathered, and are differentiated by products again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Who sits in which slot, and where."""

    neighbour: Int[Tensor, "atoms slots"]
    """Index along the atom axis of the neighbour; the atom itself in an empty slot."""
    vectors: Float[Tensor, "3 atoms slots"]
    """From atom to neighbour, Å, components first; differentiable to positions and cell."""

    def gather(self, features: Float[Tensor, "atoms width"]) -> Float[Tensor, "atoms slots width"]:
        """Return the features of the neighbours."""
        atoms, slots = self.neighbour.shape
        return features.index_select(0, self.neighbour.view(-1)).view(atoms, slots, -1)


def lay_out(structures: Structures, edges: Edges, cutoff: float) -> Neighbourhoods:
    """Lay out edges (sorted by centre) as rows of slots; at least one slot, so that lone atoms need no care.

    Args:
        structures: the batch.
        edges: its neighbour list.
        cutoff: r_c, Å: how far an empty slot is displaced.
    """
    x, cell = structures.positions, structures.cell
    atoms, device = x.shape[0], structures.device  # shapes, not len(): exports trace this with any number of atoms
    with torch.no_grad():
        counts = torch.bincount(edges.centre, minlength=atoms)
        fullest = counts.max().clamp(min=1)
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        slots: Any = fullest if tracing else int(fullest)  # as a tensor it stays variable in a trace
        first = torch.cumsum(counts, 0) - counts
        place = torch.arange(edges.centre.shape[0], device=device) + (
            torch.arange(atoms, device=device) * slots - first
        ).index_select(0, edges.centre)
        neighbour = torch.arange(atoms, device=device).repeat_interleave(slots)
        neighbour = neighbour.index_copy(0, place, edges.neighbour)
        shift = x.new_zeros((atoms * slots, 3)).index_copy(0, place, edges.shift)
        parked = x.new_tensor([cutoff, 0.0, 0.0]).repeat(atoms * slots, 1)
        parked = parked.index_fill(0, place, 0.0).view(atoms, slots, 3)
    offset = shift.view(atoms, slots, 3) @ cell.index_select(0, structures.owner) + parked
    vectors = x.index_select(0, neighbour).view(atoms, slots, 3) - x.unsqueeze(1) + offset
    return Neighbourhoods(neighbour.view(atoms, slots), vectors.permute(2, 0, 1).contiguous())
