"""Rotations turn everything or nothing: judged by a surface that is equivariant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from thalweg.errors import StructureError
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.structures.pairs import Frames, Pairs
from thalweg.structures.rotation import random_rotations, rotate, rotate_frames, rotate_pairs

KEYS = [f"{k}" for k in range(3000)]


def cells() -> Structures:
    """Two strained, rattled cells of silicon."""
    frames = []
    for k in range(2):
        atoms = bulk("Si", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * np.triu(np.ones((3, 3)))), scale_atoms=True)
        atoms.rattle(0.1, seed=k)
        frames.append(atoms)
    return Structures.from_atoms(frames)


def labelled() -> Frames:
    structures = cells()
    label = StillingerWeber.from_published("Si")(structures, stress=True)
    return Frames(structures, label.energy, label.forces, structures.ids, label.stress)


def two() -> torch.Tensor:
    return random_rotations(3, "test", ["a", "b"])


def test_rotations_are_proper() -> None:
    found = random_rotations(1, "proper", KEYS[:50])
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(found @ found.transpose(1, 2), eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_rotations_are_uniform() -> None:
    """First moments vanish, second are 1/3, and the angle has density (1 − cos φ)/π, hence mean π/2 + 2/π."""
    found = random_rotations(1, "uniform", KEYS)
    assert float(found.mean(dim=0).abs().max()) < 4 * (1 / 3 / len(KEYS)) ** 0.5
    assert float((found.square().mean(dim=0) - 1 / 3).abs().max()) < 4 * (4 / 45 / len(KEYS)) ** 0.5
    trace = found.diagonal(dim1=1, dim2=2).sum(dim=1)
    angle = (0.5 * (trace - 1)).clamp(-1, 1).acos()
    assert float(angle.mean()) == pytest.approx(np.pi / 2 + 2 / np.pi, abs=4 * 0.65 / len(KEYS) ** 0.5)


def test_a_rotation_depends_on_its_own_key_alone() -> None:
    assert torch.equal(random_rotations(3, "test", ["b"])[0], two()[1])
    assert not torch.equal(two()[0], two()[1])
    assert not torch.equal(random_rotations(4, "test", ["b"])[0], two()[1])


def test_labels_of_turned_frames_are_those_of_the_surface_there() -> None:
    frames = labelled()
    turned = rotate_frames(frames, two())
    found = StillingerWeber.from_published("Si")(turned.structures, stress=True)
    torch.testing.assert_close(found.energy, turned.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, turned.forces, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.stress, turned.stress, rtol=0, atol=1e-12)
    assert torch.equal(turned.energy, frames.energy)
    assert not torch.allclose(turned.forces, frames.forces, atol=0.1)


def test_a_cell_left_behind_is_found() -> None:
    """Negative control: the surface notices a cell that does not turn along."""
    frames = labelled()
    turned = rotate_frames(frames, two())
    found = StillingerWeber.from_published("Si")(turned.structures.with_cell(frames.structures.cell))
    assert float((found.energy - frames.energy).abs().min()) > 1.0


def test_pairs_turn_alike_and_keep_their_distance() -> None:
    starts = cells()
    shifted = starts.positions + 0.2 * torch.randn(starts.positions.shape, dtype=torch.float64)
    minima = starts.with_positions(shifted + 0.9 * starts.cell[starts.owner, 0])  # across a face
    forces = StillingerWeber.from_published("Si")(starts).forces
    pairs = Pairs(starts, minima, starts.ids, forces_start=forces)
    turned = rotate_pairs(pairs, two())
    wanted = delta_q(starts, minima)
    torch.testing.assert_close(delta_q(turned.starts, turned.minima), wanted, rtol=1e-9, atol=0)
    assert torch.equal(turned.starts.cell, turned.minima.cell)
    again = StillingerWeber.from_published("Si")(turned.starts).forces
    torch.testing.assert_close(turned.forces_start, again, rtol=0, atol=1e-11)
    apart = replace(turned, starts=turned.starts.with_positions(pairs.starts.positions))  # not turned with its cell
    assert not torch.allclose(delta_q(apart.starts, apart.minima), wanted, rtol=0.01)


def test_atoms_fixed_wholly_stay_fixed_and_those_fixed_in_part_are_refused() -> None:
    structures = cells()
    free = structures.free.clone()
    free[3] = False
    assert torch.equal(rotate(replace(structures, free=free), two()).free, free)
    free[9, 1] = False
    with pytest.raises(StructureError, match="structure '1': atom 1 is fixed in some components"):
        rotate(replace(structures, free=free), two())
