"""Oxide slabs and what is done to their surface: which ions go, come in or move. Numpy, once per start.

The surface lies along x and y, its outward normal along z. Every change keeps the slab neutral: whole formula units
come and go. Carving is random but not rattled: what comes out is a parent. All lengths in Å.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Bool, Float, Int

from thalweg.errors import StructureError

CLEARANCE = 1.6
"""Ions put on the surface are at least this far from every other, Å; the shortest bond of the crystals is 1.93."""

_TRIES = 20_000

_Points = Float[np.ndarray, "ions 3"]


@dataclass(frozen=True, eq=False)
class Slab:
    """Ions of a slab, before they are rattled."""

    numbers: Int[np.ndarray, " ions"]
    """Atomic numbers; ions put on the surface last."""
    positions: _Points
    """Cartesian positions, Å."""
    fixed: Bool[np.ndarray, " ions"]
    """Ions that do not move."""
    top: Bool[np.ndarray, " ions"]
    """Ions of the outermost layer."""
    cell: Float[np.ndarray, " 3"]
    """Edges of the orthogonal cell, Å; the last holds the vacuum."""
    placed: int = 0
    """How many ions at the end were put on the surface."""

    def without(self, ions: list[int]) -> Slab:
        """Return the slab with some ions left out."""
        kept = np.setdiff1d(np.arange(len(self.numbers)), ions)
        return replace(
            self,
            numbers=self.numbers[kept],
            positions=self.positions[kept],
            fixed=self.fixed[kept],
            top=self.top[kept],
        )

    def with_ion(self, number: int, site: Float[np.ndarray, " 3"]) -> Slab:
        """Return the slab with one more ion on its surface."""
        return replace(
            self,
            numbers=np.append(self.numbers, number),
            positions=np.concatenate([self.positions, site[None]]),
            fixed=np.append(self.fixed, False),
            top=np.append(self.top, False),
            placed=self.placed + 1,
        )

    def distances(self, site: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " ions"]:
        """Return how far every ion is from a site, its nearest image taken."""
        away = self.positions - site
        away -= self.cell * np.round(away / self.cell)
        found: np.ndarray = np.sqrt(np.square(away).sum(axis=1))
        return found


@dataclass(frozen=True)
class Crystal:
    """A material: its crystal at rest on the default surface, and how a layer of its face is laid out."""

    symbols: tuple[str, ...]
    """Symbols of one formula unit, the cation first."""
    edges: tuple[float, float, float]
    """Edges of the surface cell along x and y and the height of a layer, Å."""
    layer: Callable[[tuple[float, float, float]], list[tuple[str, float, float, float]]]
    """Symbol and position of each ion of the layer at height 0 in one surface cell."""
    shift: tuple[float, float]
    """By what share of x and y edges each layer is moved against the one below."""
    energy_per_ion: float
    """Energy of the perfect crystal, eV per ion."""

    def slab(self, repeat: tuple[int, int], layers: int, fixed: int, vacuum: float) -> Slab:
        """Return a slab of `layers` layers, the lowest `fixed` of which do not move.

        Args:
            repeat: surface cells along x and y.
            layers: number of layers.
            fixed: how many of them, from below, are fixed.
            vacuum: empty height above the slab, Å.
        """
        x, y, height = self.edges
        ions = self.layer(self.edges)
        numbers, positions, levels = [], [], []
        for level in range(layers):
            for i in range(repeat[0]):
                for j in range(repeat[1]):
                    for symbol, *at in ions:
                        moved = (at[0] + self.shift[0] * level * x) % x, (at[1] + self.shift[1] * level * y) % y
                        numbers.append(atomic_numbers[symbol])
                        positions.append((moved[0] + i * x, moved[1] + j * y, at[2] + level * height))
                        levels.append(level)
        places, level_of = np.array(positions), np.array(levels)
        thickness = float(np.ptp(places[:, 2]))
        places[:, 2] -= places[:, 2].min()
        return Slab(
            numbers=np.array(numbers),
            positions=places,
            fixed=np.asarray(level_of < fixed),
            top=np.asarray(level_of == layers - 1),
            cell=np.array([repeat[0] * x, repeat[1] * y, thickness + vacuum]),
        )


MGO_EDGE = 4.213402
"""Lattice constant of MgO at rest, Å."""
RUTILE_A, RUTILE_C, RUTILE_U = 4.494974, 3.009563, 0.303263
"""Lattice constants (Å) and the coordinate of oxygen of rutile TiO2 at rest."""


def _rocksalt_layer(edges: tuple[float, float, float]) -> list[tuple[str, float, float, float]]:
    x, y, _ = edges
    return [("Mg", 0.0, 0.0, 0.0), ("Mg", x / 2, y / 2, 0.0), ("O", x / 2, 0.0, 0.0), ("O", 0.0, y / 2, 0.0)]


def _rutile_layer(edges: tuple[float, float, float]) -> list[tuple[str, float, float, float]]:
    """Return a layer O-Ti2O2-O of the (110) face: x is [001], y is [1-10]; bridging oxygen above and below."""
    x, y, height = edges
    bridge = (1 - 2 * RUTILE_U) * height
    return [
        ("Ti", 0.0, 0.0, 0.0),
        ("Ti", x / 2, y / 2, 0.0),
        ("O", x / 2, (1 - 2 * RUTILE_U) * height, 0.0),
        ("O", x / 2, y - (1 - 2 * RUTILE_U) * height, 0.0),
        ("O", 0.0, y / 2, bridge),
        ("O", 0.0, y / 2, -bridge),
    ]


CRYSTALS: Mapping[str, Crystal] = {
    "MgO": Crystal(("Mg", "O"), (MGO_EDGE, MGO_EDGE, MGO_EDGE / 2), _rocksalt_layer, (0.5, 0.0), -40.70958 / 2),
    "TiO2": Crystal(
        ("Ti", "O", "O"), (RUTILE_C, 2**0.5 * RUTILE_A, RUTILE_A / 2**0.5), _rutile_layer, (0.0, 0.5), -39.94190 / 3
    ),
}
"""MgO with its (001) face and rutile TiO2 with its (110) face."""


def added(slab: Slab, symbols: tuple[str, ...], height: float, generator: np.random.Generator) -> Slab:
    """Put a formula unit on the surface: the cation anywhere within `height` of it, its anions within 3.5 Å of that."""
    number = atomic_numbers[symbols[0]]
    slab = _placed(slab, number, height, generator)
    centre = slab.positions[-1]
    for symbol in symbols[1:]:
        slab = _placed(slab, atomic_numbers[symbol], height, generator, centre, 3.5)
    return slab


def removed(slab: Slab, symbols: tuple[str, ...], height: float, generator: np.random.Generator) -> Slab:
    """Take a formula unit out of the outermost layer: a cation and anions drawn from its neighbours there."""
    cations = np.flatnonzero(slab.top & (slab.numbers == atomic_numbers[symbols[0]]))
    site = int(generator.choice(cations))
    anions = np.flatnonzero(slab.top & (slab.numbers == atomic_numbers[symbols[1]]))
    near = anions[np.argsort(slab.distances(slab.positions[site])[anions], kind="stable")][:4]
    gone = generator.permutation(near)[: len(symbols) - 1]
    return slab.without([site, *(int(k) for k in gone)])


def moved(slab: Slab, symbols: tuple[str, ...], height: float, generator: np.random.Generator) -> Slab:
    """Take a cation or an anion out of the outermost layer and put it on the surface somewhere else."""
    site = int(generator.choice(np.flatnonzero(slab.top)))
    number = int(slab.numbers[site])
    return _placed(slab.without([site]), number, height, generator)


CHANGES: Mapping[str, Callable[[Slab, tuple[str, ...], float, np.random.Generator], Slab]] = {
    "added": added,
    "removed": removed,
    "moved": moved,
}
"""What is done to a surface, by its name in settings."""


def rattled(parent: Slab, deviation: float, generator: np.random.Generator) -> _Points:
    """Return the positions of a parent after a normal rattle of every ion that moves and was not put on the surface.

    Raises:
        StructureError: no draw of many left the ions on the surface clear of the others.
    """
    host = len(parent.numbers) - parent.placed
    loose = np.flatnonzero(~parent.fixed[:host])
    for _ in range(1000):
        positions = parent.positions.copy()
        positions[loose] += deviation * generator.standard_normal((len(loose), 3))
        shaken = replace(parent, positions=positions)
        if all(np.sort(shaken.distances(site))[1] >= CLEARANCE for site in positions[host:]):
            return positions
    raise StructureError(
        f"1000 rattles of {deviation} Å left an ion on the surface closer than {CLEARANCE} Å to another: rattle less"
    )


def _placed(
    slab: Slab,
    number: int,
    height: float,
    generator: np.random.Generator,
    centre: Float[np.ndarray, " 3"] | None = None,
    reach: float = np.inf,
) -> Slab:
    """Return the slab with an ion at the first random place above it that is clear of all others."""
    host = slab.positions[: len(slab.numbers) - slab.placed]
    ceiling = float(host[:, 2].max())
    for _ in range(_TRIES):
        site = generator.random(3) * [slab.cell[0], slab.cell[1], height] + [0.0, 0.0, ceiling]
        if centre is not None:
            away = site - centre
            away -= slab.cell * np.round(away / slab.cell)
            if np.linalg.norm(away) > reach:
                continue
        if slab.distances(site).min() >= CLEARANCE:
            return slab.with_ion(number, site)
    raise StructureError(
        f"none of {_TRIES} places up to {height} Å above the surface is {CLEARANCE} Å clear of all ions: raise it"
    )
