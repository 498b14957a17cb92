"""The adjoint against closed forms: a bowl with a known solution, saddles and null modes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.gradients.surfaces import Bowl, Morse, Twisted, Whirl
from tests.potentials.pinned import fitted, sites

from thalweg.errors import SettingsError
from thalweg.gradients import Implicit
from thalweg.gradients.adjoint import AdjointSettings, ProjectedCurvature, measure_asymmetry, null_modes, solve_adjoint
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.coordinates import Positions
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures

ATOMS = 4


def bowl(eigenvalues: list[float]) -> Bowl:
    stream = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(3 * ATOMS, 3 * ATOMS, dtype=torch.float64, generator=stream))
    spectrum = torch.tensor(eigenvalues, dtype=torch.float64)
    centre = torch.randn(ATOMS, 3, dtype=torch.float64, generator=stream)
    return Bowl(q @ torch.diag(spectrum) @ q.T, centre)


def atoms(count: int = 2) -> Structures:
    stream = torch.Generator().manual_seed(2)
    frames = [
        Atoms("Si4", torch.randn(ATOMS, 3, dtype=torch.float64, generator=stream).numpy() + 5 * torch.eye(4, 3).numpy())
        for _ in range(count)
    ]
    return Structures.from_atoms(frames)


POSITIVE = [0.5 + 0.4 * k for k in range(3 * ATOMS)]


def test_the_implicit_gradient_of_a_bowl_is_its_closed_form():
    """X* = c for every A, so d(w · X*)/dc = w and d(w · X*)/dA = 0, summed over the structures."""
    potential, starts = bowl(POSITIVE), atoms()
    path = Path(Descent(alpha=0.1), steps=5, fmax=1e-13, max_steps=500, min_distance=0.0)
    route = Implicit(adjoint=AdjointSettings(tolerance=1e-13))
    result = route.differentiate(potential, starts, path)
    weights = torch.randn(starts.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (weights * result.equilibrium.positions).sum().backward()
    expected = weights[:ATOMS] + weights[ATOMS:]
    torch.testing.assert_close(potential.centre.grad, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(potential.matrix.grad, torch.zeros_like(potential.matrix), rtol=0, atol=1e-10)
    assert all(c.took_part for c in result.certificates)


def test_the_start_has_no_influence_on_the_implicit_gradient():
    potential, starts = bowl(POSITIVE), atoms()
    rows = starts.positions.clone().requires_grad_()
    path = Path(Descent(alpha=0.1), steps=5, fmax=1e-10, max_steps=500, min_distance=0.0)
    result = Implicit().differentiate(potential, starts.with_positions(rows), path)
    result.equilibrium.positions.sum().backward()
    assert rows.grad is None


def test_a_saddle_is_refused_and_a_minimum_beside_it_is_not():
    minimum, saddle = bowl(POSITIVE), bowl([-0.4, *POSITIVE[1:]])

    def solve(potential: Bowl, settings: AdjointSettings):
        at = atoms(1).with_positions(potential.centre.detach())
        right = torch.randn(ATOMS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        return solve_adjoint(potential, at, right, coordinates=Positions(), settings=settings)

    settings = AdjointSettings(tolerance=1e-10)
    assert solve(minimum, settings).reasons == (None,)
    refused = solve(saddle, settings)
    assert refused.reasons == ("saddle",)
    assert not refused.solution.any()
    assert float(refused.lowest_curvature) == pytest.approx(-0.4, rel=1e-6)


def whirl(real: list[float], turn: float) -> Whirl:
    """Return linear forces whose −J has eigenvalues real ± i·turn, in pairs, and vectors that are not orthogonal."""
    stream = torch.Generator().manual_seed(6)
    pairs = [torch.tensor([[r, turn], [-turn, r]], dtype=torch.float64) for r in real]
    change = torch.eye(12, dtype=torch.float64) + 0.1 * torch.randn(12, 12, dtype=torch.float64, generator=stream)
    return Whirl(change @ torch.block_diag(*pairs) @ torch.linalg.inv(change), torch.zeros(4, 3, dtype=torch.float64))


def test_direct_forces_that_drive_away_from_their_zero_are_refused_and_others_are_not():
    settings = AdjointSettings(tolerance=1e-10)
    right = torch.randn(ATOMS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def solve(potential: Whirl):
        at = atoms(1).with_positions(potential.centre.detach())
        return solve_adjoint(potential, at, right, coordinates=Positions(), settings=settings)

    steady, leaving = whirl([0.5, 1, 2, 3, 4, 5], 1.5), whirl([-0.4, 1, 2, 3, 4, 5], 1.5)
    found = solve(steady)
    assert found.reasons == (None,)
    assert float(found.asymmetry) > 0.1
    assert float(found.lowest_curvature) == pytest.approx(0.5, rel=1e-6)
    exact = torch.linalg.solve(steady.matrix.detach(), right.reshape(-1)).reshape(-1, 3)
    torch.testing.assert_close(found.solution, exact, rtol=1e-8, atol=1e-8)
    refused = solve(leaving)
    assert refused.reasons == ("saddle",)
    assert not refused.solution.any()
    assert float(refused.lowest_curvature) == pytest.approx(-0.4, rel=1e-6)


def test_an_adjoint_that_runs_out_of_iterations_is_refused():
    potential = bowl([1e-6, *POSITIVE[1:]])
    at = atoms(1).with_positions(potential.centre.detach())
    right = torch.ones(ATOMS, 3, dtype=torch.float64)
    settings = AdjointSettings(tolerance=1e-12, limit=1e-10, max_iterations=2)
    adjoint = solve_adjoint(potential, at, right, coordinates=Positions(), settings=settings)
    assert adjoint.reasons == ("adjoint_unsolved",)
    assert float(adjoint.residual) > 1e-10


def _null_count(potential, structures: Structures) -> list[int]:
    operator = ProjectedCurvature(potential, structures, Positions())
    modes = null_modes(operator, potential, structures, Positions())
    if modes is None:
        return [0] * len(structures)
    sizes = torch.stack([structures.total(m.square().sum(1)) for m in modes])
    return (sizes > 0.5).sum(0).tolist()


def test_the_automatic_tolerance_follows_the_force_left_in_each_structure():
    settings = AdjointSettings(tolerance="auto")
    forces = torch.tensor([0.005, 5e-4, 1e-9, 1.0], dtype=torch.float64)
    assert settings.target(forces).tolist() == pytest.approx([3e-3, 3e-4, 1e-5, 5e-3])
    assert AdjointSettings(tolerance=2e-4).target(forces).tolist() == [2e-4] * 4
    assert settings.tightened(1e-11).tolerance == 1e-11
    with pytest.raises(SettingsError, match=r"or the tolerance auto"):
        AdjointSettings(tolerance="auto", limit=0.0)

    potential, at = bowl(POSITIVE), atoms()
    centre = torch.cat([potential.centre.detach()] * 2)
    left = torch.randn(centre.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    left[:ATOMS] *= 1e-3
    left[ATOMS:] *= 1e-7
    at = at.with_positions(centre + left)
    right = torch.randn(centre.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = solve_adjoint(potential, at, right, coordinates=Positions(), settings=replace(settings, limit=0.4))
    force = potential(at).forces.norm(dim=1).view(2, -1).amax(dim=1)
    assert bool((found.residual <= settings.target(force)).all())
    assert found.iterations[0] < found.iterations[1]


def test_null_modes_are_found_where_they_are_and_nowhere_else():
    crystal = bulk("CdTe", "zincblende", a=6.2, cubic=True)
    molecule, line = crystal[[0, 1, 2, 3]], Atoms("CdTe", [[0, 0, 0], [0, 0, 2.7]])
    molecule.pbc = False
    batch = Structures.from_atoms([crystal, molecule, line])
    relaxed = Path(Descent(alpha=0.04), fmax=1e-8, max_steps=800).run(Morse(), batch).structures
    assert _null_count(Morse(), relaxed) == [3, 6, 5]
    free = batch.free.clone()
    free[:9] = False  # the crystal and an atom of the molecule are held
    free[3:8] = True
    assert _null_count(Morse(), replace(relaxed, free=free)) == [0, 0, 5]


def test_a_potential_that_pins_space_keeps_its_translations():
    """Negative control: translations of the bowl are not null and must not be projected out."""
    potential = bowl(POSITIVE)
    assert _null_count(potential, atoms(2)) == [0, 0]


def test_a_cell_blind_network_keeps_its_translations_and_is_solved_as_it_is():
    potential, starts = fitted(), sites(1, 0.05, "start")
    assert _null_count(potential, starts) == [0]
    result = Implicit(adjoint=AdjointSettings(tolerance=1e-10)).differentiate(
        potential, starts, Path(Descent(alpha=0.02), steps=12, fmax=1e-9)
    )
    weights = torch.randn(starts.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (weights * result.equilibrium.positions).sum().backward()
    certificate = result.certificates[0]
    assert certificate.took_part
    assert certificate.asymmetry > 0.05
    at = result.equilibrium.detach().positions
    jacobian = torch.autograd.functional.jacobian(
        lambda x: potential(starts.with_positions(x), graph=True).forces, at
    ).reshape(24, 24)
    # the bias of the force head moves every force alike: dL/db = Σ_i λ_i with Jᵀ λ = −∂L/∂X
    solution = torch.linalg.solve(-jacobian.T, weights.reshape(-1)).reshape(-1, 3)
    torch.testing.assert_close(potential.push.bias.grad, solution.sum(0), rtol=1e-7, atol=1e-8)
    assert certificate.lowest_curvature >= float(torch.linalg.eigvals(-jacobian).real.min()) - 1e-6
    potential.zero_grad(set_to_none=True)


def test_asymmetry_is_zero_for_a_gradient_and_as_computed_for_a_twisted_field():
    frame = bulk("CdTe", "zincblende", a=6.2, cubic=True)
    frame.rattle(0.05, seed=1)
    structures = Structures.from_atoms(frame)
    measured = {}
    for twist in (0.0, 0.05):
        potential = Twisted(Morse(), twist)
        operator = ProjectedCurvature(potential, structures, Positions())
        measured[twist] = float(measure_asymmetry(operator, potential, structures, Positions()))
    assert measured[0.0] < 1e-4
    # the twist adds twist · (x − mean) × z, whose Jacobian is antisymmetric of size twist on x and y
    jacobian = 0.05 * (2 / 3) ** 0.5
    assert 0.2 < measured[0.05] / (jacobian / _typical(structures)) < 5


def _typical(structures: Structures) -> float:
    operator = ProjectedCurvature(Morse(), structures, Positions())
    v = torch.randn(structures.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return float(operator(v).norm() / v.norm())


def test_single_precision_gives_the_gradient_of_double_precision():
    frame = bulk("Si", cubic=True) * (2, 2, 2)
    frame.rattle(0.1, seed=3)
    del frame[5]
    gradients = []
    for dtype in (torch.float32, torch.float64):
        potential = StillingerWeber.from_published("Si").to(dtype)
        starts = Structures.from_atoms(frame, dtype=dtype)
        result = Implicit().differentiate(potential, starts, Path(Descent(alpha=0.03), fmax=1e-4))
        (result.equilibrium.positions - starts.positions).square().sum().backward()
        gradients.append(torch.stack([p.grad.double().sum() for p in potential.parameters() if p.grad is not None]))
        assert result.certificates[0].took_part
    torch.testing.assert_close(gradients[0], gradients[1], rtol=5e-3, atol=1e-2 * float(gradients[1].abs().max()))
