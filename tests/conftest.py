"""What every test stands on: one thread, shapes and types checked at run time, small seeded structures."""

from __future__ import annotations

import sys

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import runtime_types

if "thalweg" in sys.modules:
    raise pytest.UsageError("thalweg was imported before conftest: its types would go unchecked")
install_import_hook("thalweg", f"{runtime_types.__name__}.check")

from thalweg.seeds import numpy_stream  # noqa: E402  (the hook must come first)
from thalweg.structures.batch import Structures  # noqa: E402

torch.set_num_threads(1)  # two threads on small cells were seen 50 times slower than one on a busy machine
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

SEED = 2718


def rattled(atoms: Atoms, name: str, amplitude: float) -> Atoms:
    """Return a copy with every coordinate moved by a normal deviate (Å) drawn from the stream of `name`."""
    moved = atoms.copy()
    moved.positions += amplitude * numpy_stream(SEED, "test fixtures", name).standard_normal(
        atoms.positions.shape
    )
    moved.info["id"] = name
    return moved


@pytest.fixture(autouse=True)
def _global_stream() -> None:
    """Start torch's global stream alike for every test, so that none depends on which ran before it."""
    torch.manual_seed(SEED)


@pytest.fixture
def silicon8() -> Structures:
    """The cubic cell of silicon, 8 atoms, rattled by 0.05 Å."""
    return Structures.from_atoms(rattled(bulk("Si", cubic=True), "silicon8", 0.05))


@pytest.fixture
def silicon64() -> Structures:
    """The doubled cubic cell of silicon, 64 atoms, rattled by 0.05 Å."""
    return Structures.from_atoms(rattled(bulk("Si", cubic=True) * (2, 2, 2), "silicon64", 0.05))


@pytest.fixture
def cdte8() -> Structures:
    """Zinc-blende CdTe (a = 6.48 Å), two species, 8 atoms, rattled by 0.05 Å."""
    return Structures.from_atoms(rattled(bulk("CdTe", "zincblende", a=6.48, cubic=True), "cdte8", 0.05))


@pytest.fixture
def ragged(silicon8: Structures, cdte8: Structures) -> Structures:
    """A batch of unequal members: 8 atoms of silicon, 8 of CdTe, 2 of silicon in the primitive cell."""
    two = Structures.from_atoms(rattled(bulk("Si"), "silicon2", 0.05))
    return Structures.concatenate([silicon8, cdte8, two])
