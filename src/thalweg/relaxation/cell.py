"""A cell that moves: positions and strain as the rows of one relaxation, as ASE's FrechetCellFilter has them.

A structure with lattice vectors h (rows) and n atoms has n + 3 rows: its atoms, then its strain. With y the
rows of the atoms, R the three rows of the strain and s the scale (n unless set),

    U = P (M ∘ ½ (R + Rᵀ)) P / s,    F = exp U,    x = y F,    h' = h F

so y are positions in the undeformed reference cell and R/s is the logarithm of the deformation gradient, in
which M leaves out fixed components and P projects on the span of the periodic lattice vectors. Forces on rows
are −∂(E + p V)/∂rows: with f the Cartesian forces, V the volume, σ the stress and L(U, ·) the derivative of the
matrix exponential at U (symmetric U makes it its own adjoint)

    f_y = f F,    f_R = M ∘ sym(P G P) / s,    G = L(U, −V (σ + p 1) F⁻¹)

That holds for energies that do not change when a structure is turned, as those of every physical potential.
Every method but `rows` takes the reference as `structures`: there, rows are the positions and zeros. A path keeps one
reference, its start, and so does all that is derived from it (a split's second part, the adjoint at X*). With another
reference a relaxation would end in the same minimum, perhaps turned as a whole; where strains are fixed they would
be others, and so would the minimum.

Chosen by `Path.coordinates`; nothing else in the relaxation knows that a row may be a piece of the cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.relaxer import largest_norm
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

MAX_STRAIN = 1.0
"""Largest ‖U‖ (Frobenius) that is followed: beyond it, lengths changed by up to e, the structure has exploded.
The bound keeps neighbour lists finite while a cell collapses."""

_VOIGT = ((0, 5, 4), (5, 1, 3), (4, 3, 2))  # where xx, yy, zz, yz, xz, xy stand in a matrix
_EMPTY = 1e-6  # Å³


@dataclass(frozen=True)
class PositionsAndCell(FreeCoordinates):
    """Atoms and cell move together, in the coordinates of ASE's FrechetCellFilter.

    Departures from it: the strain is symmetric, so a cell never turns (in the filter an antisymmetric part comes
    in once strain and stress do not commute); `components` fixes entries of the logarithm of the deformation,
    where the filter fixes those of the deformation and of the virial (the same for diagonal strains and for all
    components of a plane); a direction that is not periodic is not strained. Fixed atoms keep their place in the
    undeformed cell, as there.
    """

    components: tuple[bool, bool, bool, bool, bool, bool] = (True, True, True, True, True, True)
    """Which strains may move: xx, yy, zz, yz, xz, xy; the filter's `mask`."""
    scale: float | None = None
    """s, Å: makes strain a length like the rows of the atoms; None takes the number of atoms, as the filter does."""
    pressure: float = 0.0
    """p, eV/Å³: the pressure under which the structure relaxes; with it, energies are enthalpies E + p V."""
    moves_cell: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.components) != 6:
            raise SettingsError(
                f"cell components are {self.components}: give six, for the strains xx, yy, zz, yz, xz, xy"
            )
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise SettingsError(f"cell scale is {self.scale}: allowed is a length above 0 Å, or None")
        if not math.isfinite(self.pressure):
            raise SettingsError(f"cell pressure is {self.pressure}: allowed is a finite number, eV/Å³")

    def rows(self, structures: Structures, reference: Structures | None = None) -> Float[Tensor, "rows 3"]:
        """Return positions and zero strain, or y and R of structures that were strained from a reference.

        Raises:
            StructureError: a cell without volume, which no strain can deform, or one turned against the reference;
                fixed strains where a direction that is not periodic lies between the axes.
        """
        self._check(structures if reference is None else reference)
        if reference is None:
            return _assemble(structures, structures.positions, torch.zeros_like(structures.cell))
        logarithm, undo = _strain_between(reference, structures)
        atoms = (structures.positions.unsqueeze(1) @ undo[structures.owner]).squeeze(1)
        return _assemble(structures, atoms, logarithm * self._scales(structures))

    def owner(self, structures: Structures) -> Int[Tensor, " rows"]:
        """Return the owner of each row: a structure's atoms, then its three rows of strain."""
        index = torch.arange(len(structures), device=structures.device)
        return torch.repeat_interleave(index, structures.counts + 3)

    def free(self, structures: Structures) -> Bool[Tensor, "rows 3"]:
        """Return the free mask of the atoms and of the strain; an isolated cluster has no strain."""
        strain = self._movable(structures) & structures.pbc.any(dim=1)[:, None, None]
        return _assemble(structures, structures.free, strain)

    def mask(self, structures: Structures, rows: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return the field with zeros on what is fixed, its strain symmetric and within periodic directions."""
        atoms, strain = _take_apart(structures, rows)
        inside = _periodic_projector(structures)
        strain = torch.where(self._movable(structures), _symmetric(inside @ strain @ inside), 0.0)
        return _assemble(structures, torch.where(structures.free, atoms, 0.0), strain)

    def place(self, structures: Structures, rows: Float[Tensor, "rows 3"]) -> Structures:
        """Return the structures with deformed cells (NaN beyond `MAX_STRAIN`); differentiable in `rows`."""
        return self._deform(structures, rows)[0]

    def evaluate(
        self,
        potential: Potential,
        structures: Structures,
        rows: Float[Tensor, "rows 3"],
        *,
        edges: Edges | None = None,
        graph: bool = False,
    ) -> tuple[Float[Tensor, " structures"], Float[Tensor, "rows 3"]]:
        """Return enthalpies (eV) and the forces (eV/Å) on rows; NaN beyond `MAX_STRAIN`.

        Raises:
            PotentialError: the potential gives no stress.
        """
        placed, logarithm, stretch = self._deform(structures, rows)
        prediction = potential(placed, edges=edges, graph=graph, stress=True)
        if prediction.stress is None:
            raise PotentialError(
                f"the {potential.kind} potential gives no stress, so a cell cannot move on it: "
                "give one that does, or keep the cell fixed"
            )
        volume = torch.linalg.det(placed.cell).abs()
        unit = torch.eye(3, dtype=rows.dtype, device=rows.device)
        virial = -volume[:, None, None] * (prediction.stress + self.pressure * unit)
        on_stretch = virial @ _exponential(-logarithm)
        on_strain = _exponential_derivative(logarithm, on_stretch) / self._scales(structures)
        on_atoms = (prediction.forces.unsqueeze(1) @ stretch[structures.owner]).squeeze(1)
        forces = self.mask(structures, _assemble(structures, on_atoms, on_strain))
        return prediction.energy + self.pressure * volume, forces

    def escaped(
        self,
        structures: Structures,
        origin: Float[Tensor, "rows 3"],
        rows: Float[Tensor, "rows 3"],
        max_displacement: float,
    ) -> Bool[Tensor, " structures"]:
        """Return which structures have an atom too far from `origin`, a strain beyond `MAX_STRAIN` or NaN."""
        _, strain = _take_apart(structures, rows)
        strained = torch.linalg.matrix_norm(strain / self._scales(structures))
        atoms, _ = _take_apart(structures, rows - origin)
        moved = largest_norm(atoms, structures.owner, len(structures))
        return ~((moved <= max_displacement) & (strained <= MAX_STRAIN))

    def rigid_modes(self, structures: Structures) -> list[Float[Tensor, "modes rows 3"]]:
        """Return those of the atoms, without strain."""
        groups = Positions().rigid_modes(structures)
        still = torch.zeros_like(structures.cell)
        return [torch.stack([_assemble(structures, mode, still) for mode in modes]) for modes in groups]

    def _check(self, structures: Structures) -> None:
        empty = torch.linalg.det(structures.cell.detach()).abs() < _EMPTY
        for k in empty.nonzero().squeeze(1).tolist()[:1]:
            raise StructureError(
                f"structure {structures.ids[k]!r}: its cell has no volume ({structures.cell[k].tolist()}), so it "
                "cannot be strained; give three independent lattice vectors or keep the cell fixed"
            )
        inside = _periodic_projector(structures)
        oblique = (inside - torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2))).abs().amax(dim=(1, 2)) > 1e-6
        for k in oblique.nonzero().squeeze(1).tolist()[: 0 if all(self.components) else 1]:
            raise StructureError(
                f"structure {structures.ids[k]!r}: strains {self.components} are fixed along the axes, but its "
                "periodic directions are not axes; turn the structure or leave all strains free"
            )

    def _movable(self, structures: Structures) -> Bool[Tensor, "structures 3 3"]:
        matrix = torch.tensor([[self.components[k] for k in row] for row in _VOIGT], device=structures.device)
        return matrix.expand(len(structures), 3, 3)

    def _scales(self, structures: Structures) -> Float[Tensor, "structures 1 1"]:
        counts = structures.counts.to(structures.dtype)
        return (counts if self.scale is None else torch.full_like(counts, self.scale))[:, None, None]

    def _deform(
        self, structures: Structures, rows: Float[Tensor, "rows 3"]
    ) -> tuple[Structures, Float[Tensor, "structures 3 3"], Float[Tensor, "structures 3 3"]]:
        """Return the deformed structures, U and F; where U is lost, U is zero and the others are NaN."""
        atoms, strain = _take_apart(structures, rows)
        inside = _periodic_projector(structures)
        movable = torch.where(self._movable(structures), _symmetric(strain), 0.0)
        logarithm = inside @ movable @ inside / self._scales(structures)
        kept = (torch.linalg.matrix_norm(logarithm.detach()) <= MAX_STRAIN)[:, None, None]
        logarithm = torch.where(kept, logarithm, 0.0)
        stretch = torch.where(kept, _exponential(logarithm), math.nan)
        placed = structures.with_positions((atoms.unsqueeze(1) @ stretch[structures.owner]).squeeze(1))
        return placed.with_cell(structures.cell @ stretch), logarithm, stretch


def _assemble(
    structures: Structures, atoms: Shaped[Tensor, "atoms 3"], strain: Shaped[Tensor, "structures 3 3"]
) -> Shaped[Tensor, "rows 3"]:
    """Return rows from what belongs to atoms and to strain."""
    of_atoms, of_strain = _layout(structures)
    rows = atoms.new_zeros((len(of_atoms) + len(of_strain), 3))
    return rows.index_copy(0, of_atoms, atoms).index_copy(0, of_strain, strain.reshape(-1, 3))


def _take_apart(
    structures: Structures, rows: Float[Tensor, "rows 3"]
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "structures 3 3"]]:
    """Return what belongs to atoms and to strain."""
    of_atoms, of_strain = _layout(structures)
    return rows.index_select(0, of_atoms), rows.index_select(0, of_strain).view(-1, 3, 3)


def _layout(structures: Structures) -> tuple[Int[Tensor, " atoms"], Int[Tensor, " strains"]]:
    """Return where the rows of the atoms and of the strains lie."""
    device = structures.device
    of_atoms = torch.arange(len(structures.owner), device=device) + 3 * structures.owner
    ends = torch.cumsum(structures.counts + 3, 0)
    of_strain = ends[:, None] + torch.arange(-3, 0, device=device)
    return of_atoms, of_strain.reshape(-1)


def _symmetric(matrices: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures 3 3"]:
    return 0.5 * (matrices + matrices.transpose(1, 2))


def _strain_between(
    reference: Structures, structures: Structures
) -> tuple[Float[Tensor, "structures 3 3"], Float[Tensor, "structures 3 3"]]:
    """Return U of structures that `place` made from a reference and F⁻¹; U is NaN where the cell is not finite."""
    stretch = torch.linalg.solve(reference.cell, structures.cell)
    finite = torch.isfinite(stretch).all(dim=2).all(dim=1)
    stretch = torch.where(finite[:, None, None], stretch, torch.eye(3, dtype=stretch.dtype, device=stretch.device))
    values, vectors = torch.linalg.eigh(_symmetric(stretch))
    skew = (stretch - stretch.transpose(1, 2)).abs().amax(dim=(1, 2))
    foreign = (skew > torch.finfo(stretch.dtype).eps ** 0.5) | (values[:, 0] <= 0)
    if bool(foreign.any()):
        k = int(foreign.nonzero()[0])
        raise StructureError(
            f"structure {structures.ids[k]!r}: its cell is turned against the reference by about {float(skew[k]):.2g}; "
            "allowed are cells strained from the reference, or no reference"
        )
    logarithm, undo = (
        (vectors * scaled.unsqueeze(1)) @ vectors.transpose(1, 2) for scaled in (values.log(), 1 / values)
    )
    return torch.where(finite[:, None, None], logarithm, math.nan), undo


def _periodic_projector(structures: Structures) -> Float[Tensor, "structures 3 3"]:
    """Return the orthogonal projector on the span of the periodic lattice vectors, without waiting for the device."""
    cell = torch.where(structures.pbc.unsqueeze(2), structures.cell.detach(), 0.0)
    unit = torch.eye(3, dtype=cell.dtype, device=cell.device)
    line = _onto(cell.sum(dim=1))
    normal = torch.linalg.cross(cell, cell.roll(-1, dims=1)).sum(dim=1)  # two vectors: one product is not zero
    count = structures.pbc.sum(dim=1)[:, None, None]
    some = torch.where(count == 1, line, unit - _onto(normal))
    return torch.where(count == 0, torch.zeros_like(some), torch.where(count == 3, unit, some))


def _onto(vectors: Float[Tensor, "structures 3"]) -> Float[Tensor, "structures 3 3"]:
    """Return the projectors on vectors, zero for a vector of length zero."""
    squares = vectors.square().sum(dim=1)[:, None, None]
    return vectors.unsqueeze(2) * vectors.unsqueeze(1) / torch.where(squares > 0, squares, 1.0)


def _exponential(matrices: Float[Tensor, "structures n n"]) -> Float[Tensor, "structures n n"]:
    """Return exp m from the Taylor series of m/2 to order 15, squared: exact to rounding up to `MAX_STRAIN`.

    The derivative of torch.linalg.matrix_exp loses digits in proportion to the gradient that comes in: a relative
    error of 2e-12 at gradients of 1e4 and 2e-8 at 1e8, in float64. That of a polynomial does not.
    """
    x = 0.5 * matrices
    x2 = x @ x
    x3, x4 = x2 @ x, x2 @ x2
    unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    result = torch.zeros_like(x)
    for k in (12, 8, 4, 0):  # Paterson and Stockmeyer 1973: four terms at a time
        a, b, c, d = (1 / math.factorial(k + j) for j in range(4))
        result = result @ x4 + a * unit + b * x + c * x2 + d * x3
    return result @ result


def _exponential_derivative(
    at: Float[Tensor, "structures 3 3"], direction: Float[Tensor, "structures 3 3"]
) -> Float[Tensor, "structures 3 3"]:
    """Return L(U, X) = d/dt exp(U + t X) at 0, a corner of the exponential of [[U, X], [0, U]] (Van Loan 1978)."""
    block = torch.cat([torch.cat([at, direction], 2), torch.cat([torch.zeros_like(at), at], 2)], 1)
    return _exponential(block)[:, :3, 3:]
