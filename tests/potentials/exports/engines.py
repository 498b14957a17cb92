"""What tests of other programs share: inputs, taken from docs/exports.md as a user reads them, structures, our answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk
from ase.io import read, write
from numpy.typing import NDArray
from tests.cli.terminal import thalweg
from tests.potentials.exports.exported import ROOT

from thalweg.seeds import numpy_stream


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


def our_minimum(model: str, atoms: Atoms, folder: Path) -> Atoms:
    """Return where `thalweg relax` ends, at 1e-5 eV/Å; its energy, eV, is `info["potential_energy"]`."""
    write(folder / "ours.extxyz", atoms)
    done = thalweg("relax", model, folder / "ours.extxyz", "--out", folder / "relaxed.extxyz", "fmax=1e-5")
    assert "1 converged" in done.out, done
    return read(folder / "relaxed.extxyz")


def apart(others: Atoms, positions: NDArray[np.float64]) -> float:
    """Return how far positions are from those of a structure at most, Å, up to periodic images and a translation.

    A translation costs nothing and is not compared: a step that is cut short atom by atom moves the whole.
    """
    cell = others.cell.array
    moved = positions - others.positions
    moved -= np.round(moved @ np.linalg.inv(cell)) @ cell
    return float(np.abs(moved - moved.mean(axis=0)).max())
