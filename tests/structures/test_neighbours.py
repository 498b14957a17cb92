from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list

from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges, find_edges

Edge = tuple[int, int, int, int, int]


def listed(edges: Edges) -> Counter[Edge]:
    shift = edges.shift.round().long()
    assert torch.equal(shift.to(edges.shift), edges.shift)
    rows = torch.cat([edges.centre[:, None], edges.neighbour[:, None], shift], dim=1)
    return Counter(tuple(row) for row in rows.tolist())


def by_ase(atoms: Atoms, cutoff: float) -> Counter[Edge]:
    i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.complete(), atoms.positions, cutoff)
    return Counter((a, b, *s) for a, b, s in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True))


def by_matscipy(atoms: Atoms, cutoff: float) -> Counter[Edge]:
    i, j, shift = neighbour_list("ijS", atoms, cutoff)
    return Counter((a, b, *s) for a, b, s in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True))


def by_enumeration(atoms: Atoms, cutoff: float, reach: int = 6) -> Counter[Edge]:
    """Every image within `reach` cells; only right for cells that are not too skewed for it."""
    found: Counter[Edge] = Counter()
    for shift in product(*(range(-reach, reach + 1) if p else (0,) for p in atoms.pbc)):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(shift) @ atoms.cell.array
        for i, j in np.argwhere(np.linalg.norm(vectors, axis=-1) < cutoff).tolist():
            if i != j or any(shift):
                found[(i, j, *shift)] += 1
    return found


def small_skewed(pbc=(True, True, True)) -> Atoms:
    return Atoms(
        "SiGe",
        [[0.1, 0.2, 0.3], [1.4, 1.1, 1.6]],
        cell=[[3.0, 0, 0], [1.4, 2.8, 0], [-1.2, 0.9, 3.1]],
        pbc=pbc,
    )


def outside() -> Atoms:
    atoms = bulk("CdTe", "zincblende", a=6.5)
    atoms.positions += [[19.5, -6.5, 3.25], [-40.0, 0, 13.0]]
    return atoms


def slab() -> Atoms:
    return fcc111("Al", (2, 2, 2), vacuum=4.0)


CASES = {
    "diamond": (bulk("Si"), 4.2),
    "cutoff longer than the cell": (bulk("Al"), 9.0),
    "small and skewed": (small_skewed(), 7.0),
    "positions outside the cell": (outside(), 5.0),
    "cluster": (molecule("CH3CH2OH"), 2.0),
    "slab": (slab(), 4.0),
    "chain": (small_skewed((False, True, False)), 7.0),
    "layer": (small_skewed((True, False, True)), 6.0),
}


@pytest.mark.parametrize("name", CASES)
def test_edges_are_those_of_ase_and_of_plain_enumeration(name):
    atoms, cutoff = CASES[name]
    found = listed(find_edges(Structures.from_atoms(atoms), cutoff))
    assert found == by_ase(atoms, cutoff)
    if name != "positions outside the cell":
        assert found == by_enumeration(atoms, cutoff)
    assert max(found.values()) == 1
    assert len(found) > 2


@pytest.mark.parametrize("name", ["diamond", "small and skewed", "positions outside the cell"])
def test_edges_are_those_of_matscipy(name):
    atoms, cutoff = CASES[name]
    assert listed(find_edges(Structures.from_atoms(atoms), cutoff)) == by_matscipy(atoms, cutoff)


def test_the_comparison_rejects_a_list_that_lacks_the_second_images():
    atoms, cutoff = CASES["small and skewed"]
    assert by_enumeration(atoms, cutoff, reach=1) != by_ase(atoms, cutoff)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_edges_of_random_cells_are_those_of_ase(seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 6, 3)) + rng.uniform(-1.2, 1.2, (3, 3))
    atoms = Atoms("Si4", rng.uniform(-8, 8, (4, 3)), cell=cell, pbc=rng.random(3) < 0.7)
    cutoff = float(rng.uniform(1, 7))
    assert listed(find_edges(Structures.from_atoms(atoms), cutoff)) == by_ase(atoms, cutoff)


def test_every_edge_has_its_reverse_and_lies_within_the_cutoff():
    structures = Structures.from_atoms([atoms for atoms, _ in CASES.values()])
    edges = find_edges(structures, 5.0)
    found = listed(edges)
    assert found == Counter((j, i, -a, -b, -c) for i, j, a, b, c in found)
    assert edges.vectors(structures).norm(dim=1).max() < 5.0
    assert torch.equal(structures.owner[edges.centre], structures.owner[edges.neighbour])


def test_edges_are_sorted_by_centre_and_the_same_in_any_batch():
    structures = Structures.from_atoms([CASES[n][0] for n in ("diamond", "slab", "cluster", "small and skewed")])
    whole = find_edges(structures, 4.0)
    assert (whole.centre.diff() >= 0).all()
    for k in range(len(structures)):
        alone = find_edges(structures.select([k]), 4.0)
        of_k = structures.owner[whole.centre] == k
        assert torch.equal(alone.centre, whole.centre[of_k] - structures.offsets[k])
        assert torch.equal(alone.neighbour, whole.neighbour[of_k] - structures.offsets[k])
        assert torch.equal(alone.shift, whole.shift[of_k])


def test_atoms_far_apart_have_no_edges():
    lonely = Structures.from_atoms(Atoms("Si2", [[0, 0, 0], [9, 0, 0]]))
    edges = find_edges(lonely, 4.0)
    assert len(edges) == 0
    assert edges.vectors(lonely).shape == (0, 3)


def test_vectors_are_differentiable_to_positions_and_cell():
    structures = Structures.from_atoms([small_skewed(), bulk("Si")])
    edges = find_edges(structures, 3.5)
    assert edges.shift.any()

    def of(x, cell):
        return edges.vectors(structures.with_positions(x).with_cell(cell))

    x, cell = structures.positions.clone().requires_grad_(), structures.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(of, (x, cell))
    gradients = torch.autograd.grad(of(x, cell).sum(), (x, cell))
    assert gradients[0].abs().max() < 1e-12  # every edge has its reverse: translation moves nothing


def test_the_search_leaves_no_graph():
    structures = Structures.from_atoms(bulk("Si"))
    tied = structures.with_positions(structures.positions.clone().requires_grad_())
    assert not find_edges(tied, 4.0).shift.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifts_have_the_floating_type_of_the_structures(dtype):
    structures = Structures.from_atoms(bulk("Si"), dtype=dtype)
    edges = find_edges(structures, 4.0)
    assert edges.shift.dtype == edges.vectors(structures).dtype == dtype
