"""How far one structure is from another: minimum image, drift, assignment, strain and ΔQ.

    Δx_i = x_a[p_i] − x_b[i] + n_i·cell − t,      ΔQ = sqrt(Σ_i m_i |Δx_i|² + (M/12) Σ_k |Δh_k|²)   (amu^½ Å)

with p a permutation within each species, n_i the periodic image and t = Σ m Δx / Σ m the mass-weighted drift.
They are found together, without a graph (`assignment`); p and n are constant under differentiation, t is
differentiated. Rows follow the atoms of b, the reference, whose cell is used. A structure with any fixed
component is held in place by it, so nothing is drift there and none is removed.

Where the cells differ, a is first carried into the cell of b, and Δh_k is how far lattice vector k moves (`strain`).
The matter of the cell, its mass M spread evenly over it, would move by as much if it followed the lattice: the mean
square of a uniform density in a cell about its centre is Σ_k |Δh_k|²/12. In one cell that term is zero, and the
figures are those of the positions alone. Called by objectives, the same-basin test and `describe`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.structures.assignment import match_structures
from thalweg.structures.batch import Structures
from thalweg.structures.lattice import shortest_images
from thalweg.structures.strain import carried, cells_differ, lattice_displacements


def minimum_image(
    vectors: Float[Tensor, "n 3"], cell: Float[Tensor, "n 3 3"], pbc: Bool[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Return the shortest periodic image of each vector: exact in any cell, however skewed.

    Args:
        vectors: displacements, Å.
        cell: lattice vectors as rows, Å, for each vector.
        pbc: which rows are periodic, for each vector.

    Returns:
        v + n·cell, Å; differentiable to vectors and cell, the whole numbers n being constant.
    """
    numbers = np.zeros((len(vectors), 3), dtype=np.int64)
    cells = cell.detach().cpu().double().numpy().reshape(-1, 9)
    periodic = pbc.cpu().numpy()
    plain = vectors.detach().cpu().double().numpy()
    kinds, kind = np.unique(np.hstack([cells, periodic]), axis=0, return_inverse=True)
    for k in range(len(kinds)):
        rows = np.flatnonzero(kind.reshape(-1) == k)
        numbers[rows] = shortest_images(plain[rows], cells[rows[0]].reshape(3, 3), periodic[rows[0]])
    shift = torch.from_numpy(numbers).to(vectors)
    return vectors + (shift.unsqueeze(1) @ cell).squeeze(1)


def assign(a: Structures, b: Structures, *, any_origin: bool = False) -> Int[Tensor, " atoms"]:
    """Return which atom of a is the partner of each atom of b, by optimal assignment within each species.

    The assignment (Hungarian, on squared minimum-image distances) and the drift depend on each other; they
    are taken in turn to a fixed point, from no drift and from that of the atoms as ordered. The fixed point
    is the best that these starts reach; a copy that lies a whole vector of the host crystal away with its
    atoms in another order is found only with `any_origin`. Structures with a fixed component have no drift.

    Args:
        a: the structures compared, Å; carried into the cells of b where those differ.
        b: the references: same number of structures, same species counts in each; their cells are used.
        any_origin: also start from the translation that carries the defect of b onto that of a.

    Returns:
        Indices along the atom axis: `a.positions[assign(a, b)]` follows `b.positions`.

    Raises:
        StructureError: the batches cannot be compared (naming the structure), or a position is not finite.
    """
    return match_structures(_in_cell_of(b, a), b, assign=True, any_origin=any_origin)[0]


def displacements(
    a: Structures, b: Structures, *, assign: bool = True, any_origin: bool = False
) -> Float[Tensor, "atoms 3"]:
    """Return x_a − x_b at the minimum image, without mass-weighted drift, after per-species assignment.

    Args:
        a: the structures compared, Å.
        b: the references; see `assign`.
        assign: find the best partners; without it atom i of a is atom i of b.
        any_origin: see `assign`.

    Returns:
        Å, one row per atom of b, in the cell of b; differentiable to positions and cells of both.

    Raises:
        StructureError: as `assign`; without assignment also where the order of species differs.
    """
    a = _in_cell_of(b, a)
    partner, images = match_structures(a, b, assign=assign, any_origin=any_origin)
    offset = (images.unsqueeze(1) @ b.cell[b.owner]).squeeze(1)
    moved = a.positions.index_select(0, partner) - b.positions + offset
    masses = b.masses.unsqueeze(1)
    drift = b.total(masses * moved) / b.total(masses)  # structures 3
    held = _any_fixed(a) | _any_fixed(b)
    return moved - torch.where(held.unsqueeze(1), 0.0, drift)[b.owner]


def delta_q(
    a: Structures, b: Structures, *, assign: bool = True, any_origin: bool = False
) -> Float[Tensor, " structures"]:
    """Return ΔQ of each structure, amu^½ Å, strain between the cells included; arguments and errors as `displacements`.

    Its gradient at ΔQ = 0, where it has a cusp, is zero.
    """
    moved = displacements(a, b, assign=assign, any_origin=any_origin)
    square = b.total(b.masses * moved.square().sum(dim=1))
    if cells_differ(a, b):
        square = square + b.total(b.masses) / 12 * lattice_displacements(a, b).square().sum(dim=(1, 2))
    return _root(square)


def largest_displacement(
    a: Structures, b: Structures, *, assign: bool = True, any_origin: bool = False
) -> Float[Tensor, " structures"]:
    """Return the largest of |Δx_i| and |Δh_k| of each structure, Å; arguments and errors as `displacements`."""
    norms = _root(displacements(a, b, assign=assign, any_origin=any_origin).square().sum(dim=1))
    atoms = norms.new_zeros(len(b)).scatter_reduce(0, b.owner, norms, reduce="amax", include_self=True)
    if not cells_differ(a, b):
        return atoms
    return torch.maximum(atoms, _root(lattice_displacements(a, b).square().sum(dim=2)).amax(dim=1))


def _in_cell_of(b: Structures, a: Structures) -> Structures:
    return carried(a, b) if len(a) == len(b) and cells_differ(a, b) else a  # unequal numbers are refused later


def _root(squares: Tensor) -> Tensor:
    """Return the square root with derivative zero at zero."""
    positive = squares > 0
    # the inner where keeps the derivative finite on the branch that is not used
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def _any_fixed(structures: Structures) -> Bool[Tensor, " structures"]:
    return structures.total((~structures.free).any(dim=1).to(structures.dtype)) > 0
