"""Small rattled structures on which potentials are held to their contract."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures


def silicon() -> Structures:
    """A strained cell, a primitive cell and a cluster of silicon, rattled by 0.1 Å."""
    strained = bulk("Si", cubic=True)
    deformation = np.array([[1.0, 0.03, 0.0], [0.0, 1.0, 0.0], [0.02, 0.0, 0.96]])
    strained.set_cell(strained.cell.array @ deformation, scale_atoms=True)
    cluster = bulk("Si", cubic=True)
    return _rattled([strained, bulk("Si"), Atoms(cluster.numbers, cluster.positions)])


def compounds() -> Structures:
    """Silicon and cadmium telluride, in cells and as a cluster."""
    telluride = bulk("CdTe", "zincblende", a=6.48, cubic=True)
    return _rattled([bulk("Si", cubic=True), telluride, Atoms(telluride.numbers, telluride.positions)])


def tellurides() -> Structures:
    """Cadmium telluride as a cell and as a cluster, 8 atoms each."""
    telluride = bulk("CdTe", "zincblende", a=6.48, cubic=True)
    return _rattled([telluride, Atoms(telluride.numbers, telluride.positions)])


def cells() -> Structures:
    """Silicon and cadmium telluride, in cells of 2 and 8 atoms."""
    return _rattled([bulk("Si"), bulk("CdTe", "zincblende", a=6.48, cubic=True)])


def titanium() -> Structures:
    """Titanium as a strained cell, with carbon monoxide between its atoms, and as a cluster."""
    strained = bulk("Ti", "hcp", a=2.92, c=4.77) * (2, 2, 1)
    strained.set_cell(strained.cell.array * [1.03, 1.0, 0.97], scale_atoms=True)
    occupied = bulk("Ti", "hcp", a=3.6, c=5.8) + Atoms("CO", [[0.0, 0.0, 2.4], [0.0, 0.0, 3.6]])
    cluster = bulk("Ti", "hcp", a=2.92, c=4.77) * (2, 1, 1)
    return _rattled([strained, occupied, Atoms(cluster.numbers, cluster.positions)])


def oxides() -> Structures:
    """Magnesium oxide in a strained cell, in the primitive cell and as a cluster."""
    strained = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    strained.set_cell(
        strained.cell.array @ np.array([[1.0, 0.03, 0.0], [0.0, 1.0, 0.0], [0.02, 0.0, 0.96]]), scale_atoms=True
    )
    cluster = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    return _rattled([strained, bulk("MgO", "rocksalt", a=4.2), Atoms(cluster.numbers, cluster.positions)])


def _rattled(frames: list[Atoms]) -> Structures:
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(7, "contract structures", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)
