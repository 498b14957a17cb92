"""The distance between crystals: closed forms, disguises, other cells of one crystal, answers of StructureMatcher."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import minkowski_reduce
from tests.structures.matcher_table import TABLE, disguised, matched

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q, largest_displacement
from thalweg.structures.same_crystal import REACH, crystal_distances

SIZES = (([[2, 0, 0], [0, 1, 0], [0, 0, 1]]), ([[1, 1, 0], [-1, 1, 0], [0, 0, 1]]), ([[1, 0, 0], [0, 1, 0], [1, 1, 2]]))


def random_crystal(rng: np.random.Generator, symbols: str = "Cd3Te4") -> Atoms:
    cell = 6.5 * np.eye(3) + rng.normal(0, 0.8, (3, 3))
    atoms = Atoms(symbols, cell=cell, pbc=True)
    atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    return atoms


def disguise(atoms: Atoms, rng: np.random.Generator, noise: float = 0.0, turn: int = 1) -> Atoms:
    cell, positions, order = disguised(atoms.cell.array, atoms.positions, rng, noise, turn)
    return Atoms(atoms.numbers[order], positions, cell=cell, pbc=True)


def distance(one: Atoms, other: Atoms) -> float:
    found = crystal_distances(Structures.from_atoms(one), Structures.from_atoms(other))
    assert found.dtype == torch.float64
    return float(found[0])


@pytest.mark.parametrize("turn", [1, -1])
def test_another_basis_origin_order_and_orientation_or_the_mirror_image_is_the_same_crystal(turn: int) -> None:
    rng = np.random.default_rng(1)
    originals = [random_crystal(rng) for _ in range(5)]
    copies = [disguise(atoms, rng, turn=turn) for atoms in originals]
    a, b = Structures.from_atoms(originals), Structures.from_atoms(copies)
    assert float(crystal_distances(a, b).max()) < 1e-9
    assert float(largest_displacement(a, b).min()) > 0.5  # as they are written they are far apart


def test_random_crystals_of_one_composition_are_different() -> None:
    rng = np.random.default_rng(2)
    crystals = Structures.from_atoms([random_crystal(rng) for _ in range(6)])
    assert torch.isinf(crystal_distances(crystals, crystals.select([1, 2, 3, 4, 5, 0]))).all()


@pytest.mark.parametrize("moved", [0.1, 0.3, 0.6])
def test_one_atom_moved_is_as_far_as_it_moved_less_its_share_of_the_drift(moved: float) -> None:
    rng = np.random.default_rng(3)
    original = random_crystal(rng)
    changed = original.copy()
    changed.positions[2] += moved * np.array([0.6, 0.0, 0.8])
    assert distance(disguise(changed, rng), original) == pytest.approx(6 / 7 * moved, abs=1e-9)


def test_a_crystal_moved_beyond_reach_is_infinitely_far() -> None:
    original = random_crystal(np.random.default_rng(3))
    changed = original.copy()
    changed.positions[2] += np.array([0.0, 0.0, 1.5])
    assert distance(changed, original) > REACH
    assert math.isinf(distance(changed, original))


@pytest.mark.parametrize("strain", [0.02, -0.03])
def test_strain_moves_lattice_vectors(strain: float) -> None:
    cubic = bulk("Po", "sc", 3.35)
    stretched = bulk("Po", "sc", 3.35 * (1 + strain))
    expected = 3.35 * abs((1 + strain) ** 2 - 1) / 2  # Green and Lagrange
    assert distance(stretched, cubic) == pytest.approx(expected, abs=1e-9)
    one, other = Structures.from_atoms(stretched), Structures.from_atoms(cubic)
    assert float(largest_displacement(one, other)) == pytest.approx(expected, abs=1e-9)
    mass = float(other.masses[0])
    assert float(delta_q(one, other)) == pytest.approx(math.sqrt(mass / 12 * 3) * expected, abs=1e-9)


def test_a_rotation_as_a_whole_is_no_displacement_and_the_gradient_reaches_the_cell() -> None:
    rng = np.random.default_rng(4)
    b = Structures.from_atoms(random_crystal(rng, "CdTe"))
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q
    turned = b.with_positions(b.positions @ turn).with_cell(b.cell @ turn)
    assert float(largest_displacement(turned, b)) < 1e-12
    offset = torch.from_numpy(rng.normal(0, 0.05, (3, 3)))
    moved = torch.from_numpy(rng.normal(0, 0.1, (2, 3)))

    def far(cell: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return delta_q(b.with_cell(cell).with_positions(positions), b)

    cell, positions = (b.cell + offset).requires_grad_(), (b.positions + moved).requires_grad_()
    assert torch.autograd.gradcheck(far, (cell, positions), eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_every_supercell_of_a_crystal_is_that_crystal(size: list[list[int]]) -> None:
    rng = np.random.default_rng(6)
    primitive = bulk("CdTe", "zincblende", 6.48)
    first = disguise(make_supercell(primitive, [[1, 0, 0], [0, 2, 0], [0, 0, 1]]), rng)
    assert distance(disguise(make_supercell(primitive, size), rng), first) < 1e-8
    noisy = disguise(make_supercell(primitive, size), rng, noise=0.01)
    assert 1e-3 < distance(noisy, first) < 0.1


def test_crystals_alike_in_their_first_neighbours_are_different() -> None:
    rng = np.random.default_rng(7)
    cubic = make_supercell(bulk("CdTe", "zincblende", 6.48), [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    hexagonal = bulk("CdTe", "wurtzite", 4.582, 7.482)
    assert math.isinf(distance(disguise(hexagonal, rng), cubic))
    doubled = bulk("CdTe", "zincblende", 6.48, cubic=True)
    swapped = doubled.copy()
    swapped.numbers[[0, 1]] = swapped.numbers[[1, 0]]  # an antisite pair
    assert math.isinf(distance(swapped, doubled))
    exchanged = doubled.copy()
    exchanged.numbers = np.where(doubled.numbers == 48, 52, 48)  # an inversion
    assert distance(exchanged, doubled) < 1e-8


def test_a_slightly_distorted_superlattice_is_close_to_its_parent_by_the_distortion() -> None:
    parent = make_supercell(bulk("Si", "diamond", 5.43), [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    distorted = parent.copy()
    distorted.positions[0] += [0.0, 0.0, 0.08]
    other = make_supercell(bulk("Si", "diamond", 5.43), SIZES[1])  # doubled along a cube's edge, not a diagonal
    assert distance(distorted, parent) == pytest.approx(0.75 * 0.08, abs=1e-9)
    assert 0.75 * 0.08 - 1e-9 <= distance(distorted, other) <= 0.08  # bounded from above through the primitive cell
    far = parent.copy()
    far.positions[0] += [0.0, 0.0, 0.3]
    assert math.isinf(distance(far, other))


def average_distances(atoms: Atoms, count: int = 24) -> np.ndarray:
    """Average distance to the k-th neighbour, an invariant of periodic sets (Widdowson et al., MATCH 87, 529, 2022)."""
    cell = minkowski_reduce(atoms.cell.array)[0]
    places = (atoms.positions @ np.linalg.inv(cell)) % 1.0 @ cell
    steps = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    rows = []
    for k in range(len(atoms)):
        images = places - places[k]
        rows.append(np.sort(np.linalg.norm(images[:, None] + steps, axis=2).ravel())[1 : count + 1])
    return np.mean(rows, axis=0)


def stored() -> tuple[dict, list[Atoms], Structures, Structures]:
    table = json.loads(TABLE.read_text())
    crystals = [
        Atoms(c["numbers"], scaled_positions=c["fractions"], cell=c["cell"], pbc=True) for c in table["crystals"]
    ]
    sides = [Structures.from_atoms([crystals[pair[k]] for pair in table["pairs"]]) for k in (0, 1)]
    return table, crystals, sides[0], sides[1]


def test_the_rule_agrees_with_structure_matcher_on_stored_answers() -> None:
    table, crystals, one, other = stored()
    answers = np.array(table["answers"])
    same = (crystal_distances(one, other) < 0.2).numpy()
    assert len(answers) > 100
    assert (~answers).sum() > 40
    assert np.flatnonzero(same != answers).tolist() == []
    # an invariant that neither uses: what is the same has it in common
    for (i, j), alike in list(zip(table["pairs"], same, strict=True))[::8]:
        if alike:
            assert np.abs(average_distances(crystals[i]) - average_distances(crystals[j])).max() < 0.1


def test_stored_answers_are_those_of_structure_matcher() -> None:
    pytest.importorskip("pymatgen.analysis.structure_matcher")
    table = json.loads(TABLE.read_text())
    assert matched(table["crystals"], table["pairs"]) == table["answers"]


def test_what_is_no_crystal_or_another_composition_is_refused() -> None:
    crystal = Structures.from_atoms(bulk("Si"))
    slab = Structures.from_atoms(Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=np.eye(3) * 4, pbc=(True, True, False)))
    with pytest.raises(StructureError, match="periodic in three directions"):
        crystal_distances(crystal, slab)
    with pytest.raises(StructureError, match="cannot be compared"):
        crystal_distances(crystal, Structures.from_atoms(bulk("CdTe", "zincblende", 6.48)))
