"""Structures whose cells differ: positions carried into one cell, and the strain between the cells as lengths.

For structures a and b with lattice vectors h_a and h_b (rows) that name the same lattice points,

    x' = x_a h_a⁻¹ h_b,      E = ½ (F Fᵀ − 1),  F = h_b⁻¹ h_a,      Δh = h_b E

x' are the positions of a in the cell of b and E is the strain of Green and Lagrange, which a rotation of a as a
whole leaves alone. Row k of Δh (Å) is how far lattice vector k of b moves under it: to first order the change of the
vector itself without the rotation. Called by `displacement`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures

_EMPTY = 1e-6  # Å³
_ROUNDING = 1e-6  # relative: eight times what a cell loses on its way through float32


def cells_differ(a: Structures, b: Structures) -> bool:
    """Return whether a cell of a is another than that of b, beyond single precision, or may move under differentiation.

    A relaxation in float32 that keeps the cell ends in the cell of its float64 reference, though not to the last bit.
    """
    if a.cell.requires_grad or b.cell.requires_grad:
        return True
    return bool(((a.cell - b.cell).abs() > _ROUNDING * b.cell.abs().amax(dim=(1, 2), keepdim=True)).any())


def carried(a: Structures, b: Structures) -> Structures:
    """Return the structures of a in the cells of b, each atom at the fractions of the lattice vectors it has in a.

    Raises:
        StructureError: a cell without volume, in which there are no such fractions.
    """
    inverse = torch.linalg.inv(_checked(a))
    positions = (a.positions.unsqueeze(1) @ (inverse @ _checked(b))[a.owner]).squeeze(1)
    return a.with_positions(positions).with_cell(b.cell)


def lattice_displacements(a: Structures, b: Structures) -> Float[Tensor, "structures 3 3"]:
    """Return Δh of each structure, Å, one row per lattice vector of b; differentiable to both cells.

    Raises:
        StructureError: as `carried`.
    """
    stretch = torch.linalg.solve(_checked(b), _checked(a))
    unit = torch.eye(3, dtype=stretch.dtype, device=stretch.device)
    return b.cell @ (0.5 * (stretch @ stretch.transpose(1, 2) - unit))


def _checked(structures: Structures) -> Float[Tensor, "structures 3 3"]:
    empty = torch.linalg.det(structures.cell.detach()).abs() < _EMPTY
    for k in empty.nonzero().squeeze(1).tolist()[:1]:
        raise StructureError(
            f"structure {structures.ids[k]!r}: its cell has no volume ({structures.cell[k].tolist()}) and differs from "
            "the one it is compared with: give both the same cell, or three independent lattice vectors"
        )
    return structures.cell
