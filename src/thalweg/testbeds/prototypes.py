"""Crystals before they relax: known prototypes in random supercells, exchanged and strained, and random ones.

Lengths in Å, cells as rows, periodic in three directions; numpy, because it happens once per start. Sites of a
prototype belong to one of two sublattices, 0 and 1; with one element both hold it, so that zinc blende is diamond,
rock salt simple cubic, caesium chloride bcc, copper–gold fcc and wurtzite lonsdaleite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from ase.geometry import minkowski_reduce
from jaxtyping import Float, Int

from thalweg.errors import StructureError

_TRIES = 2000
_HEXAGON = ((1.0, 0.0, 0.0), (-0.5, 0.75**0.5, 0.0))
_FCC = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_IMAGES = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)


@dataclass(frozen=True, eq=False)
class Crystal:
    """Atoms in a cell."""

    cell: Float[np.ndarray, "3 3"]
    """Lattice vectors as rows, Å."""
    fractions: Float[np.ndarray, "atoms 3"]
    """Places as fractions of the lattice vectors."""
    kinds: Int[np.ndarray, " atoms"]
    """0 or 1: which element."""

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def positions(self) -> Float[np.ndarray, "atoms 3"]:
        """Cartesian positions, Å."""
        found: np.ndarray = self.fractions @ self.cell
        return found

    def scaled(self, volume_per_atom: float) -> Crystal:
        """Return the crystal at a volume per atom, Å³."""
        factor = (volume_per_atom * len(self.kinds) / self.volume) ** (1 / 3)
        return replace(self, cell=factor * self.cell)

    def shaken(self, rattle: float, strain: float, generator: np.random.Generator) -> Crystal:
        """Return the crystal after a symmetric strain and a rattle, normal deviates of these standard deviations.

        Args:
            rattle: of each Cartesian component of a place, Å.
            strain: of each component of the strain.
            generator: stream of both.
        """
        deviates = strain * generator.standard_normal((3, 3))
        cell = self.cell @ (np.eye(3) + np.triu(deviates) + np.triu(deviates, 1).T)
        moved = rattle * generator.standard_normal(self.fractions.shape)
        return replace(self, cell=cell, fractions=self.fractions + moved @ np.linalg.inv(cell))


@dataclass(frozen=True)
class Prototype:
    """A known structure: a primitive cell with cubic edge or hexagonal a of 1, and its two sublattices."""

    cell: tuple[tuple[float, float, float], ...]
    fractions: tuple[tuple[float, float, float], ...]
    kinds: tuple[int, ...]


PROTOTYPES: Mapping[str, Prototype] = {
    "zincblende": Prototype(_FCC, ((0, 0, 0), (0.25, 0.25, 0.25)), (0, 1)),
    "rocksalt": Prototype(_FCC, ((0, 0, 0), (0.5, 0.5, 0.5)), (0, 1)),
    "caesium-chloride": Prototype(
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), ((0, 0, 0), (0.5, 0.5, 0.5)), (0, 1)
    ),
    "copper-gold": Prototype(
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 2**0.5)), ((0, 0, 0), (0.5, 0.5, 0.5)), (0, 1)
    ),
    "wurtzite": Prototype(
        (*_HEXAGON, (0.0, 0.0, (8 / 3) ** 0.5)),
        ((1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0.5), (1 / 3, 2 / 3, 0.375), (2 / 3, 1 / 3, 0.875)),
        (0, 0, 1, 1),
    ),
    "nickel-arsenide": Prototype(
        (*_HEXAGON, (0.0, 0.0, (8 / 3) ** 0.5)),
        ((0, 0, 0), (0, 0, 0.5), (1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)),
        (0, 0, 1, 1),
    ),
}
"""Every prototype by its name in the ids of pairs."""


def supercell(prototype: Prototype, fewest: int, most: int, generator: np.random.Generator) -> Crystal:
    """Return a prototype in a supercell of a random size and shape with `fewest` to `most` atoms.

    Raises:
        StructureError: no multiple of the primitive cell has so many atoms.
    """
    sites = len(prototype.kinds)
    sizes = [m for m in range(1, most // sites + 1) if m * sites >= fewest]
    if not sizes:
        raise StructureError(f"no supercell of {sites} atoms each has {fewest} to {most}: allow more")
    size = int(generator.choice(sizes))
    matrix = _sublattice(size, generator)
    cell = np.array(prototype.cell)
    span = np.array([[i, j, k] for i in range(size) for j in range(size) for k in range(size)], dtype=float)
    inverse = np.linalg.inv(matrix)
    inside = np.unique(np.round((span @ inverse) % 1.0 % (1 - 1e-9), 9), axis=0)
    fractions = (np.array(prototype.fractions) @ inverse)[:, None] + inside[None]
    reduced, change = minkowski_reduce(matrix @ cell)
    return Crystal(
        np.asarray(reduced, dtype=float),
        fractions.reshape(-1, 3) @ np.linalg.inv(change),
        np.repeat(np.array(prototype.kinds), len(inside)),
    )


def exchanged(crystal: Crystal, share: float, generator: np.random.Generator) -> Crystal:
    """Return the crystal with each atom exchanged for the other element by chance `share`."""
    flip = generator.random(len(crystal.kinds)) < share
    return replace(crystal, kinds=np.where(flip, 1 - crystal.kinds, crystal.kinds))


def random_crystal(atoms: int, volume: float, clearance: float, generator: np.random.Generator) -> Crystal:
    """Return atoms at random in a random cell, no two of them, images included, closer than `clearance`.

    The cell has edges in proportions drawn evenly from 0.7 to 1.4 and angles from 60° to 120°, scaled to its volume
    and Minkowski-reduced; atoms are put in one by one. A cell in which one finds no place is drawn again.

    Args:
        atoms: how many.
        volume: of the cell, Å³.
        clearance: smallest distance, Å.
        generator: stream of all draws.

    Raises:
        StructureError: no draw of many left room for all.
    """
    for _ in range(_TRIES):
        cell = _random_cell(volume, generator)
        if cell is None or np.linalg.norm(cell, axis=1).min() < clearance:
            continue
        fractions = _placed(cell, atoms, clearance, generator)
        if fractions is not None:
            return Crystal(cell, fractions, generator.integers(0, 2, atoms))
    raise StructureError(
        f"{_TRIES} draws left no room for {atoms} atoms {clearance:.3g} Å apart in {volume:.4g} Å³: allow a smaller "
        "clearance or more volume"
    )


def _sublattice(size: int, generator: np.random.Generator) -> np.ndarray:
    """Return a random matrix of whole numbers in Hermite's form whose determinant is `size`."""
    divisors = [(a, b) for a in range(1, size + 1) for b in range(1, size + 1) if size % (a * b) == 0]
    a, b = divisors[int(generator.integers(len(divisors)))]
    c = size // (a * b)
    low = [int(generator.integers(n)) for n in (b, c, c)]
    return np.array([[a, low[0], low[1]], [0, b, low[2]], [0, 0, c]], dtype=float)


def _random_cell(volume: float, generator: np.random.Generator) -> np.ndarray | None:
    """Return a reduced cell, None where the angles drawn do not close."""
    lengths, cosines = generator.uniform(0.7, 1.4, 3), np.cos(np.deg2rad(generator.uniform(60, 120, 3)))
    alpha, beta, gamma = cosines
    gram = np.array([[1, gamma, beta], [gamma, 1, alpha], [beta, alpha, 1]]) * np.outer(lengths, lengths)
    if np.linalg.eigvalsh(gram)[0] < 0.05:
        return None
    cell = np.linalg.cholesky(gram)
    cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
    return np.asarray(minkowski_reduce(cell)[0], dtype=float)


def _placed(cell: np.ndarray, atoms: int, clearance: float, generator: np.random.Generator) -> np.ndarray | None:
    """Return the fractions of atoms put in one by one, None where one finds no place in a hundred."""
    fractions = np.empty((0, 3))
    while len(fractions) < atoms:
        for candidate in generator.random((100, 3)):
            away = (candidate - fractions)[:, None] - np.rint(candidate - fractions)[:, None] + _IMAGES
            if not len(fractions) or np.linalg.norm(away @ cell, axis=2).min() >= clearance:
                fractions = np.vstack([fractions, candidate])
                break
        else:
            return None
    return fractions
