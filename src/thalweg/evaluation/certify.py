"""Certifying a potential: every route on a few small structures, by `thalweg verify`.

The user's own starts are the best test. Without any, small strained and rattled crystals serve: of silicon if the
potential takes it, then of other known crystals of its elements.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from thalweg.errors import SettingsError
from thalweg.gradients import Implicit, Phantom, Route, Split, Unrolled
from thalweg.gradients.verification import Verdict, verify
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.path import Path
from thalweg.relaxation.stability import safe_alpha
from thalweg.relaxation.update import Descent
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

_KNOWN = (
    *(("Si", "Si"), ("Ga", "As"), ("Cd", "Te"), ("Ge", "Ge"), ("Zn", "S"), ("In", "P"), ("Si", "C"), ("C", "C")),
    *(("Al", "As"), ("Ga", "P"), ("Zn", "Se"), ("Zn", "Te"), ("In", "As"), ("Ga", "Sb"), ("In", "Sb"), ("Al", "P")),
    *(("Al", "Sb"), ("B", "N"), ("B", "P"), ("Hg", "Te"), ("Cu", "Cl"), ("Cu", "Br"), ("Cu", "I"), ("Be", "S")),
    ("Sn", "Sn"),
)
"""Crystals of diamond and zinc blende that exist, in the order in which they are taken."""


def certify(
    potential: Potential,
    starts: Structures | None = None,
    *,
    count: int = 2,
    steps: int = 12,
    seed: int = 0,
    coordinates: FreeCoordinates | None = None,
) -> list[Verdict]:
    """Check the gradients of all routes of a potential against central differences in float64.

    Args:
        potential: what is checked; stays as it is.
        starts: where relaxations begin; the first `count` are used. None takes small rattled crystals.
        count: how many starts.
        steps: updates T of the path; horizons are half of it.
        seed: root seed.
        coordinates: what moves; atoms in a fixed cell by default.

    Raises:
        SettingsError: `count` below 1 or `steps` below 2.
        PotentialError: an element that the potential never saw.
    """
    if count < 1:
        raise SettingsError(f"count is {count}: allowed is 1 or more starts")
    if steps < 2:
        raise SettingsError(f"steps is {steps}: allowed is 2 or more updates, e.g. 12")
    starts = small_crystals(potential, count, seed) if starts is None else starts
    starts = starts.select(range(min(count, len(starts)))).to(dtype=torch.float64)
    potential.check(starts)
    exact = copy.deepcopy(potential).double()
    moving = Positions() if coordinates is None else coordinates
    alpha = safe_alpha(exact, starts, largest=0.03, coordinates=moving)
    path = Path(Descent(alpha=alpha), steps=steps, coordinates=moving)
    half = steps // 2
    routes: list[Route] = [
        Unrolled(recompute=False),
        Unrolled(),
        Unrolled(horizon=half),
        Implicit(),
        Phantom(updates=3),
        Split(horizon=half, recompute=False),
        Split(horizon=half),
    ]
    return verify(exact, starts, path, routes, directions=1, seed=seed)


def small_crystals(potential: Potential, count: int, seed: int, *, strain: float = 0.03) -> Structures:
    """Return rattled cells of eight atoms, diamond or zinc blende, of the elements that `crystal_elements` names.

    The nearest distance is the sum of the covalent radii (Cordero et al. 2008), the rattle 0.05 Å. The cell is
    strained at random: a crystal that relaxes to its perfect sites stays there whatever the parameters, and there
    is no gradient to verify; under strain the two sublattices shift by an amount that depends on them.

    Args:
        potential: whose species are taken.
        count: how many cells.
        seed: root seed.
        strain: standard deviation of each entry of the strain.
    """
    frames: list[Atoms] = []
    for k, frame in enumerate(perfect_crystals(potential, [1.0] * count)):
        stream = numpy_stream(seed, "certify", k)
        frame.positions += 0.05 * stream.standard_normal(frame.positions.shape)
        entries = strain * stream.standard_normal((3, 3))
        frame.set_cell(frame.cell.array @ (np.eye(3) + 0.5 * (entries + entries.T)), scale_atoms=True)
        frames.append(frame)
    return Structures.from_atoms(frames)


def crystal_elements(species: Sequence[int]) -> list[tuple[int, int]]:
    """Return which two elements hold the sublattices of each crystal, the same twice for diamond.

    Known crystals of these elements come first, silicon before all: a potential that takes every element would begin
    with hydrogen and helium otherwise, of which nobody knows such a crystal. Where none is known, the elements next
    to each other by number are taken, or the one there is.

    Args:
        species: atomic numbers.
    """
    numbered = [(atomic_numbers[a], atomic_numbers[b]) for a, b in _KNOWN]
    known = [couple for couple in numbered if set(couple) <= set(species)]
    return known or list(pairwise(species)) or [(species[0], species[0])]


def crystal_names(species: Sequence[int], count: int) -> list[str]:
    """Return the formulas of the first `count` crystals, each once."""
    return [_formula(a, b) for a, b in crystal_elements(species)[:count]]


def _formula(a: int, b: int) -> str:
    return chemical_symbols[a] if a == b else chemical_symbols[a] + chemical_symbols[b]


def perfect_crystals(
    potential: Potential,
    scales: Sequence[float],
    structure: str = "zincblende",
    species: Sequence[int] | None = None,
) -> list[Atoms]:
    """Return cubic cells of eight atoms without rattle or strain, each scaled, of the pairs of elements in turn.

    Args:
        potential: whose species are taken, by `crystal_elements`.
        scales: factor on the lattice constant of each, which at 1 puts neighbours at the sum of covalent radii.
        structure: `zincblende` or `rocksalt`, which with one element are diamond and simple cubic.
        species: atomic numbers instead of all that the potential knows.
    """
    couples = crystal_elements(list(potential.species if species is None else species))
    bonds = 4 / 3**0.5 if structure == "zincblende" else 2.0  # lattice constant over nearest distance
    frames: list[Atoms] = []
    for k, scale in enumerate(scales):
        a, b = couples[k % len(couples)]
        lattice = scale * bonds * (covalent_radii[a] + covalent_radii[b])
        frame = bulk("ZnS", structure, a=lattice, cubic=True)
        frame.numbers = np.where(frame.numbers == 30, a, b)
        frame.info["id"] = f"{_formula(a, b)}-{k}"
        frames.append(frame)
    return frames
