"""Positions and cell together: derivatives by differences, forces and relaxed cells as ASE's FrechetCellFilter's."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.linalg import expm, expm_frechet
from tests.relaxation.surfaces import Morse, PotentialCalculator, Swirl, rattled_argon

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.gradients.differences import compare
from thalweg.potentials import PaiNN
from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import (
    FIRE,
    LBFGS,
    RELAXERS,
    Descent,
    Outcome,
    Path,
    Positions,
    PositionsAndCell,
    Relaxer,
    largest_curvature,
    relax,
)
from thalweg.relaxation.cell import MAX_STRAIN, _exponential, _exponential_derivative
from thalweg.relaxation.stability import Curvature
from thalweg.structures.batch import Structures

IN_PLANE = (True, True, False, False, False, True)


class StressCalculator(PotentialCalculator):
    """The same potential for ASE, with its stress."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        stress = self.potential(Structures.from_atoms(self.atoms), stress=True).stress[0]
        self.results["stress"] = full_3x3_to_voigt_6_stress(stress.numpy())


def silicon() -> Potential:
    return StillingerWeber.from_published("Si")


def strained(atoms: Atoms, strain: list[list[float]], rattle: float = 0.03, seed: int = 1) -> Atoms:
    """Return atoms and cell deformed by 1 + strain, then displaced."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array(strain)), scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=rattle, size=atoms.positions.shape)
    return atoms


STRETCHED = [[0.05, 0.0, 0.0], [0.0, 0.05, 0.0], [0.0, 0.0, 0.05]]
SHEARED = [[0.0, 0.06, 0.0], [0.0, 0.02, -0.05], [0.03, 0.0, -0.02]]


def frames() -> list[Atoms]:
    """Return silicon cells of different size, one with a held atom."""
    large = strained(bulk("Si", cubic=True), STRETCHED, 0.08)
    large.set_constraint(FixAtoms([2]))
    return [large, strained(bulk("Si"), SHEARED, seed=2)]


def displaced(coordinates: PositionsAndCell, structures: Structures, size: float = 0.3) -> torch.Tensor:
    """Return rows away from the reference by about `size` Å."""
    rows = coordinates.rows(structures)
    field = torch.randn(rows.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return rows + size * coordinates.mask(structures, field)


# the coordinates


def test_rows_of_a_structure_are_its_atoms_then_its_strain() -> None:
    structures, coordinates = Structures.from_atoms(frames()), PositionsAndCell()
    rows, owner = coordinates.rows(structures), coordinates.owner(structures)
    assert owner.tolist() == [0] * 11 + [1] * 5
    assert torch.equal(rows[:8], structures.positions[:8])
    assert torch.equal(rows[11:13], structures.positions[8:])
    assert not rows[8:11].any()
    assert not rows[13:].any()
    assert coordinates.free(structures).all(dim=1).logical_not().nonzero().flatten().tolist() == [2]
    placed = coordinates.place(structures, rows)
    assert torch.equal(placed.positions, structures.positions)
    assert torch.equal(placed.cell, structures.cell)


def test_a_strain_deforms_atoms_and_cell_alike_and_symmetrically() -> None:
    structures, coordinates = Structures.from_atoms(frames()), PositionsAndCell()
    rows = coordinates.rows(structures)
    rows[8, 1] = 0.8  # half of it, 0.4 / 8 atoms, is the log strain xy
    placed = coordinates.place(structures, rows)
    stretch = torch.eye(3, dtype=torch.float64)
    stretch[0, 0] = stretch[1, 1] = np.cosh(0.05)
    stretch[0, 1] = stretch[1, 0] = np.sinh(0.05)
    torch.testing.assert_close(placed.cell[0], structures.cell[0] @ stretch, rtol=0, atol=1e-14)
    torch.testing.assert_close(placed.positions[:8], structures.positions[:8] @ stretch, rtol=0, atol=1e-14)
    assert torch.equal(placed.cell[1], structures.cell[1])


def test_rows_measured_from_a_reference_give_back_what_was_placed() -> None:
    structures, coordinates = Structures.from_atoms(frames()), PositionsAndCell()
    rows = displaced(coordinates, structures)
    back = coordinates.rows(coordinates.place(structures, rows), structures)
    torch.testing.assert_close(back, rows, rtol=0, atol=1e-12)


def test_a_turned_cell_is_refused_as_not_strained_from_the_reference() -> None:
    structures, coordinates = Structures.from_atoms(frames()), PositionsAndCell()
    turned = structures.with_cell(
        structures.cell
        @ torch.linalg.matrix_exp(
            0.1 * torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
        )
    )
    with pytest.raises(StructureError, match="turned against the reference"):
        coordinates.rows(turned, structures)


# forces


@pytest.mark.parametrize(
    "coordinates",
    [PositionsAndCell(), PositionsAndCell(scale=3.0, pressure=0.05), PositionsAndCell(components=IN_PLANE)],
    ids=["plain", "scale and pressure", "in plane"],
)
def test_forces_are_those_of_the_filter(coordinates: PositionsAndCell) -> None:
    structures, potential = Structures.from_atoms(frames()), silicon()
    rows = displaced(coordinates, structures)
    energy, forces = coordinates.evaluate(potential, structures, rows)
    mask = np.array(coordinates.components, dtype=float)
    for k, start in enumerate(frames()):
        atoms, mine = start.copy(), (coordinates.owner(structures) == k)
        atoms.calc = StressCalculator(potential)
        count = len(atoms)
        scale = count if coordinates.scale is None else coordinates.scale
        filtered = FrechetCellFilter(atoms, mask=mask, exp_cell_factor=scale, scalar_pressure=coordinates.pressure)
        theirs = rows[mine].numpy().copy()
        theirs[count:] += scale * np.log(count) * np.eye(3)  # the filter counts strain from log(count)
        filtered.set_positions(theirs)
        expected = filtered.get_forces()
        expected[count:] = 0.5 * (expected[count:] + expected[count:].T)
        np.testing.assert_allclose(forces[mine].numpy(), expected, rtol=0, atol=1e-10)
        enthalpy = atoms.get_potential_energy() + coordinates.pressure * atoms.get_volume()
        assert float(energy[k]) == pytest.approx(enthalpy, abs=1e-10)


def test_at_the_reference_the_filter_has_no_antisymmetric_force_and_away_from_it_it_has() -> None:
    """So relaxations here and there follow the same surface, but not step for step."""
    skew = []
    for strain in (0.0, 0.4):
        atoms = frames()[1]
        atoms.calc = StressCalculator(silicon())
        filtered = FrechetCellFilter(atoms)
        rows = filtered.get_positions()
        rows[2, 0] += strain
        filtered.set_positions(rows)
        of_strain = filtered.get_forces()[2:]
        skew.append(np.abs(of_strain - of_strain.T).max())
    assert skew[0] < 1e-12
    assert skew[1] > 1e-2


def painn() -> Potential:
    torch.manual_seed(3)
    return PaiNN.from_settings({"species": [14], "channels": 8, "layers": 2, "cutoff": 4.0}).double()


@pytest.mark.parametrize("make", [silicon, painn], ids=["stillinger-weber", "painn"])
def test_forces_are_the_derivative_of_the_energy_and_products_that_of_the_forces(make) -> None:
    structures, potential, coordinates = Structures.from_atoms(frames()), make(), PositionsAndCell(pressure=0.03)
    rows = displaced(coordinates, structures).requires_grad_()
    field = torch.randn(rows.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    direction = coordinates.mask(structures, field)
    _, differentiable = coordinates.evaluate(potential, structures, rows, graph=True)
    (product,) = torch.autograd.grad(differentiable, rows, direction)
    forces = differentiable.detach()
    weights = direction.roll(1, dims=0)

    def energy() -> float:
        return float(coordinates.evaluate(potential, structures, rows.detach())[0].sum())

    def force() -> float:
        return float((coordinates.evaluate(potential, structures, rows.detach())[1] * direction).sum())

    first = compare(energy, [rows], [direction], -float((forces * direction).sum()))
    second = compare(force, [rows], [weights], float((product * weights).sum()))
    assert first.passed, first
    assert second.passed, second
    wrong = -float((forces * direction)[coordinates.owner(structures) == 0][:8].sum())
    assert not compare(energy, [rows], [direction], wrong).passed


@pytest.mark.parametrize("norm", [0.0, 1e-9, 0.03, MAX_STRAIN])
def test_the_exponential_and_its_derivative_are_exact_however_large_the_gradient(norm: float) -> None:
    stream = torch.Generator().manual_seed(8)
    at, direction = torch.randn((2, 1, 3, 3), generator=stream, dtype=torch.float64)
    at = (at + at.transpose(1, 2)) * norm / torch.linalg.matrix_norm(at + at.transpose(1, 2))
    derivative = torch.from_numpy(expm_frechet(at[0].numpy(), direction[0].numpy(), compute_expm=False))
    torch.testing.assert_close(_exponential(at)[0], torch.from_numpy(expm(at[0].numpy())), rtol=0, atol=1e-15)
    for size in (1e-9, 1.0, 1e9):
        found = _exponential_derivative(at, size * direction)[0]
        torch.testing.assert_close(found, size * derivative, rtol=0, atol=2e-15 * size)
        leaf = at.clone().requires_grad_()
        (product,) = torch.autograd.grad(_exponential(leaf), leaf, size * direction)
        torch.testing.assert_close(product[0], size * derivative, rtol=0, atol=2e-15 * size)


def test_placing_is_differentiable() -> None:
    structures, coordinates = Structures.from_atoms(frames()[1]), PositionsAndCell()
    rows = displaced(coordinates, structures).requires_grad_()

    def place(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        placed = coordinates.place(structures, rows)
        return placed.positions, placed.cell

    assert torch.autograd.gradcheck(place, (rows,))
    assert torch.autograd.gradgradcheck(place, (rows,))


# relaxed cells


def ase_end(start: Atoms, potential: Potential, mask: tuple[bool, ...]) -> Atoms:
    atoms = start.copy()
    atoms.calc = StressCalculator(potential)
    assert BFGS(FrechetCellFilter(atoms, mask=np.array(mask, dtype=float)), logfile=None).run(fmax=1e-5, steps=500)
    return atoms


def telluride() -> Atoms:
    return strained(bulk("CdTe", "zincblende", a=6.48, cubic=True), SHEARED)


def slab() -> Atoms:
    atoms = strained(bulk("Si", cubic=True), [[0.04, 0.02, 0.0], [0.02, -0.03, 0.0], [0.0, 0.0, 0.0]])
    atoms.set_cell(atoms.cell.array + np.diag([0.0, 0.0, 8.0]))
    atoms.pbc = (True, True, False)
    return atoms


ALL = (True,) * 6
DIAGONAL = (True, True, True, False, False, False)


def held() -> Atoms:
    return frames()[0]


@pytest.mark.parametrize(
    ("start", "components", "name"),
    [
        (strained(bulk("Si", cubic=True), STRETCHED), ALL, "Si"),
        (strained(bulk("Si"), SHEARED), ALL, "Si"),
        (telluride(), ALL, "CdTe-2013"),
        (strained(bulk("Si", cubic=True), SHEARED), DIAGONAL, "Si"),
        (strained(bulk("Si", cubic=True), STRETCHED), IN_PLANE, "Si"),
        (slab(), IN_PLANE, "Si"),
        (held(), ALL, "Si"),
    ],
    ids=["stretched", "sheared", "two species", "no shear", "one direction fixed", "slab", "held atom"],
)
def test_relaxed_cells_are_those_of_ase(start: Atoms, components: tuple[bool, ...], name: str) -> None:
    potential = StillingerWeber.from_published(name)
    theirs = ase_end(start, potential, components)
    coordinates = PositionsAndCell(components=components)
    end = relax(potential, Structures.from_atoms(start), LBFGS(), fmax=1e-5, max_steps=500, coordinates=coordinates)
    assert end.outcomes == (Outcome.CONVERGED,)
    assert float(end.energy[0]) == pytest.approx(theirs.get_potential_energy(), abs=1e-6)
    mine = end.structures.to_atoms()[0]
    np.testing.assert_allclose(mine.cell.lengths(), theirs.cell.lengths(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(mine.cell.angles(), theirs.cell.angles(), rtol=0, atol=1e-3)
    assert np.abs(mine.cell.array - start.cell.array).max() > 0.05


def test_a_cell_relaxes_to_the_lattice_constant_of_the_surface() -> None:
    """The Stillinger–Weber minimum is at a = 5.431 Å and −4.3366 eV an atom (Stillinger and Weber 1985, section IV)."""
    end = relax(
        silicon(), Structures.from_atoms(frames()), LBFGS(), fmax=1e-6, max_steps=500, coordinates=PositionsAndCell()
    )
    torch.testing.assert_close(end.energy, -4.3366 * end.structures.counts.to(torch.float64), rtol=0, atol=8 * 1e-4)
    lengths = end.structures.cell.norm(dim=2)
    torch.testing.assert_close(lengths[0], torch.full((3,), 5.431, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(lengths[1] * 2**0.5, lengths[0], rtol=0, atol=1e-4)


def test_a_cell_under_pressure_has_that_pressure_at_the_end() -> None:
    coordinates = PositionsAndCell(pressure=0.06)
    end = relax(
        silicon(), Structures.from_atoms(frames()[1]), LBFGS(), fmax=1e-7, max_steps=500, coordinates=coordinates
    )
    stress = silicon()(end.structures, stress=True).stress
    torch.testing.assert_close(stress[0], -0.06 * torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_cell_never_turns() -> None:
    structures = Structures.from_atoms(frames())
    end = relax(silicon(), structures, FIRE(), fmax=1e-4, max_steps=500, coordinates=PositionsAndCell())
    stretch = torch.linalg.solve(structures.cell, end.structures.cell)
    assert (stretch - torch.eye(3, dtype=torch.float64)).abs().max() > 0.02
    torch.testing.assert_close(stretch, stretch.transpose(1, 2), rtol=0, atol=1e-12)


# what does not move


def test_fixed_strains_and_fixed_atoms_do_not_move_at_all() -> None:
    structures, coordinates = Structures.from_atoms(frames()), PositionsAndCell(components=IN_PLANE)
    end = relax(silicon(), structures, LBFGS(), fmax=1e-3, max_steps=500, coordinates=coordinates)
    stretch = torch.linalg.solve(structures.cell, end.structures.cell)
    torch.testing.assert_close(
        stretch[:, 2], torch.tensor([[0.0, 0.0, 1.0]] * 2, dtype=torch.float64), rtol=0, atol=1e-14
    )
    scaled = [s.positions[2] @ torch.linalg.inv(s.cell[0]) for s in (structures, end.structures)]
    torch.testing.assert_close(scaled[0], scaled[1], rtol=0, atol=1e-14)


def test_directions_that_are_not_periodic_are_not_strained() -> None:
    structures = Structures.from_atoms(slab())
    rows = displaced(PositionsAndCell(), structures)
    placed = PositionsAndCell().place(structures, rows)
    atoms = rows[: len(structures.positions)]
    torch.testing.assert_close(placed.positions[:, 2], atoms[:, 2], rtol=0, atol=1e-14)
    assert (placed.positions[:, :2] - atoms[:, :2]).abs().max() > 1e-2
    end = relax(silicon(), structures, LBFGS(), fmax=1e-5, max_steps=800, coordinates=PositionsAndCell())
    plane = relax(
        silicon(), structures, LBFGS(), fmax=1e-5, max_steps=800, coordinates=PositionsAndCell(components=IN_PLANE)
    )
    torch.testing.assert_close(end.structures.positions, plane.structures.positions, rtol=0, atol=1e-12)


def test_an_isolated_cluster_relaxes_as_in_a_fixed_cell() -> None:
    frame = rattled_argon(1, 0.2, 3)
    frame.center(vacuum=4.0)
    frame.pbc = False
    structures = Structures.from_atoms(frame)
    ends = [
        relax(Morse(), structures, LBFGS(), fmax=1e-4, max_steps=300, coordinates=c)
        for c in (Positions(), PositionsAndCell())
    ]
    assert torch.equal(ends[0].structures.positions, ends[1].structures.positions)
    assert torch.equal(ends[0].structures.cell, ends[1].structures.cell)


# the loop and the path


@pytest.mark.parametrize("kind", RELAXERS)
def test_a_structure_ends_in_a_batch_where_it_ends_alone(kind: str) -> None:
    relaxer: Relaxer = Descent(alpha=0.05) if kind == "descent" else RELAXERS[kind]()
    starts = Structures.from_atoms(
        [rattled_argon(1, 0.02, 1), rattled_argon(1, 0.2, 2), rattled_argon(1, 0.1, 3, True)], ids=["a", "b", "c"]
    )
    path = Path(Descent(alpha=0.05), steps=5, finish=relaxer, fmax=0.02, max_steps=500, coordinates=PositionsAndCell())
    together = path.run(Morse(), starts, keep_trace=True)
    assert together.outcomes == (Outcome.CONVERGED,) * 3
    assert len(set(together.steps.tolist())) > 1, "the structures must finish one by one"
    assert together.trace is not None
    torch.testing.assert_close(together.trace[-1].cell, together.structures.cell, rtol=0, atol=1e-12)
    for k in range(3):
        alone = path.run(Morse(), starts.select([k]))
        part = together.structures.select([k])
        assert int(alone.steps[0]) == int(together.steps[k])
        torch.testing.assert_close(part.positions, alone.structures.positions, rtol=0, atol=1e-9)
        torch.testing.assert_close(part.cell, alone.structures.cell, rtol=0, atol=1e-9)
    forces = PositionsAndCell().evaluate(Morse(), together.structures, PositionsAndCell().rows(together.structures))[1]
    assert forces.norm(dim=1).max() < 0.025  # measured anew, from the relaxed cells


def test_a_path_cut_in_two_is_the_path_in_one() -> None:
    starts = Structures.from_atoms(frames())
    path = Path(Descent(alpha=0.02), steps=12, fmax=1e-4, coordinates=PositionsAndCell())
    whole = path.run(silicon(), starts, keep_trace=True)
    assert whole.trace is not None
    rest = path.run(silicon(), whole.trace[5], skip=5, reference=starts)
    assert (rest.steps + 5).tolist() == whole.steps.tolist()
    torch.testing.assert_close(rest.structures.cell, whole.structures.cell, rtol=0, atol=1e-10)
    torch.testing.assert_close(rest.structures.positions, whole.structures.positions, rtol=0, atol=1e-10)


def test_the_verdict_is_given_on_strain_too() -> None:
    """Atoms of a perfect stretched crystal feel no force; only the cell has to move."""
    perfect = Structures.from_atoms(strained(bulk("Si", cubic=True), STRETCHED, rattle=0.0))
    fixed = relax(silicon(), perfect, LBFGS(), fmax=0.005, max_steps=100)
    free = relax(silicon(), perfect, LBFGS(), fmax=0.005, max_steps=100, coordinates=PositionsAndCell())
    assert int(fixed.steps[0]) == 0
    assert int(free.steps[0]) > 3
    assert float(free.fmax[0]) < 0.005


@pytest.mark.parametrize("pressure", [40.0, -40.0], ids=["collapsing", "flying apart"])
def test_a_cell_that_runs_away_has_exploded_and_stands_within_bounds(pressure: float) -> None:
    starts = Structures.from_atoms([rattled_argon(1, 0.01, 1), rattled_argon(1, 0.01, 2)])
    coordinates = PositionsAndCell(pressure=pressure, scale=1.0)
    end = relax(Morse(), starts, Descent(alpha=0.05), fmax=1e-3, max_steps=60, coordinates=coordinates, min_distance=0)
    assert end.outcomes == (Outcome.EXPLODED,) * 2
    assert torch.isfinite(end.structures.positions).all()
    assert torch.isfinite(end.structures.cell).all()
    stretch = torch.linalg.solve(starts.cell, end.structures.cell)
    strain = torch.linalg.eigvalsh(stretch).log().norm(dim=1)
    assert strain.max() <= MAX_STRAIN
    assert strain.min() > 0.5 * MAX_STRAIN


def test_a_lost_structure_leaves_its_companions_as_they_are() -> None:
    starts, coordinates = Structures.from_atoms(frames()), PositionsAndCell()
    rows = displaced(coordinates, starts)
    energy, forces = coordinates.evaluate(silicon(), starts, rows)
    for value in (100.0, float("nan"), float("inf")):
        bad = rows.clone()
        bad[9, 1] = value
        with_lost, on_rows = coordinates.evaluate(silicon(), starts, bad)
        assert with_lost[0].isnan()
        assert on_rows[:8].isnan().any()
        assert float(with_lost[1]) == pytest.approx(float(energy[1]), abs=1e-12)
        torch.testing.assert_close(on_rows[11:], forces[11:], rtol=0, atol=1e-12)
        assert coordinates.escaped(starts, rows, bad, 20.0).tolist() == [True, False]


def test_one_precision_is_kept() -> None:
    starts = Structures.from_atoms(frames()).to(dtype=torch.float32)
    potential = StillingerWeber.from_published("Si", dtype=torch.float32)
    path = Path(Descent(alpha=0.02), steps=12, fmax=0.01, coordinates=PositionsAndCell())
    end = path.run(potential, starts)
    assert end.structures.dtype == end.structures.cell.dtype == torch.float32
    assert end.outcomes == (Outcome.CONVERGED,) * 2


# curvature


def test_the_largest_curvature_is_that_of_the_joint_hessian() -> None:
    coordinates, potential = PositionsAndCell(), silicon()
    structures = relax(
        potential, Structures.from_atoms(frames()), LBFGS(), fmax=1e-4, max_steps=300, coordinates=coordinates
    ).structures
    found = largest_curvature(potential, structures, coordinates=coordinates, tolerance=1e-8)
    for k in range(2):
        one = structures.select([k])
        curvature = Curvature(potential, one, coordinates)
        size = 3 * len(coordinates.rows(one))
        columns = [curvature(v.view(-1, 3)).flatten() for v in torch.eye(size, dtype=torch.float64)]
        hessian = torch.stack(columns)
        torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-8)
        values = torch.linalg.eigvalsh(hessian)
        assert float(found[k]) == pytest.approx(float(values[-1]), rel=1e-6)
        moving = 3 if k == 1 else 0  # translations; one atom of the first is held
        fixed = 0 if k == 1 else 3
        assert int((values.abs() < 1e-6).sum()) == 3 + moving + fixed  # 3 of them antisymmetric strains


# refusals


def test_a_potential_without_stress_is_refused() -> None:
    starts = Structures.from_atoms(Atoms("H2", [[0, 0, 0], [1, 1, 1]], cell=np.eye(3) * 9, pbc=True))
    with pytest.raises(PotentialError, match="gives no stress"):
        relax(Swirl(), starts, LBFGS(), fmax=0.01, max_steps=3, coordinates=PositionsAndCell())


def test_a_cell_without_volume_is_refused() -> None:
    with pytest.raises(StructureError, match="no volume"):
        PositionsAndCell().rows(Structures.from_atoms(Atoms("Si2", [[0, 0, 0], [2, 0, 0]])))


def test_fixed_strains_between_the_axes_of_a_slab_are_refused() -> None:
    atoms = slab()
    atoms.rotate(30, "x", rotate_cell=True)
    structures = Structures.from_atoms(atoms)
    PositionsAndCell().rows(structures)
    with pytest.raises(StructureError, match="periodic directions are not axes"):
        PositionsAndCell(components=IN_PLANE).rows(structures)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"scale": 0.0}, "scale"), ({"scale": float("nan")}, "scale"), ({"pressure": float("inf")}, "pressure")],
)
def test_values_out_of_range_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        replace(PositionsAndCell(), **changes)
