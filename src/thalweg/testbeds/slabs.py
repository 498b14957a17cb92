"""Close-packed hexagonal slabs with something above them: the host, where the adsorbate comes in, what is rattled.

Atoms of the slab come first, from the lowest layer to the highest, the adsorbate's last. What comes out of
`placed` is a parent; `rattled` turns it into a start. Lengths in Å; numpy, because it happens once per start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import hcp0001
from ase.constraints import FixAtoms
from jaxtyping import Float

from thalweg.errors import StructureError
from thalweg.structures.lattice import shortest_images

CLEARANCE = 1.5
"""An atom of the adsorbate starts at least this far from every atom of the slab, Å."""
VACUUM = 14.0
"""Empty height between a slab and its image above, Å: no potential here reaches across it."""

_TRIES = 10_000


@dataclass(frozen=True)
class Adsorbate:
    """What is put on a slab."""

    symbols: tuple[str, ...]
    """Its elements."""
    length: float = 0.0
    """Distance of its two atoms, Å; 0 for a single atom."""


ADSORBATES: Mapping[str, Adsorbate] = {
    "H": Adsorbate(("H",)),
    "N": Adsorbate(("N",)),
    "O": Adsorbate(("O",)),
    "Ti": Adsorbate(("Ti",)),
    "CO": Adsorbate(("C", "O"), 1.2),
}
"""Every adsorbate by its name in settings."""


@dataclass(frozen=True, eq=False)
class Slab:
    """A slab, with an adsorbate or bare."""

    atoms: Atoms
    """All atoms; `FixAtoms` holds the lowest layers."""
    host: int
    """How many of them, from the first on, are the slab's."""

    @property
    def free(self) -> Float[np.ndarray, "atoms 3"]:
        """1 where a component may move, 0 where it is held."""
        mask: np.ndarray = np.ones((len(self.atoms), 3))
        for constraint in self.atoms.constraints:
            mask[constraint.index] = 0.0
        return mask

    def at(self, positions: Float[np.ndarray, "atoms 3"], name: str) -> Atoms:
        """Return its atoms at other positions (Å), under a name."""
        moved = self.atoms.copy()
        moved.set_positions(positions, apply_constraint=False)
        moved.info["id"] = name
        return moved


def bare(symbol: str, a: float, c: float, *, layers: int, size: int, fixed: int) -> Slab:
    """Return a slab of `layers` (0001) layers, ABAB…, with `size` × `size` surface atoms.

    Args:
        symbol: the metal.
        a: lattice constant in the plane, Å.
        c: lattice constant across it, Å.
        layers: layers in all.
        size: repeats along both lattice vectors of the surface.
        fixed: how many layers, the lowest, are held.
    """
    atoms = hcp0001(symbol, size=(size, size, layers), a=a, c=c)
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    vectors = atoms.cell.array.copy()
    vectors[2] = [0.0, 0.0, (layers - 1) * c / 2 + VACUUM]
    atoms.set_cell(vectors)
    atoms.set_pbc(True)
    height = atoms.positions[:, 2]
    atoms = atoms[np.argsort(height, kind="stable")]
    atoms.set_constraint(FixAtoms(np.arange(fixed * size**2)))
    return Slab(atoms, len(atoms))


def placed(slab: Slab, adsorbate: Adsorbate, height: tuple[float, float], generator: np.random.Generator) -> Slab:
    """Put an adsorbate anywhere above a bare slab, turned at random, clear of its atoms.

    Args:
        slab: without an adsorbate.
        adsorbate: its middle comes to lie evenly over the cell.
        height: lowest and highest of its middle above the topmost layer, Å.
        generator: what draws.

    Raises:
        StructureError: no draw of many was clear of all atoms.
    """
    top = slab.atoms.positions[:, 2].max()
    for _ in range(_TRIES):
        fraction, up = generator.random(2), generator.uniform(*height)
        direction = generator.standard_normal(3)
        middle = fraction @ slab.atoms.cell.array[:2] + [0.0, 0.0, top + up]
        half = 0.5 * adsorbate.length * direction / np.linalg.norm(direction)
        sites = np.array([middle - half, middle + half][: len(adsorbate.symbols)])
        if _clear(slab, slab.atoms.positions, sites):
            joined = slab.atoms + Atoms(adsorbate.symbols, sites)
            joined.set_constraint(slab.atoms.constraints)
            return Slab(joined, slab.host)
    raise StructureError(
        f"none of {_TRIES} places at {height[0]} to {height[1]} Å above the surface is {CLEARANCE} Å clear of all "
        "atoms: raise the height"
    )


def rattled(parent: Slab, deviation: float, generator: np.random.Generator) -> Float[np.ndarray, "atoms 3"]:
    """Return positions after a normal rattle of the slab's free atoms that leaves the adsorbate clear of them.

    Raises:
        StructureError: no draw of many left it clear.
    """
    free = parent.free
    free[parent.host :] = 0.0
    for _ in range(1000):
        moved: np.ndarray = parent.atoms.positions + deviation * free * generator.standard_normal(free.shape)
        if _clear(parent, moved[: parent.host], moved[parent.host :]):
            return moved
    raise StructureError(
        f"1000 rattles of {deviation} Å left an adsorbate closer than {CLEARANCE} Å to the slab: rattle less"
    )


def _clear(slab: Slab, host: Float[np.ndarray, "host 3"], sites: Float[np.ndarray, "sites 3"]) -> bool:
    vectors = host[None] - sites[:, None]
    cell = slab.atoms.cell.array
    vectors = vectors + shortest_images(vectors, cell, np.array([True, True, True])) @ cell
    return bool(np.square(vectors).sum(axis=-1).min() >= CLEARANCE**2)
