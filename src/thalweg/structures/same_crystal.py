"""How far one periodic crystal is from another, whatever cell, setting, orientation and origin each is written in.

Two crystals are the same if an isometry of space, a permutation within each species and a change of lattice basis
carry one onto the other. The distance is that of `displacement` after the best such change,

    d(A, B) = min over isometries, permutations and bases of max(|Δx_i|, |Δh_k|) + r_A + r_B    (Å)

found in four steps, each exact for what it is given:

1. a primitive cell of each crystal: translations that carry every atom to within `PRIMITIVE` of one of its kind are
   taken as lattice vectors and atoms averaged over them; r is the farthest that an atom was from that average, zero
   where the cell was primitive. (r_A + r_B bounds from above what averaging hid.) The cells as given are compared
   too, without averaging, and the smaller figure counts.
2. a Minkowski-reduced basis of the primitive cell of B, and every triple of lattice vectors of A whose lengths and
   angles are those of it to within `REACH`: all bases that A shares with B, those of the symmetries of B among them.
3. for each, every translation that carries an atom of the rarest species of B onto one of A.
4. for each, an assignment within species (Hungarian) and the mean translation taken out, in turn until it settles.

Isometries include reflections: mirror images have the same energy on any surface. Volumes are compared as they are.
Called by the basin rule for crystals and by `describe`; numpy, without a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from ase.geometry import minkowski_reduce
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from thalweg.errors import StructureError
from thalweg.structures.assignment import check_alike
from thalweg.structures.batch import Structures

REACH = 0.6
"""Distances up to this are found, Å; beyond, a distance is infinite. Above the widest threshold of the sweep, 0.5."""
PRIMITIVE = 0.1
"""A translation is one of the crystal if it carries every atom to within this of one of its kind, Å."""

_COEFFICIENTS = 3  # vectors as short as those of a reduced basis have coefficients up to 2 in another reduced basis
_SETTLED = 1e-3  # Å: nothing closer is worth looking for
_MOST_ROUNDS = 10  # assignment and translation in turn; measured: 1 to 3

_Reals = NDArray[np.float64]
_Wholes = NDArray[np.int64]


@torch.no_grad()
def crystal_distances(a: Structures, b: Structures) -> Float[Tensor, " structures"]:
    """Return d(A, B) of each structure of `a` from that of `b`, Å; infinite where it is above `REACH`.

    Args:
        a: crystals, periodic in three directions.
        b: crystals of the same compositions.

    Raises:
        StructureError: the batches cannot be compared (naming the structure), a position is not finite, or a
            structure is not periodic in three directions.
    """
    check_alike(a, b, assign=True)
    for batch in (a, b):
        for k in (~batch.pbc.all(dim=1)).nonzero().squeeze(1).tolist()[:1]:
            raise StructureError(
                f"structure {batch.ids[k]!r} is periodic along {batch.pbc[k].tolist()}: crystals are compared, so give "
                "structures that are periodic in three directions"
            )
    pairs = zip(_crystals(a), _crystals(b), strict=True)
    return torch.tensor([_distance(one, other) for one, other in pairs], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Crystal:
    """One crystal in a reduced cell."""

    cell: _Reals  # [3 3], Minkowski-reduced
    fractions: _Reals  # [n 3]
    numbers: _Wholes  # [n], ascending
    residual: float = 0.0  # r, Å

    @staticmethod
    def of(cell: _Reals, positions: _Reals, numbers: _Wholes, residual: float = 0.0) -> _Crystal:
        reduced = np.asarray(minkowski_reduce(cell)[0], dtype=np.float64)
        order = np.argsort(numbers, kind="stable")
        return _Crystal(reduced, (positions @ np.linalg.inv(reduced))[order], numbers[order], residual)

    @property
    def volume(self) -> float:
        return float(abs(np.linalg.det(self.cell)))

    @cached_property
    def kinds(self) -> list[NDArray[np.int64]]:
        """Places of the atoms of each species, the rarest first."""
        places = [np.flatnonzero(self.numbers == z) for z in np.unique(self.numbers)]
        return sorted(places, key=len)

    @cached_property
    def primitive(self) -> _Crystal:
        """The same in a primitive cell, atoms averaged over its translations; itself where it is one already."""
        translations = _translations(self)
        return self if len(translations) == 1 else _averaged(self, translations)

    @cached_property
    def lattice(self) -> tuple[_Reals, _Reals]:
        """Lattice vectors around the origin, Å, and their lengths."""
        steps = range(-_COEFFICIENTS, _COEFFICIENTS + 1)
        vectors = np.array(list(product(steps, repeat=3)), dtype=np.float64) @ self.cell
        return vectors, np.linalg.norm(vectors, axis=1)


def _crystals(batch: Structures) -> Iterator[_Crystal]:
    batch = batch.detach().to("cpu", torch.float64)
    for k in range(len(batch)):
        atoms = slice(batch.offsets[k], batch.offsets[k + 1])
        yield _Crystal.of(batch.cell[k].numpy(), batch.positions[atoms].numpy(), batch.numbers[atoms].numpy())


def _distance(a: _Crystal, b: _Crystal) -> float:
    """Return d(A, B): that of the cells as given, or of primitive cells where that is less."""
    best = _matched(a, b, np.inf)
    if best > _SETTLED and (a.primitive is not a or b.primitive is not b):
        hidden = a.primitive.residual + b.primitive.residual
        best = min(best, _matched(a.primitive, b.primitive, best - hidden) + hidden)
    return best if best <= REACH else np.inf


def _matched(a: _Crystal, b: _Crystal, limit: float) -> float:
    """Return the least max(|Δx_i|, |Δh_k|) over bases, translations and permutations; infinite if none is in reach."""
    if not np.array_equal(a.numbers, b.numbers):
        return np.inf
    best = np.inf
    inverse = np.linalg.inv(b.cell)
    for basis in _bases(a, b):
        stretch = inverse @ basis
        strain = 0.5 * (stretch @ stretch.T - np.eye(3))
        moved = float(np.linalg.norm(b.cell @ strain, axis=1).max())
        if moved >= min(best, limit):
            continue
        fractions = a.fractions @ a.cell @ np.linalg.inv(basis)
        best = min(best, max(moved, _aligned(fractions, b, min(best, limit))))
        if best < _SETTLED:
            break
    return best


def _bases(a: _Crystal, b: _Crystal) -> Iterator[_Reals]:
    """Yield the bases of the lattice of A whose lengths and angles are those of the cell of B within `REACH`."""
    vectors, lengths = a.lattice
    wanted = np.linalg.norm(b.cell, axis=1)
    first, second, third = (vectors[np.abs(lengths - w) <= REACH] for w in wanted)
    # the difference of two vectors that each move by REACH moves by twice that
    near = [_fit(first, second, b.cell[0] - b.cell[1], b.cell[0] + b.cell[1])]
    near.append(_fit(first, third, b.cell[0] - b.cell[2], b.cell[0] + b.cell[2]))
    near.append(_fit(second, third, b.cell[1] - b.cell[2], b.cell[1] + b.cell[2]))
    for i, j in zip(*np.nonzero(near[0]), strict=True):
        for k in np.flatnonzero(near[1][i] & near[2][j]):
            basis = np.stack([first[i], second[j], third[k]])
            if abs(abs(np.linalg.det(basis)) - a.volume) < 1e-6 * a.volume:  # every lattice point of A, no others
                yield basis


def _fit(one: _Reals, other: _Reals, difference: _Reals, total: _Reals) -> NDArray[np.bool_]:
    """Return which pairs of vectors lie to each other as two of B do."""
    apart = np.linalg.norm(one[:, None] - other[None], axis=2) - np.linalg.norm(difference)
    together = np.linalg.norm(one[:, None] + other[None], axis=2) - np.linalg.norm(total)
    return np.asarray((np.abs(apart) <= 2 * REACH) & (np.abs(together) <= 2 * REACH))


def _aligned(fractions: _Reals, b: _Crystal, limit: float) -> float:
    """Return the least max |Δx_i| over translations and permutations, Å; infinite if it is not below `limit`."""
    best = np.inf
    rarest = b.kinds[0]
    for start in fractions[rarest]:
        drift = start - b.fractions[rarest[0]]
        found = _settled(fractions, b, drift, min(best, limit))
        best = min(best, found)
        if best < _SETTLED:
            break
    return best


def _settled(fractions: _Reals, b: _Crystal, drift: _Reals, limit: float) -> float:
    """Take partners and translation in turn; return max |Δx_i|, Å."""
    best = np.inf
    for _ in range(_MOST_ROUNDS):
        moved = np.empty_like(b.fractions)
        for places in b.kinds:
            away = _shortest(fractions[places][None] - drift - b.fractions[places][:, None], b.cell)  # of b, of a
            squares = np.square(away @ b.cell).sum(axis=2)
            # moving all by the mean gains at most as much as the farthest is off: beyond twice the limit it is over
            if np.sqrt(squares.min(axis=1).max()) > 2 * min(limit, REACH):
                return best
            row, column = linear_sum_assignment(squares)
            moved[places[row]] = away[row, column]
        mean = moved.mean(axis=0)
        largest = float(np.linalg.norm((moved - mean) @ b.cell, axis=1).max())
        if largest >= best - 1e-9:
            return best
        best, drift = largest, drift + mean
    return best


def _shortest(fractions: _Reals, cell: _Reals) -> _Reals:
    """Return the images of vectors that are shortest in a Minkowski-reduced cell, as fractions."""
    rounded = fractions - np.rint(fractions)
    images = rounded[..., None, :] + _NEIGHBOURS
    best = np.square(images @ cell).sum(axis=-1).argmin(axis=-1)
    chosen: _Reals = rounded + _NEIGHBOURS[best]
    return chosen


_NEIGHBOURS = np.array(list(product((0, -1, 1), repeat=3)), dtype=np.float64)


def _translations(crystal: _Crystal) -> list[tuple[_Reals, _Wholes, _Reals]]:
    """Return the translations of a crystal within its cell: fraction, partner of each atom, and how far each is off.

    They are closed under addition, or there is only the identity: what is nearly periodic need not be a group.
    """
    rarest = crystal.kinds[0]
    found: list[tuple[_Reals, _Wholes, _Reals]] = []
    for place in rarest:
        shift = crystal.fractions[place] - crystal.fractions[rarest[0]]
        partner = np.empty(len(crystal.numbers), dtype=np.int64)
        away = np.empty_like(crystal.fractions)
        for places in crystal.kinds:
            vectors = _shortest(
                crystal.fractions[places][None] - shift - crystal.fractions[places][:, None], crystal.cell
            )
            row, column = linear_sum_assignment(np.square(vectors @ crystal.cell).sum(axis=2))
            partner[places[row]], away[places[row]] = places[column], vectors[row, column]
        mean = away.mean(axis=0)
        if np.linalg.norm((away - mean) @ crystal.cell, axis=1).max() < PRIMITIVE:
            found.append((shift + mean, partner, away - mean))
    permutations = {tuple(partner.tolist()) for _, partner, _ in found}
    closed = all(tuple(p[q].tolist()) in permutations for _, p, _ in found for _, q, _ in found)
    return found if closed and len(permutations) == len(found) else found[:1]


def _averaged(crystal: _Crystal, translations: list[tuple[_Reals, _Wholes, _Reals]]) -> _Crystal:
    """Return the crystal in the cell that its translations span, and how far its atoms were from that."""
    # a translation that is one of the crystal is the inverse of a whole number of lattice vectors: m shifts make a
    # group of order m, so m times a shift is a lattice vector, and rounding it takes the noise off
    order = len(translations)
    shifts = np.array([np.rint(order * shift) / order for shift, _, _ in translations])
    cell = _spanned(shifts, order) @ crystal.cell
    orbits = {tuple(sorted({int(p[k]) for _, p, _ in translations})): k for k in range(len(crystal.numbers))}
    positions, numbers, farthest = [], [], 0.0
    for first in orbits.values():
        images = crystal.fractions[[p[first] for _, p, _ in translations]] - shifts
        away = _shortest(images - crystal.fractions[first], crystal.cell) @ crystal.cell
        farthest = max(farthest, float(np.linalg.norm(away - away.mean(axis=0), axis=1).max()))
        positions.append(crystal.fractions[first] @ crystal.cell + away.mean(axis=0))
        numbers.append(crystal.numbers[first])
    return _Crystal.of(cell, np.array(positions), np.array(numbers), farthest)


def _spanned(shifts: _Reals, order: int) -> _Reals:
    """Return a basis of the lattice that shifts and whole numbers span: rows of Hermite's form, as fractions."""
    rows = np.concatenate([np.rint(order * shifts).astype(np.int64), order * np.eye(3, dtype=np.int64)])
    basis = []
    for column in range(3):
        while np.count_nonzero(rows[:, column]) > 1:  # Euclid's algorithm, all rows at once
            least = np.where(rows[:, column] == 0, np.inf, np.abs(rows[:, column])).argmin()
            others = np.arange(len(rows)) != least
            rows[others] -= (rows[others, column] // rows[least, column])[:, None] * rows[least]
        pivot = int(np.flatnonzero(rows[:, column])[0])
        basis.append(rows[pivot])
        rows = np.delete(rows, pivot, axis=0)
    return np.array(basis, dtype=np.float64) / order
