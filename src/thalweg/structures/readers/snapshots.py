"""One structure of a trajectory or database as a reader found it, and the checks that each passes before use.

Every reader but those of pairs yields `Snapshot`s; what cannot be decoded it yields as `Broken`, so that one bad
record has a place and a reason of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from numpy.typing import NDArray

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.overlap import refuse_overlaps

_HEAVIEST = 118
_LARGEST_ENERGY = 1e9  # eV; all electrons of 10⁴ heavy atoms
_LARGEST_FORCE = 1e6  # eV/Å
_LARGEST_STRESS = 1e4  # eV/Å³, 1.6 million GPa


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One structure with what is known of it."""

    place: str
    """Where it stands, e.g. 'frame 3'."""
    relaxation: str
    """Name of the relaxation that it belongs to."""
    order: float
    """Its place in that relaxation; equal ones stay as they come."""
    atoms: Atoms
    energy: object = None
    """eV; this and the next as the file has them, of any type until `sound` has checked them."""
    forces: object = None
    """[atoms 3], eV/Å."""
    stress: object = None
    """[3 3], eV/Å³, positive under tension."""


@dataclass(frozen=True)
class Broken:
    """A record that could not be decoded."""

    place: str
    reason: str


@dataclass(frozen=True, eq=False)
class Sound:
    """A snapshot that passed all checks."""

    place: str
    relaxation: str
    order: float
    structure: Structures
    """A batch of one."""
    energy: float | None
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None


def sound(snapshot: Snapshot) -> Sound:
    """Return the snapshot as a batch of one with checked labels.

    Raises:
        StructureError: an unknown element, a position, cell, energy, force or stress that is not finite, absurdly
            large or of a wrong shape, a periodic cell without volume, overlapping atoms, a constraint that is
            neither FixAtoms nor one along Cartesian axes.
    """
    atoms = snapshot.atoms
    numbers = np.asarray(atoms.numbers)
    wrong = np.flatnonzero((numbers < 1) | (numbers > _HEAVIEST))
    if len(wrong):
        raise StructureError(
            f"atom {wrong[0]} has atomic number {numbers[wrong[0]]}: allowed are 1 to {_HEAVIEST}: mend the file"
        )
    align_constraints(atoms)
    structure = Structures.from_atoms(atoms, ids=[snapshot.relaxation])
    refuse_overlaps(structure)
    energy = _checked("energy", snapshot.energy, (), _LARGEST_ENERGY, "eV")
    return Sound(
        snapshot.place,
        snapshot.relaxation,
        snapshot.order,
        structure,
        None if energy is None else energy.item(),
        _checked("forces", snapshot.forces, (len(atoms), 3), _LARGEST_FORCE, "eV/Å"),
        _checked("stress", snapshot.stress, (3, 3), _LARGEST_STRESS, "eV/Å³"),
    )


def align_constraints(atoms: Atoms) -> None:
    """Turn constraints along lattice vectors that lie on Cartesian axes into Cartesian ones, in place.

    VASP's selective dynamics fixes fractional coordinates. In a cell of orthogonal vectors along x, y and z these
    are Cartesian; in any other cell the constraint stays and `Structures.from_atoms` refuses it by name, for fixing
    one of them is no mask on Cartesian components. FixAtoms covers atoms fixed whole, in any cell.
    """
    kept: list[object] = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixScaled):
            kept.append(constraint)
            continue
        fixed = np.asarray(constraint.mask, dtype=bool)
        index = np.atleast_1d(constraint.index)
        cell = atoms.cell.array
        if fixed.all():
            kept.append(FixAtoms(index))
        elif np.abs(cell - np.diag(np.diag(cell))).max() < 1e-6:
            kept.append(FixCartesian(index, mask=fixed))
        else:
            kept.append(constraint)
    atoms.set_constraint(kept)


def _checked(
    label: str, value: object, shape: tuple[int, ...], largest: float, unit: str
) -> NDArray[np.float64] | None:
    if value is None:
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(
            f"{label}: {' '.join(str(value)[:60].split())!r} is not numbers: mend it or leave it out"
        ) from None
    if numbers.shape != shape:
        raise StructureError(f"{label} of shape {numbers.shape} where {shape} is due: mend it or leave it out")
    if not np.isfinite(numbers).all():
        raise StructureError(f"{label} not finite: mend it or leave it out")
    if numbers.size and float(np.abs(numbers).max()) > largest:
        raise StructureError(
            f"{label} up to {float(np.abs(numbers).max()):.3g} {unit}: allowed is up to {largest:.0e}: check the units"
        )
    return numbers


def double(values: NDArray[np.float64]) -> torch.Tensor:
    """Return numbers as a tensor of double precision that shares no memory with them."""
    return torch.tensor(values, dtype=torch.float64)
