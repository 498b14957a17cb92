"""i-PI with exported files, by the inputs of docs/exports.md: our numbers, energy kept, our minimum."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write
from numpy.typing import NDArray
from tests.potentials.exports.engines import apart, changed, interstitial, our_minimum, recipe, small_painn, tilted
from tests.potentials.exports.exported import export, needs_metatomic

from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures

pytestmark = needs_metatomic


@pytest.fixture(scope="module")
def i_pi() -> str:
    """The program, installed beside this Python or on the path."""
    program = shutil.which("i-pi", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("i-PI is not installed: pip install ipi runs this test")
    return program


@pytest.fixture(scope="module")
def made(i_pi: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Potential]]:
    """Potentials, and the folder of their files."""
    folder = tmp_path_factory.mktemp("i-pi")
    potentials: dict[str, Potential] = {
        "painn": small_painn(),
        "silicon": StillingerWeber.from_published("Si"),
    }
    assert export(folder, potentials) == ""
    return folder, potentials


def ran(
    program: str, folder: Path, atoms: Atoms, text: str
) -> tuple[NDArray[np.float64], list[Atoms], NDArray[np.float64]]:
    """Run an input; return the rows of properties, and positions and forces of all steps."""
    write(folder / "silicon.extxyz", atoms)
    (folder / "nve.xml").write_text(text)
    done = subprocess.run(
        [program, "nve.xml"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    frames = read(folder / "nve.positions_0.extxyz", ":")
    forces = np.array([frame.get_forces() for frame in read(folder / "nve.forces_0.extxyz", ":")])
    return np.loadtxt(folder / "nve.out"), frames, forces


def verlet(
    potential: Potential, atoms: Atoms, velocities: NDArray[np.float64], steps: int, *, inconsistency: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return total energies, eV, and last positions, Å, of our own Verlet steps of 1 fs, forces too large if told."""

    def answer() -> tuple[float, NDArray[np.float64]]:
        found = potential(Structures.from_atoms(atoms))
        return float(found.energy), (1 + inconsistency) * found.forces.numpy()

    masses, totals = atoms.get_masses()[:, None], []
    energy, forces = answer()
    for _ in range(steps + 1):
        totals.append(energy + float((masses * velocities**2).sum() / 2))
        half = velocities + units.fs / 2 * forces / masses
        last = atoms.positions.copy()
        atoms.positions += units.fs * half
        energy, forces = answer()
        velocities = half + units.fs / 2 * forces / masses
    return np.array(totals), last


def swing(values: NDArray[np.float64]) -> float:
    """Return how far values spread."""
    return float(np.ptp(values))


def test_energy_forces_and_virial_are_ours_and_the_energy_is_kept(
    i_pi: str, made: tuple[Path, dict[str, Potential]]
) -> None:
    """To 1e-6 eV, eV/Å and eV/Å³: i-PI's own units of energy and length have seven digits.

    Steps of 1 fs keep the energy to 1 % of what the potential energy takes and gives. Our own steps do likewise and end
    in the same place; with forces 5 % too large they do not.
    """
    folder, potentials = made
    potential = potentials["painn"]
    text = changed(recipe("<simulation verbosity='low' floatformat='%20.12e'>"), parameters=parameters("painn"))
    rows, frames, forces = ran(i_pi, folder, tilted(bulk("Si", cubic=True), 0.1), text)
    assert len(rows) == len(frames) == 21
    for row, frame, force in zip(rows, frames, forces, strict=True):
        ours = potential(Structures.from_atoms(frame), stress=True)
        assert ours.stress is not None
        assert abs(row[2] - float(ours.energy)) <= 1e-6
        assert np.abs(force - ours.forces.numpy()).max() <= 1e-6
        stress = [float(ours.stress[0, i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
        assert np.abs(-row[3:] - stress).max() <= 1e-6
    assert swing(rows[:, 1]) < 0.01 * swing(rows[:, 2])

    masses = frames[0].get_masses()[:, None]
    first = (frames[1].positions - frames[0].positions) / units.fs - units.fs / 2 * forces[0] / masses
    totals, last = verlet(potential, frames[0].copy(), first, 20)
    assert swing(totals) < 0.01 * swing(rows[:, 2])
    assert np.abs(last - frames[-1].positions).max() < 1e-5
    totals, last = verlet(potential, frames[0].copy(), first, 20, inconsistency=0.05)
    assert swing(totals) > 0.01 * swing(rows[:, 2])
    assert np.abs(last - frames[-1].positions).max() > 1e-5


def parameters(model: str) -> str:
    """Return the line of the input that names the model."""
    return f"<parameters> {{ template: silicon.extxyz, model: {model}.pt }} </parameters>"


def test_minimize_ends_in_the_minimum_that_relax_finds(i_pi: str, made: tuple[Path, dict[str, Potential]]) -> None:
    """An atom moves by 0.9 Å on the way."""
    folder, potentials = made
    atoms = interstitial()
    text = changed(
        recipe("<simulation verbosity='low' floatformat='%20.12e'>"),
        parameters=parameters("silicon"),
        velocities="",
        total_steps="<total_steps> 200 </total_steps>",
    )
    start, end = text.index("    <motion"), text.index("</motion>\n") + len("</motion>\n")
    text = text[:start] + recipe("    <motion mode='minimize'>") + text[end:]
    rows, frames, forces = ran(i_pi, folder, atoms, text)
    assert len(rows) < 200
    assert np.linalg.norm(forces[-1], axis=1).max() < 2e-5
    ours = our_minimum(potentials["silicon"], atoms)
    found = frames[-1].positions
    assert apart(ours.structures.to_atoms()[0], found) < 1e-4 < 0.5 < apart(atoms, found)
    assert abs(rows[-1, 2] - float(ours.energy)) < 5e-6
    assert abs(rows[-1, 2] - float(potentials["silicon"](Structures.from_atoms(frames[-1])).energy)) < 5e-6
