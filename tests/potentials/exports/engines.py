"""What tests of other programs share: inputs from docs/exports.md as a user reads them, structures, our minimum."""

from __future__ import annotations

import re

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk
from numpy.typing import NDArray
from tests.potentials.exports.exported import ROOT

from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures


def recipe(first: str) -> str:
    """Return the one block of docs/exports.md whose first line is this."""
    text = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    (found,) = (block for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if block.startswith(first + "\n"))
    return str(found)


def changed(text: str, **lines: str) -> str:
    """Return a recipe in which the one line that starts with a word is another."""
    for word, line in lines.items():
        text, count = re.subn(rf"^ *<?{word}\b.*$", line, text, flags=re.MULTILINE)
        assert count == 1, (word, count)
    return text


def tilted(atoms: Atoms, amplitude: float) -> Atoms:
    """Return a copy in a cell without right angles, rattled by `amplitude`, Å."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ [[1, 0, 0], [0.06, 1, 0], [-0.04, 0.05, 1]], scale_atoms=True)
    atoms.positions += amplitude * numpy_stream(3, "structures for other programs").standard_normal((len(atoms), 3))
    return atoms


def interstitial() -> Atoms:
    """Return 16 atoms of silicon and one between them, strained and rattled."""
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.append(Atom("Si", (2.715, 2.715, 2.715)))
    return tilted(atoms, 0.03)


def small_painn() -> Potential:
    """Return a potential of two layers with fresh parameters, in float64."""
    return build_potential("painn", {"species": [14], "cutoff": 4.2, "channels": 8, "layers": 2}).double()


def our_minimum(potential: Potential, atoms: Atoms) -> Relaxation:
    """Return where the path of `thalweg relax` ends, at 1e-5 eV/Å."""
    found = Path(Descent(0.025), fmax=1e-5).run(potential, Structures.from_atoms(atoms))
    assert found.outcomes == (Outcome.CONVERGED,), found.outcomes
    return found


def apart(atoms: Atoms, positions: NDArray[np.float64]) -> float:
    """Return how far positions are from those of atoms at most, Å, up to periodic images and a translation.

    A translation costs nothing and is not compared: a step that is cut short atom by atom moves the whole.
    """
    cell = atoms.cell.array
    moved = positions - atoms.positions
    moved -= np.round(moved @ np.linalg.inv(cell)) @ cell
    return float(np.abs(moved - moved.mean(axis=0)).max())
