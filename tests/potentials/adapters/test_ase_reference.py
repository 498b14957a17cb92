"""ASE calculators as references: the same numbers as ASE gives, and one line wherever a reference will not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import write
from tests.cli.terminal import thalweg

from thalweg.errors import PotentialError, StructureError
from thalweg.evaluation.basins import Quench, in_double
from thalweg.evaluation.labelling import label
from thalweg.potentials.adapters.ase_reference import AseReference
from thalweg.potentials.opening import open_potential
from thalweg.relaxation.outcome import Outcome
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import read_frames


def copper() -> list[Atoms]:
    """A strained copper cell with an atom fixed, and a cluster; rattled by 0.05 Å."""
    cell = bulk("Cu", cubic=True)
    cell.set_cell(cell.cell.array @ np.array([[1.0, 0.03, 0.0], [0.0, 1.02, 0.01], [0.0, 0.0, 0.97]]), scale_atoms=True)
    frames = [cell, Atoms("Cu3", 2.4 * np.eye(3))]
    for k, frame in enumerate(frames):
        frame.positions += 0.05 * numpy_stream(5, "copper", k).standard_normal((len(frame), 3))
    cell.set_constraint(FixAtoms([0]))
    return frames


def test_batch_has_the_numbers_of_ase() -> None:
    frames = copper()
    found = AseReference(EMT())(Structures.from_atoms(frames))
    for k, frame in enumerate(frames):
        frame.calc = EMT()
        assert float(found.energy[k]) == pytest.approx(frame.get_potential_energy(), abs=1e-12)
    wanted = np.concatenate([f.get_forces(apply_constraint=False) for f in frames])
    np.testing.assert_allclose(found.forces.numpy(), wanted, rtol=0, atol=1e-12)
    alone = AseReference(EMT())(Structures.from_atoms(frames[:1]), stress=True).stress
    assert alone is not None
    wanted = frames[0].get_stress(voigt=False, apply_constraint=False)
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(alone[0].numpy(), wanted, rtol=0, atol=1e-12)


def test_energy_is_the_one_whose_gradient_the_forces_are() -> None:
    class Smeared(EMT):  # type: ignore[misc]
        """As electronic structure codes: `energy` is extrapolated, `free_energy` belongs to the forces."""

        def calculate(self, *args: object, **kwargs: object) -> None:
            super().calculate(*args, **kwargs)
            self.results["energy"] = self.results["free_energy"] + 1.0

    structures = Structures.from_atoms(copper())
    assert torch.equal(AseReference(Smeared())(structures).energy, AseReference(EMT())(structures).energy)


def test_words_carry_arguments() -> None:
    opened = open_potential("ase:ase.calculators.lj:LennardJones?sigma=2.1&epsilon=0.4&rc=6", reference=True)
    argon = Structures.from_atoms(Atoms("Ar2", [[0, 0, 0], [0, 0, 2.5]]))
    wanted = AseReference(LennardJones(sigma=2.1, epsilon=0.4, rc=6))(argon)
    other = AseReference(LennardJones())(argon)
    assert torch.equal(opened(argon).forces, wanted.forces)
    assert not torch.equal(opened(argon).forces, other.forces)


def test_answers_are_in_the_floating_type_asked_for_and_copies_are_itself() -> None:
    reference = AseReference(EMT())
    assert reference(Structures.from_atoms(copper(), dtype=torch.float32)).forces.dtype == torch.float32
    assert in_double(reference) is reference


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ase.calculators.emt:EMTT", "did you mean 'EMT'"),
        ("ase.calculators.emt:EMT?sigma=1&sigma=2", "each key once"),
        ("collections:Counter", "is a Counter: needed is an ASE calculator"),
        ("emt", "does not name a factory"),
    ],
)
def test_bad_words_are_one_line(words: str, says: str) -> None:
    with pytest.raises(PotentialError, match=says):
        open_potential(f"ase:{words}", reference=True)


def test_what_a_reference_cannot_do_is_refused_in_one_line(silicon8: Structures) -> None:
    reference, copper_atoms = AseReference(EMT()), Structures.from_atoms(copper())
    with pytest.raises(PotentialError, match="reference only"):
        reference(copper_atoms, graph=True)
    with pytest.raises(PotentialError, match="reference only"):
        open_potential("ase:ase.calculators.emt:EMT")
    with pytest.raises(PotentialError, match=r"fails on structure 'silicon8'.*No EMT-potential for Si"):
        reference(silicon8)
    with pytest.raises(PotentialError, match="gives no stress for structure '1'"):
        reference(copper_atoms, stress=True)
    with pytest.raises(PotentialError, match="not built from settings"):
        AseReference.from_settings({})


def test_labels_that_are_not_finite_are_refused() -> None:
    class Lost(EMT):  # type: ignore[misc]
        def calculate(self, *args: object, **kwargs: object) -> None:
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)

    with pytest.raises(StructureError, match="structure '0': the reference gives forces that are not finite"):
        label(AseReference(Lost()), Structures.from_atoms(copper()))


def test_command_labels_frames_to_train_on(tmp_path: Path) -> None:
    frames, words = copper()[:1], "ase:ase.calculators.emt:EMT"
    write(tmp_path / "in.extxyz", frames)
    done = thalweg("data", "label", tmp_path / "in.extxyz", tmp_path / "out.extxyz", "--reference", words, "--stress")
    assert done.status == 0, done.err
    made = read_frames(tmp_path / "out.extxyz")
    wanted = AseReference(EMT())(Structures.from_atoms(frames), stress=True)
    assert made.stress is not None
    assert wanted.stress is not None
    torch.testing.assert_close(made.energy, wanted.energy, rtol=0, atol=1e-7)
    torch.testing.assert_close(made.forces, wanted.forces, rtol=0, atol=1e-7)
    torch.testing.assert_close(made.stress, wanted.stress, rtol=0, atol=1e-7)


def test_quench_on_a_calculator_finds_its_minimum() -> None:
    reference = AseReference(LennardJones(sigma=2.0, epsilon=0.5, rc=9.0))
    found = Quench().quench(reference, Structures.from_atoms(Atoms("Ar2", [[0, 0, 0], [0.1, 0.2, 2.5]])))
    assert found.outcomes == (Outcome.CONVERGED,)
    apart = float((found.structures.positions[0] - found.structures.positions[1]).norm())
    assert apart == pytest.approx(2.0 * 2 ** (1 / 6), abs=1e-3)
