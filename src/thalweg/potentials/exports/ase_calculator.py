"""A potential as an ASE calculator: whatever ASE does with atoms, it does with this potential.

ASE's conventions: energy in eV (`free_energy` is the same), forces in eV/Å, stress in eV/Å³ as six numbers in
Voigt order xx, yy, zz, yz, xz, xy, positive under tension, as ours. The calculator holds a copy, in evaluation mode,
so training on does not change it, and computes anew only where atoms, cell or periodicity changed.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.structures.batch import Structures

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class AseCalculator(Calculator):
    """An ASE calculator that answers with a potential.

    Asked for a stress, it refuses (`PropertyNotImplementedError`) where the cell has no volume. Elements that the
    potential never saw are a `PotentialError`.
    """

    def __init__(self, potential: Potential) -> None:
        """Take a copy of a potential; a direct one, whose cell is not seen, gives no stress."""
        super().__init__()
        self.potential = copy.deepcopy(potential).eval().requires_grad_(False)
        self.implemented_properties = ["energy", "free_energy", "forces", *(["stress"] * potential.conservative)]
        self.ignored_changes = {"initial_charges", "initial_magmoms"}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE where they are asked for and missing.

        Args:
            atoms: what to evaluate.
            properties: what is asked for; energy and forces come anyway, the stress on demand.
            system_changes: what changed since last time.

        Raises:
            PotentialError: an element that the potential never saw, or no atoms.
            PropertyNotImplementedError: a stress where the cell has no volume.
        """
        super().calculate(atoms, properties, system_changes)
        stress = "stress" in (properties or ())
        given = self.atoms
        if given is None:
            raise PotentialError("the calculator was asked without atoms: set atoms.calc and ask the atoms")
        plain = Atoms(given.numbers, given.positions, cell=given.cell, pbc=given.pbc)
        if stress and plain.cell.rank < 3:
            raise PropertyNotImplementedError(f"{plain.get_chemical_formula()} has a cell without volume: no stress")
        device, dtype = _home(self.potential)
        found = self.potential(Structures.from_atoms(plain).to(device, dtype), stress=stress)
        self.results: dict[str, Any] = {
            "energy": float(found.energy[0]),
            "free_energy": float(found.energy[0]),
            "forces": found.forces.double().cpu().numpy(),
        }
        if found.stress is not None:
            full = found.stress[0].double().cpu().numpy()
            self.results["stress"] = np.array([0.5 * (full[i, j] + full[j, i]) for i, j in _VOIGT])


def ase_calculator(potential: Potential | str) -> AseCalculator:
    """Make an ASE calculator of a potential, or of the words that open one; it goes to `atoms.calc`.

    Args:
        potential: a potential, or what `open_potential` takes, e.g. the path of a model file.

    Raises:
        ThalwegError: the words do not open a potential.
    """
    return AseCalculator(open_potential(potential) if isinstance(potential, str) else potential)


def _home(potential: Potential) -> tuple[torch.device, torch.dtype]:
    for tensor in (*potential.parameters(), *potential.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float64
