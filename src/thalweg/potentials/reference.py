"""The energy reference of a potential: one shift per species and one scale, fitted to labelled structures.

A network that predicts numbers of order one learns the rest of E = Σ_i (scale · ε_i + shift_{z_i}): the
shifts carry the energies of the elements (least squares on compositions), the scale is the rms force.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError, StructureError
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Reference:
    """Shifts and scale of a potential."""

    shift: dict[int, float]
    """Energy of an atom of each element (atomic number), eV."""
    scale: float
    """Root mean square of the force components, eV/Å; taken in eV, since lengths are near 1 Å."""


def fit_reference(
    structures: Structures, energy: Float[Tensor, " structures"], forces: Float[Tensor, "atoms 3"]
) -> Reference:
    """Fit shifts by least squares, min_s Σ_k (E_k − Σ_z n_kz s_z)² / N_k², and the scale to the forces.

    Where compositions do not tell elements apart (all structures of one formula), the smallest shifts that
    fit are taken: their sum over a formula is right, each alone means nothing.

    Args:
        structures: the labelled structures, at least one.
        energy: potential energies, eV.
        forces: forces, eV/Å.

    Raises:
        StructureError: labels of the wrong length or not finite, or forces that are all zero.
    """
    if energy.shape != (len(structures),) or forces.shape != structures.positions.shape:
        raise StructureError(
            f"labels have shapes {tuple(energy.shape)} and {tuple(forces.shape)}: "
            f"needed are {len(structures)} energies and {len(structures.positions)} forces"
        )
    if not (energy.isfinite().all() and forces.isfinite().all()):
        raise StructureError("energies or forces are not finite: remove those structures before fitting a reference")
    species = torch.unique(structures.numbers)
    one_hot = (structures.numbers[:, None] == species).double()
    composition = structures.total(one_hot)
    atoms = composition.sum(dim=1, keepdim=True)
    target = energy.detach().double()[:, None] / atoms
    # gelsd: the minimum-norm solution where the compositions are linearly dependent
    fit = torch.linalg.lstsq((composition / atoms).cpu(), target.cpu(), driver="gelsd").solution[:, 0]
    scale = float(forces.detach().double().square().mean().sqrt())
    if scale == 0.0:
        elements = ", ".join(chemical_symbols[z] for z in species.tolist())
        raise StructureError(f"all forces on {elements} are zero: give structures that are not all relaxed")
    return Reference(dict(zip(species.tolist(), fit.tolist(), strict=True)), scale)


def take_reference(
    reference: Reference, species: tuple[int, ...], shift: Float[Tensor, " species"], scale: Float[Tensor, ""]
) -> None:
    """Write a reference into the buffers of a potential.

    Args:
        reference: where shifts and scale come from.
        species: atomic numbers of the potential.
        shift: filled with the energy of each species, eV.
        scale: filled with the scale, eV.

    Raises:
        PotentialError: a species without a shift, a shift that is not finite, or a scale not above 0.
    """
    missing = [chemical_symbols[z] for z in species if z not in reference.shift]
    if missing:
        raise PotentialError(f"the reference has no shift for {', '.join(missing)}: fit it to structures with them")
    found = [reference.shift[z] for z in species]
    if not all(math.isfinite(value) for value in found):
        raise PotentialError(f"shifts are {found} eV: allowed are finite energies")
    if not 0.0 < reference.scale < math.inf:
        raise PotentialError(f"scale is {reference.scale}: allowed is a finite number above 0")
    with torch.no_grad():
        shift.copy_(torch.tensor(found, dtype=torch.float64))
        scale.fill_(reference.scale)
