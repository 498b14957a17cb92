"""Batched MINRES and GMRES against dense linear algebra, one system per structure."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from thalweg.gradients.krylov import gmres, minres


@dataclass
class Dense:
    """One dense block per structure, counting the rows it multiplies."""

    blocks: list[torch.Tensor]
    work: list[int] = field(default_factory=list)

    @property
    def structures(self) -> int:
        return len(self.blocks)

    @property
    def owner(self) -> torch.Tensor:
        sizes = torch.tensor([len(b) // 3 for b in self.blocks])
        return torch.repeat_interleave(torch.arange(len(self.blocks)), sizes)

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        self.work.append(len(vector))
        parts = vector.split([len(b) // 3 for b in self.blocks])
        return torch.cat([(b @ p.reshape(-1)).reshape(-1, 3) for b, p in zip(self.blocks, parts, strict=True)])

    def restrict(self, keep: torch.Tensor) -> Dense:
        return Dense([b for b, k in zip(self.blocks, keep.tolist(), strict=True) if k], self.work)


def symmetric(rows: int, eigenvalues: torch.Tensor, seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(3 * rows, 3 * rows, dtype=torch.float64, generator=_stream(seed)))
    return q @ torch.diag(eigenvalues) @ q.T


def _stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _spectrum(rows: int, low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, 3 * rows, dtype=torch.float64)


def _residual(operator: Dense, x: torch.Tensor, b: torch.Tensor) -> list[float]:
    n = operator.structures
    square = torch.zeros(n, dtype=torch.float64)
    top = square.index_add(0, operator.owner, (operator(x) - b).square().sum(1)).sqrt()
    return (top / square.index_add(0, operator.owner, b.square().sum(1)).sqrt()).tolist()


def test_minres_equals_the_dense_solution_for_definite_and_indefinite_blocks_of_different_size():
    spectra = [_spectrum(3, 0.5, 4), torch.cat([_spectrum(2, -3, -1), _spectrum(2, 0.5, 5)])]
    operator = Dense([symmetric(3, spectra[0], 1), symmetric(4, spectra[1], 2)])
    b = torch.randn(7, 3, dtype=torch.float64, generator=_stream(3))
    solved = minres(operator, b, tolerance=1e-13, max_iterations=60)
    exact = torch.cat(
        [
            torch.linalg.solve(operator.blocks[0], b[:3].reshape(-1)).reshape(-1, 3),
            torch.linalg.solve(operator.blocks[1], b[3:].reshape(-1)).reshape(-1, 3),
        ]
    )
    torch.testing.assert_close(solved.solution, exact, rtol=1e-10, atol=1e-11)


def test_minres_gives_the_shortest_solution_of_a_singular_consistent_system():
    spectrum = _spectrum(4, 1, 3)
    spectrum[:3] = 0.0
    operator = Dense([symmetric(4, spectrum, 5)])
    b = operator(torch.randn(4, 3, dtype=torch.float64, generator=_stream(6)))
    solved = minres(operator, b, tolerance=1e-12, max_iterations=60)
    exact = (torch.linalg.pinv(operator.blocks[0], hermitian=True, rtol=1e-10) @ b.reshape(-1)).reshape(-1, 3)
    torch.testing.assert_close(solved.solution, exact, rtol=1e-9, atol=1e-10)


def test_ritz_values_of_a_full_krylov_space_are_the_extreme_eigenvalues():
    spectra = [_spectrum(2, 0.5, 7), torch.cat([_spectrum(1, -2, -1), _spectrum(2, 1, 3)])]
    operator = Dense([symmetric(2, spectra[0], 7), symmetric(3, spectra[1], 8)])
    b = torch.randn(5, 3, dtype=torch.float64, generator=_stream(9))
    solved = minres(operator, b, tolerance=1e-14, max_iterations=9)
    torch.testing.assert_close(solved.lowest_ritz, torch.tensor([0.5, -2.0], dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(solved.highest_ritz, torch.tensor([7.0, 3.0], dtype=torch.float64), rtol=1e-6, atol=0)


def test_gmres_equals_the_dense_solution_for_blocks_that_are_not_symmetric():
    blocks = [torch.randn(9, 9, dtype=torch.float64, generator=_stream(s)) + 4 * torch.eye(9) for s in (1, 2)]
    operator = Dense(blocks)
    b = torch.randn(6, 3, dtype=torch.float64, generator=_stream(3))
    solved = gmres(operator, b, tolerance=1e-13, max_iterations=20)
    exact = torch.cat(
        [torch.linalg.solve(m, r.reshape(-1)).reshape(-1, 3) for m, r in zip(blocks, b.split(3), strict=True)]
    )
    torch.testing.assert_close(solved.solution, exact, rtol=1e-10, atol=1e-11)


def rotated(rows: int, real: list[float], turn: float, seed: int) -> torch.Tensor:
    """Return a normal matrix with eigenvalues real ± i·turn, in pairs."""
    q, _ = torch.linalg.qr(torch.randn(3 * rows, 3 * rows, dtype=torch.float64, generator=_stream(seed)))
    pairs = [torch.tensor([[r, turn], [-turn, r]], dtype=torch.float64) for r in real]
    return q @ torch.block_diag(*pairs) @ q.T


def test_arnoldi_bounds_are_the_extreme_real_parts_once_the_krylov_space_is_full():
    easy = 2.0 * torch.eye(6, dtype=torch.float64)
    blocks = [rotated(4, [-0.5, 1, 2, 3, 4, 6], 0.7, 1), easy, torch.randn(9, 9, dtype=torch.float64)]
    operator = Dense([*blocks[:2], blocks[2] + 5 * torch.eye(9)])
    b = torch.randn(9, 3, dtype=torch.float64, generator=_stream(3))
    solved = gmres(operator, b, tolerance=1e-14, max_iterations=30)
    real = [torch.linalg.eigvals(block).real for block in operator.blocks]
    lowest, highest = torch.stack([r.min() for r in real]), torch.stack([r.max() for r in real])
    torch.testing.assert_close(solved.lowest_ritz, lowest, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(solved.highest_ritz, highest, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("products", [1, 2, 4, 7])
def test_a_ritz_value_that_has_not_settled_never_claims_more_than_the_spectrum_holds(products):
    operator = Dense([rotated(8, [0.3 + 0.5 * k for k in range(12)], 1.0, s) for s in range(8)])
    b = torch.randn(64, 3, dtype=torch.float64, generator=_stream(3))
    solved = gmres(operator, b, tolerance=1e-14, max_iterations=products)
    assert (solved.lowest_ritz >= 0.3 - 1e-9).all()


def test_a_negative_rayleigh_quotient_of_a_skewed_matrix_is_not_taken_for_an_eigenvalue():
    """The eigenvalues are 1, but the field of values reaches −4: the first Ritz value is −4, its residual 5."""
    block = torch.eye(3, dtype=torch.float64)
    block[0, 1] = 10.0
    b = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    solved = gmres(Dense([block]), b, tolerance=1e-14, max_iterations=1)
    assert float(solved.highest_ritz) == pytest.approx(-4.0)
    assert float(solved.lowest_ritz) == pytest.approx(1.0)


def test_minres_does_not_solve_a_system_that_is_not_symmetric():
    """Negative control: the choice of solver matters."""
    operator = Dense([torch.randn(9, 9, dtype=torch.float64, generator=_stream(1)) + 4 * torch.eye(9)])
    b = torch.randn(3, 3, dtype=torch.float64, generator=_stream(3))
    solved = minres(operator, b, tolerance=1e-13, max_iterations=30)
    assert _residual(operator, solved.solution, b)[0] > 1e-3


@pytest.mark.parametrize("solver", [minres, gmres])
def test_a_structure_is_solved_alike_alone_and_in_company_and_costs_nothing_once_finished(solver):
    easy = symmetric(4, torch.ones(12, dtype=torch.float64), 1)
    hard = symmetric(4, _spectrum(4, 0.01, 5), 2)
    b = torch.randn(12, 3, dtype=torch.float64, generator=_stream(3))
    operator = Dense([easy, hard, easy])
    together = solver(operator, b, tolerance=1e-10, max_iterations=40)
    alone = solver(Dense([hard]), b[4:8], tolerance=1e-10, max_iterations=40)
    torch.testing.assert_close(together.solution[4:8], alone.solution, rtol=1e-8, atol=1e-9)
    assert together.iterations.tolist() == [1, int(alone.iterations), 1]
    assert operator.work[:3] == [12, 4, 4]


@pytest.mark.parametrize("solver", [minres, gmres])
def test_each_structure_may_have_a_tolerance_of_its_own(solver):
    blocks = [symmetric(4, _spectrum(4, 0.1, 5), k) for k in range(3)]
    b = torch.randn(12, 3, dtype=torch.float64, generator=_stream(3))
    tolerances = [1e-1, 1e-8, 1e-3]
    together = solver(Dense(blocks), b, tolerance=torch.tensor(tolerances, dtype=torch.float64), max_iterations=40)
    for k, tolerance in enumerate(tolerances):
        alone = solver(Dense([blocks[k]]), b[4 * k : 4 * k + 4], tolerance=tolerance, max_iterations=40)
        assert together.iterations[k] == alone.iterations[0]
    assert together.iterations[0] < together.iterations[2] < together.iterations[1]
    residual = _residual(Dense(blocks), together.solution, b)
    assert all(r <= t for r, t in zip(residual, tolerances, strict=True))
    assert residual[0] > 1e-3  # no more exact than asked


@pytest.mark.parametrize("solver", [minres, gmres])
def test_a_zero_right_hand_side_gives_zero_and_costs_nothing(solver):
    operator = Dense([symmetric(2, _spectrum(2, 1, 2), 1)])
    solved = solver(operator, torch.zeros(2, 3, dtype=torch.float64), tolerance=1e-10, max_iterations=5)
    assert torch.equal(solved.solution, torch.zeros(2, 3, dtype=torch.float64))
    assert solved.iterations.tolist() == [0]


@pytest.mark.parametrize("solver", [minres, gmres])
def test_a_tiny_right_hand_side_is_solved_as_well_as_a_large_one(solver):
    block = symmetric(3, _spectrum(3, 0.5, 4), 4).float()
    b = torch.randn(3, 3, generator=_stream(5))
    large = solver(Dense([block]), b, tolerance=1e-5, max_iterations=30).solution
    tiny = solver(Dense([block]), b * 1e-18, tolerance=1e-5, max_iterations=30).solution
    torch.testing.assert_close(tiny * 1e18, large, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", [minres, gmres])
def test_running_out_of_iterations_leaves_a_residual_that_shows_it(solver):
    operator = Dense([symmetric(6, _spectrum(6, 1e-4, 5), 2)])
    b = torch.randn(6, 3, dtype=torch.float64, generator=_stream(3))
    solved = solver(operator, b, tolerance=1e-12, max_iterations=3)
    assert solved.iterations.tolist() == [3]
    assert _residual(operator, solved.solution, b)[0] > 1e-3


# with a preconditioner


def definite(rows: int, seed: int) -> torch.Tensor:
    """A symmetric positive definite matrix that has nothing to do with the operator."""
    return symmetric(rows, _spectrum(rows, 0.2, 6), seed)


def test_a_definite_preconditioner_never_changes_the_solution():
    spectra = [_spectrum(3, 0.5, 4), torch.cat([_spectrum(2, -3, -1), _spectrum(2, 0.5, 5)])]
    operator = Dense([symmetric(3, spectra[0], 1), symmetric(4, spectra[1], 2)])
    b = torch.randn(7, 3, dtype=torch.float64, generator=_stream(3))
    exact = torch.cat(
        [
            torch.linalg.solve(block, part.reshape(-1)).reshape(-1, 3)
            for block, part in zip(operator.blocks, b.split([3, 4]), strict=True)
        ]
    )
    for seed in (10, 20):
        m = Dense([definite(3, seed), definite(4, seed + 1)])
        solved = minres(operator, b, tolerance=1e-13, max_iterations=60, preconditioner=m)
        torch.testing.assert_close(solved.solution, exact, rtol=1e-9, atol=1e-10)


def test_a_preconditioner_that_keeps_to_the_range_leaves_a_singular_system_its_shortest_solution():
    spectrum = _spectrum(4, 1, 3)
    spectrum[:3] = 0.0
    block = symmetric(4, spectrum, 5)
    operator = Dense([block])
    b = operator(torch.randn(4, 3, dtype=torch.float64, generator=_stream(6)))
    inverse = torch.linalg.pinv(block, hermitian=True, rtol=1e-10)
    onto = inverse @ block
    m = Dense([onto @ definite(4, 7) @ onto])
    solved = minres(operator, b, tolerance=1e-12, max_iterations=60, preconditioner=m)
    torch.testing.assert_close(solved.solution, (inverse @ b.reshape(-1)).reshape(-1, 3), rtol=1e-8, atol=1e-9)


def test_the_inverse_as_preconditioner_needs_one_product():
    operator = Dense([symmetric(4, _spectrum(4, 0.01, 5), 2)])
    b = torch.randn(4, 3, dtype=torch.float64, generator=_stream(3))
    m = Dense([torch.linalg.inv(operator.blocks[0])])
    assert minres(operator, b, tolerance=1e-8, max_iterations=40).iterations.tolist()[0] > 5
    assert minres(operator, b, tolerance=1e-8, max_iterations=40, preconditioner=m).iterations.tolist() == [1]


def test_the_residual_that_stops_is_the_true_one_whatever_the_preconditioner():
    operator = Dense([symmetric(8, _spectrum(8, 0.01, 5), 2)])
    b = torch.randn(8, 3, dtype=torch.float64, generator=_stream(3))
    m = Dense([symmetric(8, torch.logspace(-3, 3, 24, dtype=torch.float64), 4)])
    for tolerance in (1e-2, 1e-5):
        solved = minres(operator, b, tolerance=tolerance, max_iterations=60, preconditioner=m)
        before = minres(
            operator, b, tolerance=1e-16, max_iterations=int(solved.iterations) - 1, preconditioner=m
        ).solution
        assert _residual(operator, solved.solution, b)[0] <= tolerance * (1 + 1e-6)
        assert _residual(operator, before, b)[0] > tolerance  # and not one product later than needed


def test_extreme_curvatures_are_those_of_the_operator_and_not_of_the_preconditioned_one():
    spectra = [_spectrum(2, 0.5, 7), torch.cat([_spectrum(1, -2, -1), _spectrum(2, 1, 3)])]
    operator = Dense([symmetric(2, spectra[0], 7), symmetric(3, spectra[1], 8)])
    b = torch.randn(5, 3, dtype=torch.float64, generator=_stream(9))
    m = Dense([definite(2, 11), definite(3, 12)])
    solved = minres(operator, b, tolerance=1e-14, max_iterations=9, preconditioner=m)
    torch.testing.assert_close(solved.lowest_ritz, torch.tensor([0.5, -2.0], dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(solved.highest_ritz, torch.tensor([7.0, 3.0], dtype=torch.float64), rtol=1e-6, atol=0)
    few = minres(operator, b, tolerance=1e-14, max_iterations=3, preconditioner=m)
    assert (few.lowest_ritz >= solved.lowest_ritz).all()  # bounds, from inside
    assert (few.highest_ritz <= solved.highest_ritz).all()


def test_preconditioned_structures_are_solved_alike_alone_and_in_company_and_cost_nothing_once_finished():
    easy, hard = (symmetric(4, s, k) for k, s in ((1, torch.ones(12, dtype=torch.float64)), (2, _spectrum(4, 0.01, 5))))
    b = torch.randn(12, 3, dtype=torch.float64, generator=_stream(3))
    operator, m = Dense([easy, hard, easy]), definite(4, 13)
    eye = torch.eye(12, dtype=torch.float64)
    together = minres(operator, b, tolerance=1e-10, max_iterations=40, preconditioner=Dense([eye, m, eye]))
    alone = minres(Dense([hard]), b[4:8], tolerance=1e-10, max_iterations=40, preconditioner=Dense([m]))
    torch.testing.assert_close(together.solution[4:8], alone.solution, rtol=1e-8, atol=1e-9)
    assert together.iterations.tolist() == [1, int(alone.iterations), 1]
    assert operator.work[:3] == [12, 4, 4]


def test_an_indefinite_preconditioner_does_not_pass_unnoticed():
    """Negative control: the promise of definiteness matters."""
    operator = Dense([symmetric(4, _spectrum(4, 0.5, 5), 2)])
    b = torch.randn(4, 3, dtype=torch.float64, generator=_stream(3))
    m = Dense([symmetric(4, torch.cat([_spectrum(2, -3, -1), _spectrum(2, 1, 3)]), 5)])
    solved = minres(operator, b, tolerance=1e-12, max_iterations=40, preconditioner=m)
    assert _residual(operator, solved.solution, b)[0] > 1e-6
