"""The largest curvature against dense Hessians, and what follows for step sizes."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian
from tests.relaxation.surfaces import Bowl, Hill, Morse, Poisoned, Swirl, rattled_argon, vacancy_in_silicon

from thalweg.errors import PotentialError, SettingsError
from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import (
    LBFGS,
    Curvature,
    Descent,
    Outcome,
    check_alpha,
    largest_curvature,
    relax,
    safe_alpha,
)
from thalweg.structures.batch import Structures


def dense(potential: Potential, structure: Structures) -> torch.Tensor:
    """Return −∂F/∂X over the free components of one structure by central differences."""
    free = structure.free.flatten()
    columns = []
    for i in free.nonzero().flatten().tolist():
        moved = torch.zeros(len(free), dtype=torch.float64)
        moved[i] = 1e-4
        ahead, behind = (
            potential(structure.with_positions(structure.positions + sign * moved.view(-1, 3))).forces
            for sign in (1, -1)
        )
        columns.append(-(ahead - behind).flatten()[free] / 2e-4)
    return torch.stack(columns, dim=1)


def top(matrix: torch.Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).real.max())


def batch() -> Structures:
    constrained = rattled_argon(1, 0.1, 3)
    constrained.set_constraint([FixAtoms([0]), FixCartesian([2], mask=(True, False, False))])
    return Structures.from_atoms([rattled_argon(1, 0.05, 1), rattled_argon(2, 0.05, 2, True), constrained])


def test_it_is_the_largest_eigenvalue_of_the_dense_hessian_fixed_components_left_out() -> None:
    structures = batch()
    found = largest_curvature(Morse(), structures, tolerance=1e-6, max_products=95)
    for k in range(3):
        assert float(found[k]) == pytest.approx(top(dense(Morse(), structures.select([k]))), rel=1e-6)


def test_a_coarser_tolerance_keeps_its_promise() -> None:
    structures = batch()
    exact = largest_curvature(Morse(), structures, tolerance=1e-9, max_products=95)
    coarse = largest_curvature(Morse(), structures, tolerance=1e-2)
    assert ((coarse - exact).abs() <= 1e-2 * exact).all()
    hasty = largest_curvature(Morse(), structures, max_products=2)
    assert (hasty < 0.99 * exact).any(), "two products must be too few for the test to say anything"


def test_products_are_those_of_the_hessian() -> None:
    structure = batch().select([2])
    curvature = Curvature(Morse(), structure)
    v = torch.randn((4, 3), generator=torch.Generator().manual_seed(4)).double() * structure.free
    free = structure.free.flatten()
    expected = dense(Morse(), structure).T @ v.flatten()[free]
    torch.testing.assert_close(curvature(v).flatten()[free], expected, rtol=1e-6, atol=1e-6)
    assert (curvature(v).flatten()[~free] == 0).all()


def test_an_indefinite_hessian_gives_the_largest_and_not_the_largest_in_size() -> None:
    pair = Structures.from_atoms(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.45]]))  # beyond the inflection
    eigenvalues = torch.linalg.eigvalsh(dense(Morse(), pair))
    assert -eigenvalues[0] > eigenvalues[-1] + 0.01
    found = largest_curvature(Morse(), pair, tolerance=1e-8)
    assert float(found[0]) == pytest.approx(float(eigenvalues[-1]), abs=1e-6)


def test_a_small_space_is_exhausted_without_harm() -> None:
    frames = [Atoms([1, 4], [[3, 0, 0], [12, 0.5, 0]]), Atoms([7], [[21, 0, 1]]), Atoms([9], [[2, 0, 0]])]
    frames[2].set_constraint(FixAtoms([0]))
    found = largest_curvature(Bowl(), Structures.from_atoms(frames), tolerance=1e-12, max_products=20)
    torch.testing.assert_close(found, torch.tensor([5.0, 8.0, 0.0]).double(), rtol=1e-12, atol=1e-12)


def test_an_exhausted_space_on_a_hill_gives_the_least_negative_curvature() -> None:
    frames = [Atoms([1, 4], [[3, 0, 0], [12, 0.5, 0]]), Atoms([7], [[21, 0, 1]])]
    found = largest_curvature(Hill(), Structures.from_atoms(frames), tolerance=1e-12, max_products=20)
    torch.testing.assert_close(found, torch.tensor([-2.0, -8.0]).double(), rtol=1e-12, atol=0)


class Spiral(Swirl):
    """A mode that mostly turns, λ = 1 ± 5i, beside a stiff one, λ = 9."""

    matrix = torch.tensor([[1.0, 5.0, 0.0], [-5.0, 1.0, 0.0], [0.0, 0.0, 9.0]], dtype=torch.float64)


def test_a_turning_mode_bounds_the_step_size_of_direct_forces() -> None:
    """|λ|²/Re λ is 26: descent converges below α = 2/26 and spirals outwards above, though 2/9 is far off."""
    starts = Structures.from_atoms(Atoms([1], [[0.3, 0.2, 0.1]]))
    assert float(largest_curvature(Spiral(), starts, tolerance=1e-10)[0]) == pytest.approx(26.0, rel=1e-9)
    for factor, stable in ((0.7, True), (1.1, False)):
        alpha = factor * 2 / 26
        verdict = check_alpha(Spiral(), starts, alpha)
        assert verdict.stable is stable
        update = Descent(alpha, cap=10.0)
        done = relax(Spiral(), starts, update, fmax=1e-6, max_steps=1500, min_distance=0.0, max_displacement=1e9)
        assert (done.outcomes[0] is Outcome.CONVERGED) is stable


def test_direct_forces_give_the_largest_real_part_where_little_turns() -> None:
    structures = Structures.from_atoms([Atoms([1, 2], [[0, 0, 1], [0, 1, 2]]), Atoms([3], [[1, 1, 1]])])
    found = largest_curvature(Swirl(), structures, tolerance=1e-10)
    expected = top(Swirl.matrix)
    torch.testing.assert_close(found, torch.full((2,), expected).double(), rtol=1e-8, atol=0)


def test_a_structure_has_its_value_in_any_batch_and_every_time() -> None:
    structures = batch()
    whole = largest_curvature(Morse(), structures, tolerance=1e-8, max_products=95)
    assert torch.equal(whole, largest_curvature(Morse(), structures, tolerance=1e-8, max_products=95))
    alone = largest_curvature(Morse(), structures.select([1]), tolerance=1e-8, max_products=95)
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-8, atol=0)


def silicon_minima() -> Structures:
    starts = [vacancy_in_silicon(0.05, 1, repeat=1), bulk("Si", cubic=True)]
    silicon = StillingerWeber.from_published("Si")
    return relax(silicon, Structures.from_atoms(starts), LBFGS(), fmax=1e-4, max_steps=200).structures


def test_the_safe_step_size_converges_and_one_beyond_two_over_the_curvature_does_not() -> None:
    silicon = StillingerWeber.from_published("Si")
    minima = silicon_minima()
    generator = torch.Generator().manual_seed(5)
    noise = 0.01 * torch.randn(minima.positions.shape, generator=generator).double()
    starts = minima.with_positions(minima.positions + noise)
    alpha = safe_alpha(silicon, minima)
    good = relax(silicon, starts, Descent(alpha), fmax=0.01, max_steps=300)
    assert good.outcomes == (Outcome.CONVERGED,) * 2
    assert check_alpha(silicon, minima, alpha).stable
    bad = relax(silicon, starts, Descent(1.45 * alpha), fmax=0.01, max_steps=300)
    stiffest = int(largest_curvature(silicon, minima).argmax())
    assert bad.outcomes[stiffest] is Outcome.OUT_OF_STEPS
    assert bad.fmax[stiffest] > 1  # it does not creep, it oscillates
    verdict = check_alpha(silicon, minima, 1.45 * alpha)
    assert not verdict.stable
    assert verdict.product == pytest.approx(1.45 * 1.5, rel=2e-3)


def test_the_verdict_names_the_structure_and_a_step_size_that_is_stable() -> None:
    frames = [Atoms([3], [[9, 0, 0]]), Atoms([9], [[27, 0, 1]])]
    structures = Structures.from_atoms(frames, ids=["soft", "stiff"])
    verdict = check_alpha(Bowl(), structures, 0.25)
    assert verdict.curvature == pytest.approx(10.0)
    assert verdict.product == pytest.approx(2.5)
    assert not verdict.stable
    assert "'stiff'" in verdict.warning
    assert "use alpha 0.15" in verdict.warning
    assert "\n" not in verdict.warning
    fine = check_alpha(Bowl(), structures, 0.15)
    assert fine.stable
    assert fine.warning == ""


def test_the_step_size_is_capped_where_the_surface_is_soft_or_curves_down() -> None:
    soft = Structures.from_atoms(Atoms([1], [[3.0, 0, 0.1]]))  # 2 eV/Å²
    assert safe_alpha(Bowl(), soft) == 0.1
    assert safe_alpha(Bowl(), soft, largest=5.0) == pytest.approx(0.75)
    assert safe_alpha(Bowl(), soft, product=0.5, largest=5.0) == pytest.approx(0.25)


def test_curvature_that_is_not_finite_is_never_called_stable() -> None:
    class Broken(Poisoned):
        def forward(self, structures, *, edges=None, graph=False, stress=False):
            given = super().forward(structures, edges=edges, graph=graph, stress=stress)
            return type(given)(energy=given.energy, forces=given.forces * torch.tensor([1.0, math.nan, 1.0]))

    structures = Structures.from_atoms(rattled_argon(1, 0.05, 1), ids=["x"])
    broken = Broken(Morse(), "x", 10**9, math.nan)
    assert torch.isnan(largest_curvature(broken, structures)).all()
    verdict = check_alpha(broken, structures, 0.01)
    assert not verdict.stable
    assert "'x'" in verdict.warning
    with pytest.raises(PotentialError, match="'x'"):
        safe_alpha(broken, structures)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: largest_curvature(Bowl(), s, tolerance=0.0), "tolerance is 0.0"),
        (lambda s: largest_curvature(Bowl(), s, max_products=0), "max_products is 0"),
        (lambda s: safe_alpha(Bowl(), s, product=2.0), "product is 2.0"),
        (lambda s: safe_alpha(Bowl(), s, largest=0.0), "largest is 0.0"),
        (lambda s: check_alpha(Bowl(), s, -0.1), "alpha is -0.1"),
        (lambda s: safe_alpha(Bowl(), s, tolerance=-1.0), "tolerance is -1.0"),
    ],
)
def test_settings_outside_their_range_are_refused(call, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        call(Structures.from_atoms(Atoms([3], [[9, 0, 0]])))
