"""Nine numbers that say what an element is, for networks that take elements as numbers rather than names.

Atomic number, mass, covalent radius, period, group, and the electrons outside the noble-gas core in s, p, d
and f shells. Masses are IUPAC's and radii those of Cordero et al. 2008, both as tabulated by ASE; the rest
follows from filling shells by Madelung's rule (n + l, then n), which measured atoms break in a dozen places
(Cr, Cu, La …). Nothing here is fitted and nothing is looked up elsewhere.
"""

from __future__ import annotations

from functools import cache

import torch
from ase.data import atomic_masses, covalent_radii
from jaxtyping import Float
from torch import Tensor

DESCRIPTORS = 9
"""Numbers per element."""
HEAVIEST = 96
"""Curium, where the table of covalent radii of Cordero et al. ends."""

_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
_SHELLS = sorted(((n, k) for n in range(1, 8) for k in range(min(n, 4))), key=lambda shell: (sum(shell), shell[0]))


def valence(number: int) -> tuple[int, int, int, int]:
    """Return the electrons outside the noble-gas core in s, p, d and f shells, by Madelung's rule.

    A noble gas keeps its own outer shell: its core is the one before.
    """
    core = max(n for n in _NOBLE if n < number)
    found, filled = [0, 0, 0, 0], 0
    for _, angular in _SHELLS:
        room = 2 * (2 * angular + 1)
        taken = min(room, number - filled)
        found[angular] += taken if filled >= core else 0
        filled += taken
        if filled == number:
            break
    return found[0], found[1], found[2], found[3]


def period_and_group(number: int) -> tuple[int, int]:
    """Return row and column (1 to 18) of the periodic table; lanthanides and actinides stand in column 3."""
    period = sum(n < number for n in _NOBLE)
    s, p, d, f = valence(number)
    if number == 2:
        return period, 18
    if p:
        return period, 12 + p
    if f and not d > 0:
        return period, 3
    return period, s + d


@cache
def descriptors() -> Float[Tensor, "elements 9"]:
    """Return the table for elements 1 to `HEAVIEST`, each column brought to mean 0 and variance 1 over them."""
    rows = [
        [number, atomic_masses[number], covalent_radii[number], *period_and_group(number), *valence(number)]
        for number in range(1, HEAVIEST + 1)
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    return (table - table.mean(dim=0)) / table.std(dim=0)
