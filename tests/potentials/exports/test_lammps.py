"""LAMMPS with exported files, by the input of docs/exports.md: our numbers, and our minimum."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from numpy.typing import NDArray
from tests.potentials.exports.engines import apart, changed, interstitial, our_minimum, recipe, small_painn, tilted
from tests.potentials.exports.exported import export, needs_metatomic

from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures

pytestmark = needs_metatomic

BAR = 1.6021765e6
"""Bars per eV/Å³ in units metal of LAMMPS."""

_PAIRS = """
import torch

class Pairs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.depth = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, vectors, centre, owner, pbc):
        each = 0.5 * self.depth * (1 - vectors.square().sum(dim=1) / 4.2**2) ** 3
        return each.new_zeros(pbc.shape[0]).index_add(0, owner[centre], each)

def make():
    return Pairs()
"""
"""A module of a user's own, of which no interaction range is known."""


@dataclass(frozen=True)
class Run:
    """What LAMMPS wrote: a row of numbers per printed step, the atoms of the first and the last step."""

    table: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]


@pytest.fixture(scope="module")
def lmp() -> str:
    """The LAMMPS that has the pair style."""
    program = shutil.which("lmp")
    if program is None:
        pytest.skip("LAMMPS is not installed: a program lmp with pair style metatomic on the path runs this test")
    words = [program, "-log", "none"]
    asked = subprocess.run(words, input="info styles pair\n", capture_output=True, text=True, check=False)
    if "metatomic" not in asked.stdout.split():
        pytest.skip(f"{program} has no pair style metatomic: one with the package ML-METATOMIC runs this test")
    return program


@pytest.fixture(scope="module")
def made(lmp: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Potential]]:
    """Potentials, and the folder of their files."""
    folder = tmp_path_factory.mktemp("lammps")
    (folder / "pairs.py").write_text(_PAIRS)
    potentials: dict[str, Potential] = {
        "painn": small_painn(),
        "silicon": StillingerWeber.from_published("Si"),
        "telluride": StillingerWeber.from_published("CdTe-2013"),
        "own": open_potential(f"torch:{folder}/pairs.py:make?species=Si&cutoff=4.2").double(),
    }
    assert export(folder, potentials) == ""
    return folder, potentials


def ran(program: str, folder: Path, atoms: Atoms, model: str, **lines: str) -> Run:
    """Run the recipe with a model and other lines changed."""
    write(folder / "silicon.data", atoms, format="lammps-data", masses=True, specorder=sorted(set(atoms.symbols)))
    lines["pair_style"] = f"pair_style metatomic {model}.pt device cpu check_consistency on"
    (folder / "minimize.in").write_text(changed(recipe("units metal"), **lines))
    done = subprocess.run(
        [program, "-in", "minimize.in"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    log = [line.split() for line in (folder / "log.lammps").read_text().splitlines()]
    title = next(k for k, words in enumerate(log) if words[:2] == ["Step", "PotEng"])
    end = next(k for k, words in enumerate(log) if words[:2] == ["Loop", "time"])
    steps = (folder / "path.dump").read_text().split("ITEM: ATOMS id type x y z fx fy fz\n")[1:]
    found = [np.array([line.split() for line in step.splitlines()[: len(atoms)]], dtype=float) for step in steps]
    return Run(np.array(log[title + 1 : end], dtype=float), found[0], found[-1])


def off(run: Run, potential: Potential, atoms: Atoms) -> float:
    """Return the largest difference of the first step from ours, in energy (eV), forces (eV/Å) and stress (eV/Å³)."""
    ours = potential(Structures.from_atoms(atoms), stress=True)
    assert ours.stress is not None
    stress = [float(ours.stress[0, i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    assert float(ours.forces.abs().max()) > 0.01
    assert min(map(abs, stress)) > 1e-6
    differences = (
        run.table[0, 1] - float(ours.energy),
        run.first[:, 5:] - ours.forces.numpy(),
        -run.table[0, 3:] / BAR - stress,
    )
    return max(float(np.abs(difference).max()) for difference in differences)


@pytest.mark.parametrize("name", ["painn", "own"])
def test_energy_forces_and_pressure_of_a_tilted_cell_are_ours(
    name: str, lmp: str, made: tuple[Path, dict[str, Potential]]
) -> None:
    folder, potentials = made
    atoms = tilted(bulk("Si", cubic=True), 0.1)
    run = ran(lmp, folder, atoms, name, minimize="run 0")
    assert off(run, potentials[name], atoms) <= 1e-9
    atoms.positions[0, 0] += 1e-6
    assert off(run, potentials[name], atoms) > 1e-9  # what the comparison sees


def test_atom_types_are_the_elements_that_pair_coeff_names(lmp: str, made: tuple[Path, dict[str, Potential]]) -> None:
    folder, potentials = made
    atoms = tilted(bulk("CdTe", "zincblende", a=6.48, cubic=True), 0.1)
    run = ran(lmp, folder, atoms, "telluride", minimize="run 0", pair_coeff="pair_coeff * * 48 52")
    assert off(run, potentials["telluride"], atoms) <= 1e-9
    run = ran(lmp, folder, atoms, "telluride", minimize="run 0", pair_coeff="pair_coeff * * 52 48")
    assert off(run, potentials["telluride"], atoms) > 1e-3


def test_minimize_ends_in_the_minimum_that_relax_finds(lmp: str, made: tuple[Path, dict[str, Potential]]) -> None:
    """An atom moves by 0.9 Å on the way."""
    folder, potentials = made
    atoms = interstitial()
    run = ran(lmp, folder, atoms, "silicon")
    assert off(run, potentials["silicon"], atoms) <= 1e-9
    ours = our_minimum(potentials["silicon"], atoms)
    assert run.table[-1, 2] < 1e-5
    assert apart(ours.structures.to_atoms()[0], run.last[:, 2:5]) < 1e-4 < 0.5 < apart(atoms, run.last[:, 2:5])
    assert abs(run.table[-1, 1] - float(ours.energy)) < 1e-8
