"""Point defects carved out of a cubic crystal: which atoms go, where some come in, what is bent.

Carving is random but not rattled: what comes out is a parent. `rattled` turns a parent into a start. All
lengths in Å, in a cubic cell with periodic boundaries; numpy, because it happens once per start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from thalweg.errors import StructureError

CLEARANCE = 1.5
"""An inserted atom is at least this far from every other, Å."""

_TRIES = 100_000

_Points = Float[np.ndarray, "atoms 3"]


@dataclass(frozen=True, eq=False)
class Cell:
    """Atoms in a cubic cell, before they are rattled."""

    positions: _Points
    """Cartesian positions, Å; inserted atoms last."""
    length: float
    """Edge of the cell, Å."""
    inserted: int = 0
    """How many atoms at the end were inserted; these are not rattled."""


def vacancy(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Remove one atom."""
    return _without(crystal, [int(generator.integers(len(crystal.positions)))])


def interstitial(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Insert one atom anywhere that is clear of all others."""
    return _with(crystal, crystal.length * generator.random((_TRIES, 3)))


def divacancy(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Remove one atom and another of its first or second neighbours."""
    first = int(generator.integers(len(crystal.positions)))
    return _without(crystal, [first, int(generator.choice(_shell(crystal, first, 16)))])


def diinterstitial(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Insert one atom and a second one within 4 Å of it."""
    one = interstitial(crystal, generator)
    return _with(one, _around(one.positions[-1], 4.0, generator))


def frenkel(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Remove one atom and insert one within 5 Å of where it was."""
    site = int(generator.integers(len(crystal.positions)))
    return _with(_without(crystal, [site]), _around(crystal.positions[site], 5.0, generator))


def distortion(crystal: Cell, generator: np.random.Generator) -> Cell:
    """Remove one atom and scale the distance of two of its four neighbours by 0.4 to 1.6.

    The neighbours of a defect are moved along their bond, as in the method of Mosquera-Lois and Kavanagh
    (Matter 4, 2602 (2021)), here with a factor drawn evenly from that range.
    """
    site = int(generator.integers(len(crystal.positions)))
    moved = generator.permutation(_shell(crystal, site, 4))[:2]
    outward = _wrapped(crystal.positions[moved] - crystal.positions[site], crystal.length)
    positions = crystal.positions.copy()
    positions[moved] += generator.uniform(-0.6, 0.6) * outward
    return _without(Cell(positions, crystal.length), [site])


@dataclass(frozen=True)
class Defect:
    """A kind of defect."""

    carve: Callable[[Cell, np.random.Generator], Cell]
    """Makes a parent from the perfect crystal."""
    rattle: float
    """Standard deviation of each Cartesian component of the rattle of its starts, Å."""


DEFECTS: Mapping[str, Defect] = {
    "interstitial": Defect(interstitial, 0.05),
    "vacancy": Defect(vacancy, 0.35),
    "divacancy": Defect(divacancy, 0.35),
    "diinterstitial": Defect(diinterstitial, 0.05),
    "frenkel": Defect(frenkel, 0.05),
    "distortion": Defect(distortion, 0.15),
}
"""Every kind by its name in settings."""


def rattled(parent: Cell, deviation: float, generator: np.random.Generator) -> _Points:
    """Return the positions of a parent after a normal rattle that leaves inserted atoms clear of the others.

    Inserted atoms stay where they are; the rattle of the others is drawn again until none is too near.

    Raises:
        StructureError: no draw of many left them clear.
    """
    host = len(parent.positions) - parent.inserted
    for _ in range(1000):
        positions = parent.positions.copy()
        positions[:host] += deviation * generator.standard_normal((host, 3))
        if all(_clear(positions[:host], site, parent.length) for site in positions[host:]):
            return positions
    raise StructureError(
        f"1000 rattles of {deviation} Å left an inserted atom closer than {CLEARANCE} Å to another: "
        "rattle less"
    )


def _wrapped(vectors: Float[np.ndarray, "*any 3"], length: float) -> Float[np.ndarray, "*any 3"]:
    wrapped: np.ndarray = vectors - length * np.round(vectors / length)
    return wrapped


def _clear(positions: _Points, site: Float[np.ndarray, " 3"], length: float) -> bool:
    square = np.square(_wrapped(positions - site, length)).sum(axis=1)
    return bool(square.min() >= CLEARANCE**2)


def _shell(crystal: Cell, site: int, count: int) -> np.ndarray:
    """Return the nearest neighbours of an atom; in diamond 4 are the first shell, 16 the first two."""
    square = np.square(_wrapped(crystal.positions - crystal.positions[site], crystal.length)).sum(axis=1)
    return np.argsort(square, kind="stable")[1 : count + 1]


def _around(centre: Float[np.ndarray, " 3"], radius: float, generator: np.random.Generator) -> _Points:
    offsets = radius * (2 * generator.random((_TRIES // 10, 3)) - 1)
    found: np.ndarray = centre + offsets[np.square(offsets).sum(axis=1) < radius**2]
    return found


def _without(crystal: Cell, atoms: list[int]) -> Cell:
    return Cell(np.delete(crystal.positions, atoms, axis=0), crystal.length, crystal.inserted)


def _with(crystal: Cell, candidates: _Points) -> Cell:
    """Return the cell with an atom at the first candidate that is clear of all others."""
    for site in candidates:
        if _clear(crystal.positions, site, crystal.length):
            positions = np.concatenate([crystal.positions, site[None]])
            return Cell(positions, crystal.length, crystal.inserted + 1)
    raise StructureError(
        f"none of {len(candidates)} places is {CLEARANCE} Å clear of all atoms: the crystal is too dense for "
        "an inserted atom"
    )
