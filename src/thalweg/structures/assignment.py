"""Which atom of one structure is which atom of another: drift, images and partners that fit best, in numpy.

For structures a and b of one composition, sought are a translation t (the drift), whole numbers n_i (the
periodic images) and a permutation p within each species that make

    Σ_i m_i |x_a[p_i] − x_b[i] + n_i·cell − t|²

least. Each of the three is exact when the other two are held: t is the mass-weighted mean, n_i the shortest
image, p a linear assignment (Hungarian). They are taken in turn until none lowers the sum. The end of such a
descent depends on its start, so it is started from several drifts and the lowest sum is kept. No graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.lattice import periodic_rows, shortest_images
from thalweg.structures.neighbours import find_edges

_Reals = NDArray[np.float64]
_Wholes = NDArray[np.int64]
_MOST_ROUNDS = 100  # measured: 2 to 6 rounds settle a 64-atom cell
_SEARCH_RANGE = 4.0  # Å; farther out the full assignment is cheaper than listing neighbours
_SEARCH_LEAST = (
    2.5  # Å; a shorter list costs more, as the search bins space by it (0.3 Å: 6 ms, 2.5 Å: 0.1 ms)
)


@dataclass(frozen=True, eq=False)
class _Match:
    """A local optimum of the sum above for one structure."""

    permutation: _Wholes  # [n] partner in a of each atom of b
    images: _Wholes  # [n 3]
    cost: float  # amu Å²
    clear: bool  # no partner could be exchanged with profit at this drift


@dataclass(frozen=True, eq=False)
class _Problem:
    """One structure of each batch, in float64."""

    a: _Reals
    b: _Reals
    numbers_a: _Wholes
    numbers: _Wholes  # of b
    masses: _Reals  # of b
    cell: _Reals
    pbc: NDArray[np.bool_]
    drifts: bool
    reference: Structures  # b alone, for the neighbour search

    @property
    def in_order(self) -> _Wholes:
        """The k-th atom of a species in a for the k-th in b: the identity if the orders agree."""
        partner = np.empty(len(self.numbers), dtype=np.int64)
        partner[np.argsort(self.numbers, kind="stable")] = np.argsort(self.numbers_a, kind="stable")
        return partner


@torch.no_grad()
def match_structures(
    a: Structures, b: Structures, *, assign: bool, any_origin: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match every structure of `a` to the one of `b`; see `displacement.assign` for arguments and errors.

    Returns:
        The permutation along the atom axis [atoms] and the images [atoms 3] in the floating type of b.
    """
    check_alike(a, b, assign=assign)
    permutations, images = [], []
    for start, problem in zip(b.offsets, _problems(a, b), strict=False):
        found = _best(problem, assign=assign, any_origin=any_origin)
        permutations.append(found.permutation + start)
        images.append(found.images)
    permutation = torch.from_numpy(np.concatenate(permutations)).to(b.device)
    return permutation, torch.from_numpy(np.concatenate(images)).to(device=b.device, dtype=b.dtype)


def check_alike(a: Structures, b: Structures, *, assign: bool) -> None:
    """Refuse two batches that cannot be compared structure by structure.

    Raises:
        StructureError: they hold different numbers of structures, or a structure has other atoms in a than in
            b (in another order, if `assign` is False), or a position that is not finite.
    """
    if len(a) != len(b):
        raise StructureError(
            f"cannot compare {len(a)} structures with {len(b)}: give the same number of both"
        )
    for k, name in enumerate(b.ids):
        ours = a.numbers[a.offsets[k] : a.offsets[k + 1]]
        theirs = b.numbers[b.offsets[k] : b.offsets[k + 1]]
        if assign:
            ours, theirs = ours.sort().values, theirs.sort().values
        if not torch.equal(ours, theirs):
            how = "atoms" if assign else "atoms or another order of them"
            raise StructureError(
                f"structure {name!r}: {composition(ours)} cannot be compared with {composition(theirs)}: "
                f"these are different {how}; compare structures of one composition"
            )
    for batch in (a, b):
        finite = batch.positions.isfinite().all(dim=1)
        if not finite.all():
            atom = int((~finite).nonzero()[0])
            raise StructureError(
                f"structure {batch.ids[int(batch.owner[atom])]!r}: position of atom {atom} of the batch is "
                "not finite; leave out structures that exploded"
            )


def composition(numbers: torch.Tensor) -> str:
    """Return atomic numbers as a formula in the order of the numbers, such as 'Cd31 Te32'."""
    kinds, counts = np.unique(numbers.cpu().numpy(), return_counts=True)
    return " ".join(f"{chemical_symbols[z]}{n}" for z, n in zip(kinds, counts, strict=True))


def _problems(a: Structures, b: Structures) -> Iterable[_Problem]:
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    for k in range(len(b)):
        atoms_a, atoms = slice(a.offsets[k], a.offsets[k + 1]), slice(b.offsets[k], b.offsets[k + 1])
        yield _Problem(
            a=a.positions[atoms_a].numpy(),
            b=b.positions[atoms].numpy(),
            numbers_a=a.numbers[atoms_a].numpy(),
            numbers=b.numbers[atoms].numpy(),
            masses=b.masses[atoms].numpy(),
            cell=b.cell[k].numpy(),
            pbc=b.pbc[k].numpy(),
            drifts=bool(a.free[atoms_a].all()) and bool(b.free[atoms].all()),
            reference=b.select([k]),
        )


def _best(problem: _Problem, *, assign: bool, any_origin: bool) -> _Match:
    best: _Match | None = None
    for drift in _starting_drifts(problem, any_origin):
        found = _settle(problem, drift, assign)
        if best is None or found.cost < best.cost * (1 - 1e-9):
            best = found
        if best.clear and not any_origin:
            break
    assert best is not None  # there is always a first start
    return best


def _starting_drifts(problem: _Problem, any_origin: bool) -> list[_Reals]:
    """Return the drifts to start from: that of the atoms as ordered, none, and on demand any origin."""
    none = np.zeros(3)
    if not problem.drifts:
        return [none]
    starts = [_mean_on_torus(problem, problem.a[problem.in_order] - problem.b), none]
    if any_origin:
        starts.append(_defect_to_defect(problem))
    return starts


def _mean_on_torus(problem: _Problem, vectors: _Reals) -> _Reals:
    """Return the mean of vectors known up to lattice vectors: circular along each lattice direction."""
    rows, inverse = periodic_rows(problem.cell, problem.pbc)
    weights = problem.masses / problem.masses.sum()
    fractions = vectors @ inverse
    angles = np.angle(weights @ np.exp(2j * np.pi * fractions)) / (2 * np.pi)
    beside = weights @ (vectors - fractions @ rows)  # along directions that are not periodic: the plain mean
    return np.asarray(np.where(problem.pbc, angles, 0.0) @ rows + beside)


def _defect_to_defect(problem: _Problem) -> _Reals:
    """Return the translation that carries the masses of b onto those of a, whatever the order of atoms.

    It compares the phases of the longest Fourier waves of the cell. A perfect crystal has none; then it is
    zero.
    """
    rows, inverse = periodic_rows(problem.cell, problem.pbc)
    weights = problem.masses / problem.masses.sum()
    partner = problem.in_order  # brings the masses of a into the order of b
    fractions_a, fractions_b = problem.a[partner] @ inverse, problem.b @ inverse
    waves_a, waves_b = (weights @ np.exp(2j * np.pi * f) for f in (fractions_a, fractions_b))
    clear = problem.pbc & (np.minimum(np.abs(waves_a), np.abs(waves_b)) > 1e-6)
    angles = np.where(clear, np.angle(waves_a * waves_b.conj()), 0.0) / (2 * np.pi)
    difference = problem.a[partner] - problem.b
    beside = weights @ (difference - (difference @ inverse) @ rows)
    return np.asarray(angles @ rows + beside)


def _settle(problem: _Problem, drift: _Reals, assign: bool) -> _Match:
    """Take partners, images and drift in turn until the sum falls no more."""
    best: _Match | None = None
    partner, clear = problem.in_order, not assign
    for _ in range(_MOST_ROUNDS):
        if assign:
            partner, clear = _partners(problem, drift)
        vectors = problem.a[partner] - problem.b
        images = shortest_images(vectors - drift, problem.cell, problem.pbc)
        vectors = vectors + images @ problem.cell
        if problem.drifts:
            drift = problem.masses @ vectors / problem.masses.sum()
        cost = float(problem.masses @ ((vectors - drift) ** 2).sum(1))
        if best is not None and cost >= best.cost * (1 - 1e-12):
            return best
        best = _Match(partner, images, cost, clear and assign)
    raise StructureError(
        f"structure {problem.reference.ids[0]!r}: drift and assignment did not settle in {_MOST_ROUNDS} "
        "rounds; compare without assignment"
    )


def _partners(problem: _Problem, drift: _Reals) -> tuple[_Wholes, bool]:
    """Return the best partners at this drift, and whether they are, beyond doubt, the atoms in order."""
    order = problem.in_order
    if _order_is_optimal(problem, drift, order):
        return order, True
    partner = order.copy()
    for number in np.unique(problem.numbers):
        ours = np.flatnonzero(problem.numbers_a == number)
        theirs = np.flatnonzero(problem.numbers == number)
        vectors = problem.a[ours][None] - problem.b[theirs][:, None] - drift  # theirs ours 3
        images = shortest_images(vectors, problem.cell, problem.pbc)
        squares = ((vectors + images @ problem.cell) ** 2).sum(-1)
        rows, columns = linear_sum_assignment(squares)
        partner[theirs[rows]] = ours[columns]
    return partner, False


def _order_is_optimal(problem: _Problem, drift: _Reals, order: _Wholes) -> bool:
    """Whether every atom of a is nearest to its own partner in b, proven without all distances.

    An atom δ away from its partner is at least s − δ away from any other atom of b, s being the distance from
    the partner to that atom. Hence s ≥ 2δ for all of the same species suffices.
    """
    vectors = problem.a[order] - problem.b - drift
    vectors = vectors + shortest_images(vectors, problem.cell, problem.pbc) @ problem.cell
    moved = np.sqrt((vectors**2).sum(1))
    reach = 2 * float(moved.max()) + 1e-6
    if reach > _SEARCH_RANGE:
        return False
    edges = find_edges(problem.reference, max(reach, _SEARCH_LEAST))
    centre, neighbour = edges.centre.numpy(), edges.neighbour.numpy()
    rivals = (problem.numbers[centre] == problem.numbers[neighbour]) & (centre != neighbour)
    separation = edges.vectors(problem.reference).norm(dim=1).numpy()
    return bool((separation[rivals] > 2 * moved[centre[rivals]]).all())
