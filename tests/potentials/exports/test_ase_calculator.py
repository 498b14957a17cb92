"""A potential in ASE: the numbers of our own prediction, ASE's signs and orders, and nothing stale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.ase_reference import AseReference
from thalweg.potentials.contract import Potential
from thalweg.potentials.exports.ase_calculator import ase_calculator
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures


def sheared(structures: Structures) -> Atoms:
    """The first structure under a general strain, so that no stress component is small."""
    frame = structures.to_atoms()[0]
    strain = np.array([[0.03, 0.02, -0.01], [0.02, -0.02, 0.015], [-0.01, 0.015, 0.01]])
    frame.set_cell(frame.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return frame


def painn() -> Potential:
    return build_potential("painn", {"species": [14], "channels": 4, "layers": 1}).double()


@pytest.mark.parametrize("make", [painn, lambda: StillingerWeber.from_published("Si")])
def test_round_trip_through_ase_gives_our_own_prediction(make: object, silicon8: Structures) -> None:
    potential = make()  # type: ignore[operator]
    structures = Structures.from_atoms(sheared(silicon8))
    wanted = potential(structures, stress=True)
    found = AseReference(ase_calculator(potential))(structures, stress=True)
    assert float(wanted.stress.abs().min()) > 1e-4
    for ours, theirs in ((wanted.energy, found.energy), (wanted.forces, found.forces), (wanted.stress, found.stress)):
        torch.testing.assert_close(theirs, ours.detach(), rtol=0, atol=1e-12)


def test_forces_and_stress_are_what_ase_differentiates(silicon8: Structures) -> None:
    frame = sheared(silicon8)
    frame.calc = ase_calculator(StillingerWeber.from_published("Si"))
    forces, stress = frame.get_forces(), frame.get_stress()
    np.testing.assert_allclose(forces[:2], calculate_numerical_forces(frame, eps=1e-4, iatoms=[0, 1]), atol=1e-6)
    numerical = calculate_numerical_stress(frame, eps=1e-5)
    np.testing.assert_allclose(stress, numerical, rtol=0, atol=1e-6)
    assert np.abs(stress - numerical[[0, 1, 2, 5, 4, 3]]).max() > 1e-4  # another order would be noticed
    assert frame.get_potential_energy(force_consistent=True) == frame.get_potential_energy()


def test_nothing_is_computed_twice_and_nothing_is_stale(silicon8: Structures) -> None:
    potential, frame = painn(), silicon8.to_atoms()[0]
    frame.calc = calculator = ase_calculator(potential)
    asked: list[bool] = []
    calculator.potential.register_forward_hook(lambda *_: asked.append(True))
    first = frame.get_potential_energy()
    frame.get_forces()
    frame.set_initial_charges(np.ones(len(frame)))
    frame.get_potential_energy()
    assert len(asked) == 1
    frame.get_stress()
    assert len(asked) == 2
    frame.positions[0] += 0.1
    assert frame.get_potential_energy() != first
    frame.set_cell(1.02 * frame.cell.array)
    frame.get_forces()
    assert len(asked) == 4
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(2.0)  # the calculator holds a copy
    frame.positions[0] -= 0.1
    frame.set_cell(frame.cell.array / 1.02)
    assert frame.get_potential_energy() == pytest.approx(first, abs=1e-12)


def test_cell_relaxation_in_ase_finds_the_lattice_constant(silicon8: Structures) -> None:
    """5.4310 Å is the lattice constant of the published parameters (Stillinger and Weber 1985: 2^(1/6) σ bonds)."""
    frame = silicon8.to_atoms()[0]
    frame.calc = ase_calculator(StillingerWeber.from_published("Si"))
    assert BFGS(FrechetCellFilter(frame), logfile=None).run(fmax=1e-3, steps=100)
    wanted = 4 / 3**0.5 * 2 ** (1 / 6) * 2.0951
    assert frame.get_volume() ** (1 / 3) == pytest.approx(wanted, abs=1e-3)


def test_what_it_cannot_give_it_refuses() -> None:
    cluster = Atoms("Si2", [[0, 0, 0], [0, 0, 2.4]], calculator=ase_calculator(painn()))
    assert np.isfinite(cluster.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="cell without volume"):
        cluster.get_stress()
    cluster.numbers[0] = 6
    with pytest.raises(PotentialError, match="contains C"):
        cluster.get_potential_energy()
    direct = build_potential("transformer", {"species": [14], "width": 8, "heads": 2, "layers": 1})
    crystal = Atoms("Si", cell=3 * np.eye(3), pbc=True, calculator=ase_calculator(direct))
    assert crystal.get_forces().dtype == np.float64
    with pytest.raises(PropertyNotImplementedError):
        crystal.get_stress()
    assert crystal.calc.implemented_properties == ["energy", "free_energy", "forces"]
    assert "stress" in cluster.calc.implemented_properties
    with pytest.raises(PotentialError, match="asked without atoms"):
        ase_calculator(painn()).calculate()
