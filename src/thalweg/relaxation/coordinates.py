"""Free coordinates: what a relaxation moves, as rows of three numbers with an owner each.

A relaxer sees only rows, the forces on them and their owners; it does not know whether a row is an atom or a
piece of the cell. `Positions` moves atoms in a fixed cell: one row per atom, rows are Cartesian positions
(Å), forces on fixed components are zero. A variable cell (`PositionsAndCell`) adds three rows per structure and
changes nothing else. `structures` is the reference that rows are measured from, one throughout a relaxation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.potentials.contract import Potential
from thalweg.relaxation.relaxer import largest_norm
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


@dataclass(frozen=True)
class FreeCoordinates(ABC):
    """A choice of what moves."""

    moves_cell: ClassVar[bool] = False
    """Whether the cell is among it."""

    @abstractmethod
    def rows(self, structures: Structures, reference: Structures | None = None) -> Float[Tensor, "rows 3"]:
        """Return the coordinates (Å) of the structures, measured from a reference: themselves where None."""

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

    def mask(self, structures: Structures, rows: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return the field with zeros on what is fixed."""
        return torch.where(self.free(structures), rows, 0.0)

    def escaped(
        self,
        structures: Structures,
        origin: Float[Tensor, "rows 3"],
        rows: Float[Tensor, "rows 3"],
        max_displacement: float,
    ) -> Bool[Tensor, " structures"]:
        """Return which structures have a row that is not finite or farther than `max_displacement` from `origin`."""
        moved = largest_norm(rows - origin, self.owner(structures), len(structures))
        return ~(moved <= max_displacement)  # NaN has escaped as well

    @abstractmethod
    def rigid_modes(self, structures: Structures) -> list[Float[Tensor, "modes rows 3"]]:
        """Return groups of rigid motions that may be null for a potential, orthonormal within each structure.

        The first group is translations; a second, rotations, is there if some structure is an isolated cluster.
        A structure that cannot perform a motion (fixed atoms, periodic) has zeros there.
        """


@dataclass(frozen=True)
class Positions(FreeCoordinates):
    """Atoms move, the cell does not."""

    def rows(self, structures: Structures, reference: Structures | None = None) -> Float[Tensor, "rows 3"]:
        """Return the positions, Å, whatever the reference."""
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
        return prediction.energy, self.mask(structures, prediction.forces)

    def rigid_modes(self, structures: Structures) -> list[Float[Tensor, "modes rows 3"]]:
        """Return three translations and, for isolated clusters, three rotations."""
        x, owner = structures.positions.detach(), structures.owner
        held = structures.total((~structures.free).to(x.dtype)) > 0  # structures 3
        count = structures.counts.to(x.dtype)
        unit = torch.eye(3, dtype=x.dtype, device=x.device)[:, None, :].expand(3, len(x), 3)  # modes rows 3
        translations = unit * (~held / count.sqrt()[:, None])[owner][None]
        groups = [translations]
        isolated = ~structures.pbc.any(dim=1) & ~held.any(dim=1) & (structures.counts > 1)
        if bool(isolated.any()):
            centre = structures.total(x) / count[:, None]
            arms = x - centre[owner]
            turns = torch.stack([torch.linalg.cross(unit[k], arms) for k in range(3)])
            groups.append(self._orthonormal(turns, structures) * isolated[owner][None, :, None])
        return groups

    @staticmethod
    def _orthonormal(modes: Float[Tensor, "modes rows 3"], structures: Structures) -> Float[Tensor, "modes rows 3"]:
        """Orthonormalise modes within each structure; one that depends on the others becomes zero."""
        done: list[Tensor] = []
        for mode in modes:
            size = structures.total(mode.square().sum(dim=1)).sqrt()
            for earlier in done:
                share = structures.total((earlier * mode).sum(dim=1))
                mode = mode - share[structures.owner, None] * earlier
            left = structures.total(mode.square().sum(dim=1)).sqrt()
            keep = left > 1e-6 * size
            factor = torch.where(keep, 1.0 / torch.where(keep, left, 1.0), 0.0)
            done.append(mode * factor[structures.owner, None])
        return torch.stack(done)
