"""Free coordinates: what a relaxation moves, as rows of three numbers with an owner each.

A relaxer sees only rows, the forces on them and their owners; it does not know whether a row is an atom or a
piece of the cell. `Positions` moves atoms in a fixed cell: one row per atom, rows are Cartesian positions
(Å), forces on fixed components are zero. A variable cell adds three rows per structure and changes nothing
else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


@dataclass(frozen=True)
class FreeCoordinates(ABC):
    """A choice of what moves."""

    @abstractmethod
    def rows(self, structures: Structures) -> Float[Tensor, "rows 3"]:
        """Return the coordinates of the structures (Å for atoms)."""

    @abstractmethod
    def owner(self, structures: Structures) -> Int[Tensor, " rows"]:
        """Return the index of the structure that each row belongs to, ascending."""

    @abstractmethod
    def free(self, structures: Structures) -> Bool[Tensor, "rows 3"]:
        """Return which components may move; forces on the others are zero."""

    @abstractmethod
    def place(self, structures: Structures, rows: Float[Tensor, "rows 3"]) -> Structures:
        """Return the structures at these coordinates; differentiable in `rows`."""

    @abstractmethod
    def evaluate(
        self,
        potential: Potential,
        structures: Structures,
        rows: Float[Tensor, "rows 3"],
        *,
        edges: Edges | None = None,
        graph: bool = False,
    ) -> tuple[Float[Tensor, " structures"], Float[Tensor, "rows 3"]]:
        """Return energy (eV) per structure and force per row (eV/Å), zero on what is fixed.

        With `graph=True` both are differentiable to `rows` and to the potential's parameters.
        """


@dataclass(frozen=True)
class Positions(FreeCoordinates):
    """Atoms move, the cell does not."""

    def rows(self, structures: Structures) -> Float[Tensor, "rows 3"]:
        """Return the positions, Å."""
        return structures.positions

    def owner(self, structures: Structures) -> Int[Tensor, " rows"]:
        """Return the owner of each atom."""
        return structures.owner

    def free(self, structures: Structures) -> Bool[Tensor, "rows 3"]:
        """Return the free mask of the atoms."""
        return structures.free

    def place(self, structures: Structures, rows: Float[Tensor, "rows 3"]) -> Structures:
        """Return the structures with these positions."""
        return structures.with_positions(rows)

    def evaluate(
        self,
        potential: Potential,
        structures: Structures,
        rows: Float[Tensor, "rows 3"],
        *,
        edges: Edges | None = None,
        graph: bool = False,
    ) -> tuple[Float[Tensor, " structures"], Float[Tensor, "rows 3"]]:
        """Return energies (eV) and the forces (eV/Å) on free components."""
        prediction = potential(structures.with_positions(rows), edges=edges, graph=graph)
        return prediction.energy, torch.where(structures.free, prediction.forces, 0.0)
