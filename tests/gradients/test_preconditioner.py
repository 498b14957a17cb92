"""The force-constant model against derivatives and true Hessians: what it saves, what it must not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.gradients.surfaces import Morse

from thalweg.gradients import AdjointSettings
from thalweg.gradients.adjoint import ProjectedCurvature, null_modes, solve_adjoint
from thalweg.gradients.krylov import minres
from thalweg.gradients.preconditioner import DensePreconditioner, ForceConstants, Padded, fit_preconditioner
from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import LBFGS, relax
from thalweg.relaxation.cell import PositionsAndCell
from thalweg.relaxation.coordinates import Positions
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures


def _vacancy(name: str, repeat: int = 2) -> Atoms:
    frame = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    del frame[3]
    frame.positions += 0.05 * numpy_stream(5, "preconditioner", name).standard_normal(frame.positions.shape)
    frame.info["id"] = name
    return frame


@pytest.fixture(scope="module")
def silicon() -> tuple[Potential, Structures]:
    potential = StillingerWeber.from_published("Si")
    starts = Structures.from_atoms([_vacancy("a"), _vacancy("small", 1), _vacancy("b")])
    return potential, Path(Descent(alpha=0.02), fmax=1e-8, max_steps=800).run(potential, starts).structures


def _terms(potential: Potential, structures: Structures) -> ForceConstants:
    return ForceConstants(structures, potential.edges(structures), potential.cutoff)


def _field(structures: Structures, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(structures.positions.shape, dtype=torch.float64, generator=stream).to(dtype)


def _operator(potential: Potential, structures: Structures) -> ProjectedCurvature:
    plain = ProjectedCurvature(potential, structures, Positions())
    return plain.projecting(null_modes(plain, potential, structures, Positions()))


def test_padding_comes_back_as_it_went():
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    padded = Padded.of(owner, 3)
    fields = torch.arange(6 * 2 * 3, dtype=torch.float64).view(6, 2, 3)
    packed = padded.pack(fields)
    assert packed.shape == (3, 9, 2)
    assert torch.equal(padded.unpack(packed), fields)
    assert packed[1, 3:].abs().sum() == 0


def test_products_and_matrix_of_the_model_are_one_operator(silicon: tuple[Potential, Structures]):
    potential, structures = silicon
    terms = _terms(potential, structures)
    c = torch.randn(len(terms), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = _field(structures, 2)
    matrix = terms.matrix(c)
    by_matrix = terms.padded.unpack(matrix @ terms.padded.pack(v.unsqueeze(1))).squeeze(1)
    torch.testing.assert_close(torch.einsum("rmc,m->rc", terms.products(v), c), by_matrix, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(matrix, matrix.transpose(1, 2))


def test_every_term_is_blind_to_translation(silicon: tuple[Potential, Structures]):
    potential, structures = silicon
    terms = _terms(potential, structures)
    assert len(terms) == terms.products(_field(structures, 1)).shape[1]
    moved = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64).expand(len(structures.positions), 3)
    assert float(terms.products(moved).abs().max()) < 1e-12
    assert float(terms.products(_field(structures, 1)).square().sum((0, 2)).min()) > 0  # and to nothing else


def test_a_bend_is_the_second_derivative_of_a_cosine():
    """F of (p, l) = (1, 0) is W g gᵀ with g = ∂cos θ/∂x in nearest-neighbour distances: against differentiation."""
    frame = Atoms("Si3", [[0, 0, 0], [2.3, 0, 0], [-0.7, 2.2, 0.3]])
    structures = Structures.from_atoms(frame)
    potential = Morse((14, 52))
    terms = _terms(potential, structures)
    x = structures.positions.clone().requires_grad_()
    a, b = x[1] - x[0], x[2] - x[0]
    (g,) = torch.autograd.grad(a @ b / (a.norm() * b.norm()), x)
    v = _field(structures, 3)
    nearest = sorted(float((structures.positions[i] - structures.positions[j]).norm()) for i, j in ((0, 1), (0, 2)))
    unit = sorted([nearest[0], nearest[0], nearest[1]])[1]
    arms = [1 - (d / unit / 1.45) ** 2 for d in nearest]
    expected = arms[0] * arms[1] * unit**2 * (g * v).sum() * g
    column = len(terms) - terms.bends.shape[1] * 3
    torch.testing.assert_close(terms.products(v)[:, column], expected, rtol=1e-9, atol=1e-12)


def test_a_preconditioner_is_definite_and_keeps_to_what_moves(silicon: tuple[Potential, Structures]):
    potential, structures = silicon
    free = structures.free.clone()
    free[:2, 1] = False  # two components of the first structure are held: y is no null translation of it
    held = replace(structures, free=free)
    operator = _operator(potential, held)
    m = operator.preconditioner()
    values = torch.linalg.eigvalsh(m.inverse)
    rank = [3 * n for n in held.counts.tolist()]
    for k, (size, lost) in enumerate(zip(rank, (2 + 2, 3, 3), strict=True)):
        expected_zero = values.shape[1] - size + lost
        assert int((values[k].abs() < 1e-10).sum()) == expected_zero
        assert float(values[k].min()) > -1e-10
    v = _field(held, 4)
    torch.testing.assert_close(m(v), operator.project(m(operator.project(v))), rtol=1e-8, atol=1e-10)


def test_it_halves_the_products_and_leaves_solution_and_verdicts_alone(silicon: tuple[Potential, Structures]):
    potential, structures = silicon
    right = _field(structures, 5)
    plain, ours = (
        solve_adjoint(
            potential,
            structures,
            right,
            coordinates=Positions(),
            settings=AdjointSettings(tolerance=1e-9, preconditioned_atoms=atoms),
        )
        for atoms in (0, 400)
    )
    torch.testing.assert_close(ours.solution, plain.solution, rtol=1e-6, atol=1e-7)
    assert ours.reasons == plain.reasons == (None, None, None)
    assert float(ours.residual.max()) < 1.1e-9
    assert float(ours.iterations[0]) < 0.5 * float(plain.iterations[0])
    exact = [float(e) for e in _lowest(potential, structures)]
    for found, true in zip(ours.lowest_curvature.tolist(), exact, strict=True):
        assert true * (1 - 1e-6) <= found < 1.2 * true


def _lowest(potential: Potential, structures: Structures) -> list[float]:
    result = []
    for k in range(len(structures)):
        one = structures.select([k])
        operator = _operator(potential, one)
        size = one.positions.numel()
        columns = [operator(row.view(-1, 3)).flatten() for row in torch.eye(size, dtype=torch.float64)]
        values = torch.linalg.eigvalsh(torch.stack(columns))
        result.append(float(values[values.abs() > 1e-6].min()))
    return result


def test_company_changes_a_solution_by_no_more_than_the_tolerance(silicon: tuple[Potential, Structures]):
    potential, structures = silicon
    right, settings = _field(structures, 6), AdjointSettings(tolerance=1e-10)

    def solution(chosen: list[int]) -> torch.Tensor:
        rows = structures.atoms_of(chosen)
        part = structures.select(chosen)
        return solve_adjoint(potential, part, right[rows], coordinates=Positions(), settings=settings).solution

    together = solution([0, 1, 2])
    for k in range(3):
        torch.testing.assert_close(solution([k]), together[structures.atoms_of([k])], rtol=1e-6, atol=1e-7)


def test_a_saddle_is_found_through_the_preconditioner():
    """Simple cubic silicon: no forces by symmetry, unstable at the edge of its zone."""
    structures = Structures.from_atoms(Atoms("Si", cell=[2.55] * 3, pbc=True) * (2, 2, 2))
    potential = StillingerWeber.from_published("Si")
    right = _field(structures, 7)
    adjoints = [
        solve_adjoint(
            potential,
            structures,
            right,
            coordinates=Positions(),
            settings=AdjointSettings(tolerance=1e-8, preconditioned_atoms=atoms),
        )
        for atoms in (0, 400)
    ]
    true = _lowest(potential, structures)[0]
    assert true < -0.1
    for adjoint in adjoints:
        assert adjoint.reasons == ("saddle",)
        assert float(adjoint.lowest_curvature) == pytest.approx(true, rel=1e-2)


def test_a_misleading_probe_costs_products_and_not_accuracy(silicon: tuple[Potential, Structures]):
    """Negative control: a model fitted to noise must still be definite and the solution the same."""
    potential, structures = silicon
    operator, terms = _operator(potential, structures), _terms(potential, structures)
    noise = (_field(structures, 8), _field(structures, 9))
    m = fit_preconditioner(terms, lambda v: -operator(v), noise, noise[0], operator._null, structures.free)
    assert isinstance(m, DensePreconditioner)
    assert float(torch.linalg.eigvalsh(m.inverse).min()) > -1e-9
    right = operator.project(_field(structures, 10))
    kept = {"tolerance": 1e-9, "max_iterations": 600}
    bad, good = (minres(operator, right, preconditioner=p, **kept) for p in (m, operator.preconditioner()))
    torch.testing.assert_close(bad.solution, good.solution, rtol=1e-5, atol=1e-6)
    assert float(bad.iterations[0]) > 1.5 * float(good.iterations[0])


def test_a_moving_cell_is_solved_without_and_its_gradient_is_that_of_a_new_graph():
    """Strain is measured from the starts; λᵀ ∂F/∂θ from the graph of the solve is that of forces evaluated afresh."""
    potential, coordinates = StillingerWeber.from_published("Si"), PositionsAndCell()
    starts = Structures.from_atoms([_vacancy("a"), _vacancy("small", 1)])
    end = relax(potential, starts, LBFGS(), fmax=1e-6, max_steps=400, coordinates=coordinates).structures
    rows = coordinates.rows(end, starts)
    generator = torch.Generator().manual_seed(8)
    right = coordinates.mask(starts, torch.randn(rows.shape, generator=generator, dtype=rows.dtype))
    plain, usual = (
        solve_adjoint(
            potential,
            end,
            right,
            coordinates=coordinates,
            settings=AdjointSettings(tolerance=1e-8, preconditioned_atoms=atoms),
            reference=starts,
        )
        for atoms in (0, 400)
    )
    assert usual.usable.all()
    assert torch.equal(usual.solution, plain.solution)
    assert torch.equal(usual.iterations, plain.iterations)
    parameters = [p for p in potential.parameters() if p.requires_grad]
    with torch.enable_grad():
        _, forces = coordinates.evaluate(potential, starts, rows, graph=True)
    expected = torch.autograd.grad(forces, parameters, usual.solution, allow_unused=True)
    found = usual.parameter_gradient(parameters)
    assert any(one is not None for one in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
