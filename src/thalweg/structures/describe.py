"""What a set of pairs holds: sizes, elements, distances from start to minimum, basins of the minima.

Basins are found twice, each way named: by energy (levels separated by gaps) and by geometry (the distance
rule). They answer different questions. Minima of one energy may be mirror images or rotated copies, which the
distance rule keeps apart: it forgives translation and exchange of like atoms, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.structures.assignment import composition
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q, largest_displacement
from thalweg.structures.pairs import Pairs
from thalweg.structures.same_crystal import crystal_distances

ENERGY_GAP = 0.01
"""Energies (eV) farther apart than this, next to each other in order, are of different levels."""
SAME_BASIN_DISTANCE = 0.2
"""Minima whose largest matched displacement (Å) is below this are one basin."""

SAME_BASIN_ENERGY = 0.05
"""Minima whose known energies differ by this (eV) or more are not one basin, however alike."""

_SAME_CELL = 1e-3  # Å


@dataclass(frozen=True)
class Spread:
    """The distribution of a quantity."""

    least: float
    median: float
    mean: float
    largest: float


@dataclass(frozen=True)
class Basin:
    """Minima that are taken for the same."""

    population: int
    """How many pairs end in it."""
    energy: float | None
    """Mean energy of the members whose energy is known, eV; None if none is."""
    energy_range: float | None
    """Highest minus lowest of them, eV."""
    width: float | None
    """Largest matched displacement (Å) of a member from the first; None for levels of energy."""
    members: tuple[str, ...]
    """Ids of the pairs, lowest energy first."""


@dataclass(frozen=True)
class Group:
    """Pairs of one composition in one cell, or relaxed with their cells: only these can share a basin."""

    composition: str
    cell: tuple[tuple[float, ...], ...]
    """Lattice vectors as rows, Å, rounded to 0.001; of the deepest minimum where cells relaxed."""
    pbc: tuple[bool, ...]
    pairs: int
    energy_levels: tuple[Basin, ...]
    """Basins by energy, deepest first; pairs of unknown energy are in none."""
    geometric_basins: tuple[Basin, ...]
    """Basins by the distance rule, deepest first, then largest first."""


@dataclass(frozen=True)
class Description:
    """Plain values, ready for JSON by `dataclasses.asdict`; what is unknown is None."""

    pairs: int
    parents: int
    atoms: Spread
    """Atoms per structure."""
    elements: dict[str, int]
    """Atoms of each element over all pairs."""
    fixed_atoms: int
    """Atoms with a fixed component over all pairs."""
    energies_known: int
    """Pairs whose energy of the minimum is known."""
    delta_q: Spread
    """ΔQ from start to minimum, amu^½ Å."""
    largest_displacement: Spread
    """Largest matched displacement from start to minimum, Å."""
    energy_gap: float
    """The rule for levels: a gap above this (eV) separates them."""
    distance: float
    """The rule for geometric basins: largest matched displacement below this (Å)."""
    energy_difference: float
    """The rule for geometric basins, where both energies are known: their difference is below this (eV)."""
    groups: tuple[Group, ...]
    """By composition and cell, largest first."""


def describe(
    pairs: Pairs,
    *,
    energy_gap: float = ENERGY_GAP,
    distance: float = SAME_BASIN_DISTANCE,
    any_origin: bool = True,
) -> Description:
    """Describe a set of pairs.

    Args:
        pairs: at least one.
        energy_gap: gap that separates two levels, eV, above 0.
        distance: largest matched displacement within a geometric basin, Å, above 0.
        any_origin: take a copy translated by any vector for the same basin (see `displacement.assign`).

    Returns:
        The description. A geometric basin grows around its first member in order of energy, then id, and a
        minimum joins the nearest one in reach, so the outcome does not depend on the order of the pairs.

    Raises:
        SettingsError: a tolerance is not above 0.
    """
    for name, value, unit in (("energy_gap", energy_gap, "eV"), ("distance", distance, "Å")):
        if not value > 0:
            raise SettingsError(f"{name} is {value}: allowed is a tolerance above 0 {unit}")
    with torch.no_grad():
        groups = [_group(pairs.select(places), energy_gap, distance, any_origin) for places in _alike(pairs)]
        return Description(
            pairs=len(pairs),
            parents=len(set(pairs.parents)),
            atoms=_spread(pairs.starts.counts),
            elements=_elements(pairs.starts),
            fixed_atoms=int((~pairs.starts.free).any(dim=1).sum()),
            energies_known=sum(energy is not None for energy in _known(pairs.energy_minimum, len(pairs))),
            delta_q=_spread(delta_q(pairs.starts, pairs.minima)),
            largest_displacement=_spread(largest_displacement(pairs.starts, pairs.minima)),
            energy_gap=energy_gap,
            distance=distance,
            energy_difference=SAME_BASIN_ENERGY,
            groups=tuple(sorted(groups, key=lambda g: (-g.pairs, g.composition, g.cell))),
        )


def energy_levels(energies: Sequence[float], gap: float) -> list[list[int]]:
    """Return the places of energies (eV) by level, lowest first: a gap exceeded begins a new one."""
    order = sorted(range(len(energies)), key=lambda k: (energies[k], k))
    levels: list[list[int]] = []
    for place in order:
        if levels and energies[place] - energies[levels[-1][-1]] <= gap:
            levels[-1].append(place)
        else:
            levels.append([place])
    return levels


def geometric_basins(
    minima: Structures, energies: Sequence[float | None], distance: float, *, any_origin: bool = True
) -> list[dict[int, float]]:
    """Group minima by the distance rule, in the order in which they are given.

    A minimum of 64 atoms takes about 2 to 5 ms for each basin of like energy that it is compared with.

    Args:
        minima: structures of one composition; where their cells differ they are compared as crystals.
        energies: energy of each, eV, or None; they keep apart minima that differ by `SAME_BASIN_ENERGY`.
        distance: largest matched displacement (Å) from the first member of a basin.
        any_origin: see `displacement.assign`.

    Returns:
        One dict per basin: place of each member and its distance (Å) from the first, which comes first.
    """
    basins: list[dict[int, float]] = []
    firsts: list[int] = []
    crystals = _cells_differ(minima)
    for place in range(len(minima)):
        near = [k for k, first in enumerate(firsts) if _comparable(energies[place], energies[first])]
        found: tuple[float, int] | None = None
        if near:
            copies, references = minima.select([place] * len(near)), minima.select([firsts[k] for k in near])
            apart = (
                crystal_distances(copies, references)
                if crystals
                else largest_displacement(copies, references, any_origin=any_origin)
            )
            away = apart.tolist()
            found = min(zip(away, near, strict=True))
        if found is not None and found[0] < distance:
            basins[found[1]][place] = found[0]
        else:
            basins.append({place: 0.0})
            firsts.append(place)
    return basins


def _cells_differ(minima: Structures) -> bool:
    """Return whether minima were relaxed with their cells, so that they compare as crystals."""
    return (
        len(minima) > 1 and bool(minima.pbc.all()) and float((minima.cell - minima.cell[0]).abs().max()) >= _SAME_CELL
    )


def _comparable(one: float | None, other: float | None) -> bool:
    return one is None or other is None or abs(one - other) < SAME_BASIN_ENERGY


def _group(pairs: Pairs, energy_gap: float, distance: float, any_origin: bool) -> Group:
    energies = _known(pairs.energy_minimum, len(pairs))
    order = sorted(range(len(pairs)), key=lambda k: (energies[k] is None, energies[k] or 0.0, pairs.ids[k]))
    pairs, energies = pairs.select(order), [energies[k] for k in order]
    known = [energy for energy in energies if energy is not None]  # they come first
    levels = [_basin(pairs, energies, places, None) for places in energy_levels(known, energy_gap)]
    shapes = [
        _basin(pairs, energies, list(found), max(found.values()))
        for found in geometric_basins(pairs.minima, energies, distance, any_origin=any_origin)
    ]
    return Group(
        composition=composition(pairs.minima.numbers[: pairs.minima.offsets[1]]),
        cell=_rounded(pairs.minima, 0),
        pbc=tuple(pairs.minima.pbc[0].tolist()),
        pairs=len(pairs),
        energy_levels=tuple(levels),
        geometric_basins=tuple(sorted(shapes, key=_depth)),
    )


def _depth(basin: Basin) -> tuple[bool, float, int]:
    return basin.energy is None, basin.energy or 0.0, -basin.population


def _basin(pairs: Pairs, energies: Sequence[float | None], places: Sequence[int], width: float | None) -> Basin:
    known = [energy for energy in (energies[k] for k in places) if energy is not None]
    return Basin(
        population=len(places),
        energy=sum(known) / len(known) if known else None,
        energy_range=max(known) - min(known) if known else None,
        width=width,
        members=tuple(pairs.ids[k] for k in places),
    )


def _alike(pairs: Pairs) -> list[list[int]]:
    """Return the places of pairs by composition, periodicity and cell; by the former two where a cell relaxed."""
    minima = pairs.minima
    relaxed = (minima.cell - pairs.starts.cell).abs().amax(dim=(1, 2)) >= _SAME_CELL
    groups: dict[tuple[str, tuple[bool, ...]], list[list[int]]] = {}
    for k in range(len(minima)):
        numbers = minima.numbers[minima.offsets[k] : minima.offsets[k + 1]]
        same_atoms = groups.setdefault((composition(numbers), tuple(minima.pbc[k].tolist())), [])
        for group in same_atoms:
            together = bool(relaxed[k] and relaxed[group[0]])
            if together or float((minima.cell[k] - minima.cell[group[0]]).abs().max()) < _SAME_CELL:
                group.append(k)
                break
        else:
            same_atoms.append([k])
    return [group for same_atoms in groups.values() for group in same_atoms]


def _rounded(structures: Structures, k: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(x, 3) + 0.0 for x in row) for row in structures.cell[k].tolist())


def _elements(structures: Structures) -> dict[str, int]:
    counts = Counter(structures.numbers.tolist())
    return {chemical_symbols[number]: counts[number] for number in sorted(counts)}


def _known(energies: Float[Tensor, " pairs"] | None, pairs: int) -> list[float | None]:
    if energies is None:
        return [None] * pairs
    return [None if energy != energy else energy for energy in energies.tolist()]


def _spread(values: Tensor) -> Spread:
    values = values.double()
    return Spread(float(values.min()), float(values.median()), float(values.mean()), float(values.max()))
