from itertools import permutations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import (
    assign,
    delta_q,
    displacements,
    largest_displacement,
    minimum_image,
)

SILICON, CADMIUM, TELLURIUM = 28.085, 112.414, 127.60  # amu


def cube(positions, symbols="Si2", size=10.0, pbc=True) -> Structures:
    return Structures.from_atoms(Atoms(symbols, positions, cell=np.eye(3) * size, pbc=pbc))


def compound(seed: int) -> Atoms:
    """Seven atoms of two species around a vacancy in a skewed cell, rattled."""
    atoms = bulk("CdTe", "zincblende", a=6.5) * (2, 2, 1)
    del atoms[0]
    cell = atoms.cell.array.copy()
    cell[2] += cell[0]
    atoms.set_cell(cell)
    atoms.rattle(0.1, seed=seed)
    return atoms


def within_species(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    order = np.arange(len(atoms))
    for number in np.unique(atoms.numbers):
        of_kind = np.flatnonzero(atoms.numbers == number)
        order[of_kind] = rng.permutation(of_kind)
    return order


def test_delta_q_of_two_atoms_moved_apart_is_known():
    start = cube([[1, 1, 1], [5, 5, 5]])
    moved = cube([[1.3, 1, 1], [4.7, 5, 5]])
    assert delta_q(moved, start).item() == pytest.approx(np.sqrt(2 * SILICON) * 0.3, rel=1e-12)
    assert largest_displacement(moved, start).item() == pytest.approx(0.3, rel=1e-12)


def test_the_drift_is_weighted_by_mass():
    start = cube([[1, 1, 1], [5, 5, 5]], "CdTe")
    moved = cube([[1.5, 1, 1], [5, 5, 5]], "CdTe")
    reduced = CADMIUM * TELLURIUM / (CADMIUM + TELLURIUM)
    assert delta_q(moved, start).item() == pytest.approx(np.sqrt(reduced) * 0.5, rel=1e-12)
    rows = displacements(moved, start)
    assert rows[0, 0].item() == pytest.approx(0.5 * TELLURIUM / (CADMIUM + TELLURIUM), rel=1e-12)
    assert torch.allclose((start.masses[:, None] * rows).sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)


def test_like_atoms_that_changed_places_have_not_moved_and_unlike_ones_have():
    silicon = [cube([[1, 1, 1], [5, 5, 5]]), cube([[5, 5, 5], [1, 1, 1]])]
    assert delta_q(silicon[0], silicon[1]).item() == 0.0
    assert delta_q(silicon[0], silicon[1], assign=False).item() > 10
    alloy = [cube([[1, 1, 1], [5, 5, 5]], "CdTe"), cube([[5, 5, 5], [1, 1, 1]], "CdTe")]
    assert delta_q(alloy[0], alloy[1]).item() > 10


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_delta_q_forgets_lattice_vectors_translation_and_order(seed):
    rng = np.random.default_rng(seed)
    a, b = compound(seed % 1000), compound(1000 + seed % 999)
    expected = delta_q(Structures.from_atoms(a), Structures.from_atoms(b)).item()
    changed = a[within_species(a, rng)]
    changed.positions += rng.integers(-3, 4, size=(len(a), 3)) @ a.cell.array
    changed.positions += rng.uniform(-0.3, 0.3, 3)
    assert delta_q(Structures.from_atoms(changed), Structures.from_atoms(b)).item() == pytest.approx(
        expected, rel=1e-10
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_translation_of_atoms_in_order_is_drift_even_across_half_the_cell(seed):
    rng = np.random.default_rng(seed)
    a, b = compound(seed % 1000), compound(1000 + seed % 999)
    expected = delta_q(Structures.from_atoms(a), Structures.from_atoms(b)).item()
    for shift in (rng.uniform(-20, 20, 3), a.cell.array.sum(0) / 2):
        moved = a.copy()
        moved.positions += shift + rng.integers(-2, 3, size=(len(a), 3)) @ a.cell.array
        for with_assignment in (True, False):
            found = delta_q(Structures.from_atoms(moved), Structures.from_atoms(b), assign=with_assignment).item()
            assert found == pytest.approx(expected, rel=1e-10)


def test_a_defect_at_another_origin_in_another_order_is_found_on_demand_only():
    host = bulk("Si", cubic=True) * (2, 2, 2)
    del host[5]
    host.rattle(0.05, seed=1)
    copy = host[np.random.default_rng(0).permutation(len(host))]
    copy.positions += [3.3, 2.2, 7.0]
    a, b = Structures.from_atoms(copy), Structures.from_atoms(host)
    assert delta_q(a, b, any_origin=True).item() < 1e-9
    assert delta_q(a, b).item() > 10


def test_fixed_atoms_hold_the_structure_so_that_nothing_is_drift():
    atoms = Atoms("Si2", [[1, 1, 1], [5, 5, 5]], cell=np.eye(3) * 10, pbc=True)
    shifted = atoms.copy()
    shifted.positions += [0.5, 0, 0]
    free = [Structures.from_atoms(x) for x in (shifted, atoms)]
    assert delta_q(free[0], free[1]).item() == pytest.approx(0, abs=1e-12)
    atoms.set_constraint(FixAtoms([0]))
    shifted.set_constraint(FixAtoms([0]))
    held = [Structures.from_atoms(x) for x in (shifted, atoms)]
    assert delta_q(held[0], held[1]).item() == pytest.approx(np.sqrt(2 * SILICON) * 0.5, rel=1e-12)


def test_a_cluster_without_a_cell_has_drift_but_no_images():
    a = cube([[0, 0, 0], [100, 0, 0]], size=0.0, pbc=False)
    b = cube([[7, 0, 0], [107.4, 0, 0]], size=0.0, pbc=False)
    assert delta_q(a, b).item() == pytest.approx(np.sqrt(2 * SILICON) * 0.2, rel=1e-9)


def test_a_surface_drifts_along_all_directions_and_wraps_along_two():
    a = cube([[9.9, 1, 1], [4, 4, 4]], pbc=[True, True, False])
    b = cube([[0.1, 1, 31], [4, 4, 34]], pbc=[True, True, False])
    assert delta_q(a, b).item() == pytest.approx(np.sqrt(2 * SILICON) * 0.1, rel=1e-9)


def test_the_assignment_is_the_optimum_over_all_permutations():
    # independent: plain table of distances in a cubic cell, with the drift held at zero by a fixed atom
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (Atoms("Si12", rng.uniform(0, 6, (12, 3)), cell=np.eye(3) * 6, pbc=True) for _ in range(2))
        a.set_constraint(FixAtoms([0]))
        difference = a.positions[None] - b.positions[:, None]
        squares = ((difference - 6 * np.rint(difference / 6)) ** 2).sum(-1)
        rows, columns = linear_sum_assignment(squares)
        partner = assign(Structures.from_atoms(a), Structures.from_atoms(b))
        assert partner.tolist() == columns.tolist()
        found = delta_q(Structures.from_atoms(a), Structures.from_atoms(b)).item()
        assert found == pytest.approx(np.sqrt(SILICON * squares[rows, columns].sum()), rel=1e-12)


def test_the_fixed_point_is_the_global_optimum_for_small_problems():
    # independent: every permutation of four atoms, images relative to each atom in turn, best drift for each
    rng = np.random.default_rng(3)
    host = np.array([[0, 0, 0], [2.7, 2.7, 0], [2.7, 0, 2.7], [0, 2.7, 2.7]])
    for _ in range(5):
        b = Atoms("Si4", host + rng.normal(size=(4, 3)) * 0.2, cell=np.eye(3) * 5.4, pbc=True)
        a = b[rng.permutation(4)]
        a.positions += rng.normal(size=(4, 3)) * 0.1 + rng.uniform(-0.4, 0.4, 3)
        best = np.inf
        for order in permutations(range(4)):
            moved = a.positions[list(order)] - b.positions
            for anchor in range(4):
                near = moved - moved[anchor]
                near -= 5.4 * np.rint(near / 5.4)
                best = min(best, ((near - near.mean(0)) ** 2).sum())
        found = delta_q(Structures.from_atoms(a), Structures.from_atoms(b)).item()
        assert found == pytest.approx(np.sqrt(SILICON * best), rel=1e-10)


def test_rows_follow_the_reference_and_the_permutation_says_who_is_who():
    b = compound(1)
    order = within_species(b, np.random.default_rng(0))
    a = b[order]
    partner = assign(Structures.from_atoms(a), Structures.from_atoms(b))
    np.testing.assert_array_equal(order[partner.numpy()], np.arange(len(b)))
    assert displacements(Structures.from_atoms(a), Structures.from_atoms(b)).abs().max() < 1e-12


def test_species_in_another_order_are_matched_by_assignment_and_refused_without():
    a, b = cube([[5, 5, 5], [1, 1, 1]], "TeCd"), cube([[1, 1, 1], [5, 5, 5]], "CdTe")
    assert delta_q(a, b).item() == 0.0
    with pytest.raises(StructureError, match="another order"):
        delta_q(a, b, assign=False)


def test_a_structure_has_the_same_displacements_in_any_batch():
    frames = [compound(k) for k in range(3)]
    others = [compound(10 + k) for k in range(3)]
    a, b = Structures.from_atoms(frames), Structures.from_atoms(others)
    whole = displacements(a, b)
    for k in (2, 0, 1):
        alone = displacements(a.select([k]), b.select([k]))
        assert torch.equal(alone, whole[b.atoms_of([k])])
        assert torch.equal(assign(a.select([k]), b.select([k])) + b.offsets[k], assign(a, b)[b.atoms_of([k])])


def permuted_and_jumped() -> tuple[Structures, Structures]:
    rng = np.random.default_rng(5)
    frames, others = [], []
    for k in range(2):
        a = compound(k)
        a = a[within_species(a, rng)]
        a.positions += rng.integers(-2, 3, size=(len(a), 3)) @ a.cell.array
        frames.append(a)
        others.append(compound(10 + k))
    return Structures.from_atoms(frames), Structures.from_atoms(others)


def test_gradients_agree_with_differences_through_drift_images_and_assignment():
    a, b = permuted_and_jumped()

    def of(x, y):
        return delta_q(a.with_positions(x), b.with_positions(y))

    inputs = (a.positions.clone().requires_grad_(), b.positions.clone().requires_grad_())
    assert torch.autograd.gradcheck(of, inputs, eps=1e-5, atol=1e-8, rtol=1e-7)
    largest = lambda x: largest_displacement(a.with_positions(x), b)  # noqa: E731
    assert torch.autograd.gradcheck(largest, inputs[:1], eps=1e-5, atol=1e-8, rtol=1e-7)


def test_displacements_differentiate_the_drift_and_the_check_rejects_one_held_constant():
    a, b = permuted_and_jumped()
    partner = assign(a, b)

    def wrong(x):
        return displacements(a.with_positions(x.detach()), b) + x[partner] - x[partner].detach()

    x = a.positions.clone().requires_grad_()
    assert torch.allclose(wrong(x), displacements(a.with_positions(x), b), rtol=0, atol=1e-12)
    check = dict(eps=1e-5, atol=1e-8, rtol=1e-7)
    assert torch.autograd.gradcheck(lambda y: displacements(a.with_positions(y), b), (x,), **check)
    assert not torch.autograd.gradcheck(wrong, (x,), raise_exception=False, **check)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_at_zero_is_zero_not_nan(dtype):
    b = Structures.from_atoms(compound(0), dtype=dtype)
    x = b.positions.clone().requires_grad_()
    for quantity in (delta_q, largest_displacement):
        value = quantity(b.with_positions(x), b)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.item() == 0.0
        assert (gradient == 0).all()


def test_second_derivatives_of_the_squared_distance_exist():
    a, b = permuted_and_jumped()
    x = a.positions.clone().requires_grad_()
    of = lambda y: delta_q(a.with_positions(y), b).square().sum()  # noqa: E731
    assert torch.autograd.gradgradcheck(of, (x,), eps=1e-5, atol=1e-5)


def test_minimum_image_is_differentiable_to_vectors_and_cell():
    rng = np.random.default_rng(0)
    base = torch.tensor([[4.0, 0, 0], [6.3, 3, 0], [1, 5.1, 4]], dtype=torch.float64)
    cell = torch.stack([base, base, 2 * base, base])
    pbc = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [False] * 3])
    vectors = torch.tensor(rng.normal(size=(4, 3)) * 9)
    found = minimum_image(vectors, cell, pbc)
    assert torch.equal(found[3], vectors[3])
    for k in range(3):
        assert torch.equal(minimum_image(vectors[k : k + 1], cell[k : k + 1], pbc[k : k + 1])[0], found[k])
        assert found[k].norm() <= vectors[k].norm()
    inputs = (vectors.requires_grad_(), cell.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, c: minimum_image(v, c, pbc), inputs, atol=1e-8)


def test_float32_gives_float32_close_to_float64():
    a, b = permuted_and_jumped()
    single = delta_q(a.to(dtype=torch.float32), b.to(dtype=torch.float32))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), delta_q(a, b), rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            cube([[1, 1, 1]], "Si"),
            cube([[1, 1, 1], [5, 5, 5]]),
            r"structure '0': Si1 cannot be compared with Si2",
        ),
        (
            cube([[1, 1, 1], [5, 5, 5]], "CdTe"),
            cube([[1, 1, 1], [5, 5, 5]]),
            "Cd1 Te1 cannot be compared with Si2",
        ),
        (
            cube([[1, 1, 1]], "Si"),
            Structures.concatenate([cube([[1, 1, 1]], "Si")] * 2),
            "1 structures with 2",
        ),
    ],
)
def test_structures_that_cannot_be_compared_are_refused(a, b, message):
    with pytest.raises(StructureError, match=message):
        delta_q(a, b)


def test_positions_that_are_not_finite_are_refused():
    b = cube([[1, 1, 1], [5, 5, 5]])
    a = b.with_positions(b.positions * torch.nan)
    with pytest.raises(StructureError, match="not finite; leave out structures that exploded"):
        displacements(a, b)


def test_a_cell_that_went_through_single_precision_is_the_same_cell():
    """A relaxation in float32 that keeps the cell is compared to the last bit as with the cell of its reference."""
    rng = np.random.default_rng(4)
    ours = cube(rng.uniform(0, 9, (2, 3)), size=9.87654321)
    theirs = cube(rng.uniform(0, 9, (2, 3)), size=9.87654321)
    rounded = ours.with_cell(ours.cell.float().double())
    assert not torch.equal(rounded.cell, ours.cell)
    for measure in (delta_q, largest_displacement):
        assert torch.equal(measure(rounded, theirs), measure(ours, theirs))
        assert not torch.equal(measure(ours.with_cell(1.00001 * ours.cell), theirs), measure(ours, theirs))


def test_a_slab_without_a_third_lattice_vector_is_compared_after_single_precision():
    slab = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3]], cell=[3.8401, 3.8401, 0.0], pbc=[True, True, False])
    ours = Structures.from_atoms(slab)
    assert float(largest_displacement(ours.with_cell(ours.cell.float().double()), ours)) < 1e-9
    with pytest.raises(StructureError, match="has no volume"):
        largest_displacement(ours.with_cell(1.01 * ours.cell), ours)
