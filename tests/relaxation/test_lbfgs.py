"""L-BFGS: the compact form against the two-loop recursion, negative curvature, settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from tests.relaxation.surfaces import Bowl, Morse

from thalweg.errors import SettingsError
from thalweg.relaxation import LBFGS, Outcome, State, relax
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def two_loop(
    s: list[np.ndarray], y: list[np.ndarray], forces: np.ndarray, gamma: float, maxstep: float
) -> np.ndarray:
    """Return the L-BFGS step by the textbook recursion (Nocedal and Wright 2006, algorithm 7.4)."""
    q, a = -forces.ravel(), []
    for si, yi in zip(reversed(s), reversed(y), strict=True):
        a.append(si @ q / (yi @ si))
        q = q - a[-1] * yi
    z = gamma * q
    for si, yi, ai in zip(s, y, reversed(a), strict=True):
        z = z + si * (ai - yi @ z / (yi @ si))
    d = -z.reshape(-1, 3)
    longest = np.linalg.norm(d, axis=1).max()
    return d * min(1.0, maxstep / longest)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("memory", [3, 20])
def test_the_compact_form_is_the_two_loop_recursion(scaled: bool, memory: int) -> None:
    rng = np.random.default_rng(3)
    sizes = [2, 5]
    owner = torch.repeat_interleave(torch.arange(2), torch.tensor(sizes))
    stiffness = [np.diag(rng.uniform(1, 40, 3 * n)) for n in sizes]
    for k, n in enumerate(sizes):  # a quadratic surface with a full Hessian
        turn = np.linalg.qr(rng.normal(size=(3 * n, 3 * n)))[0]
        stiffness[k] = turn @ stiffness[k] @ turn.T
    relaxer = LBFGS(memory=memory, scaled=scaled, maxstep=1e3)
    rows = torch.tensor(rng.normal(size=(7, 3)))
    state = relaxer.start(rows, owner, 2)
    pairs: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []), ([], [])]
    last: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(8):
        parts = [rows[owner == k].numpy() for k in range(2)]
        forces = [-(stiffness[k] @ parts[k].ravel()).reshape(-1, 3) for k in range(2)]
        expected = []
        for k in range(2):
            s, y = pairs[k]
            if step:
                s.append((parts[k] - last[k][0]).ravel())
                y.append((last[k][1] - forces[k]).ravel())
            gamma = float(s[-1] @ y[-1] / (y[-1] @ y[-1])) if scaled and step else 1 / 70
            expected.append(parts[k] + two_loop(s[-memory:], y[-memory:], forces[k], gamma, 1e3))
        last = list(zip(parts, forces, strict=True))
        rows, state = relaxer.step(state, rows, torch.tensor(np.concatenate(forces)), owner)
        np.testing.assert_allclose(rows.numpy(), np.concatenate(expected), rtol=0, atol=1e-12)
        rows = rows + 0.01 * torch.tensor(rng.normal(size=(7, 3)))  # keep the walk from ending


class Saddle(Bowl):
    """E = Σ x²/2·20 − z²/2·c + z⁴/4 around the origin: a ridge at z = 0, minima at z = ±√c."""

    curvature = 0.3

    def energy(self, structures: Structures, edges: Edges) -> torch.Tensor:
        x = structures.positions
        z = x[:, 2]
        valley = 10.0 * x[:, :2].square().sum(dim=1)
        return structures.total(valley - 0.5 * self.curvature * z.square() + 0.25 * z**4)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_ridge_is_crossed_in_few_steps(scaled: bool) -> None:
    start = Structures.from_atoms(Atoms([1], [[0.01, 0.0, 0.03]]))
    end = relax(Saddle(), start, LBFGS(scaled=scaled), fmax=1e-4, max_steps=300)
    assert end.outcomes == (Outcome.CONVERGED,)
    assert float(end.structures.positions[0, 2]) == pytest.approx(0.3**0.5, abs=1e-3)
    assert int(end.steps[0]) < 30  # steepest descent at 1/70 needs 600


def test_steps_go_downhill_whatever_the_curvature() -> None:
    generator = torch.Generator().manual_seed(11)
    owner = torch.tensor([0, 0, 1, 1, 1])
    relaxer = LBFGS(memory=6)
    rows = torch.randn((5, 3), generator=generator).double()
    state = relaxer.start(rows, owner, 2)
    turned = 0
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    for _ in range(60):
        forces = torch.randn((5, 3), generator=generator).double()  # no surface at all: any sign of y·s
        if before is not None:
            along = ((rows - before[0]) * (before[1] - forces)).sum(dim=1)
            turned += int((torch.zeros(2).double().index_add(0, owner, along) < 0).sum())
        before = (rows, forces)
        rows, state = relaxer.step(state, rows, forces, owner)
        gain = ((rows - before[0]) * forces).sum(dim=1)
        assert (torch.zeros(2).double().index_add(0, owner, gain) > 0).all()
    assert turned > 10, "the test must meet negative curvature"


def test_a_pair_that_says_nothing_is_left_out() -> None:
    owner = torch.tensor([0, 1])
    relaxer = LBFGS()
    rows = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]).double()
    forces = -rows
    _, state = relaxer.step(relaxer.start(rows, owner, 2), rows, forces, owner)
    moved = rows + torch.tensor([[0.1, 0, 0], [0.1, 0, 0]]).double()
    changed = torch.stack([forces[0], -3 * moved[1]])  # the first sees no change of its force
    following, state = relaxer.step(state, moved, changed, owner)
    assert torch.isfinite(following).all()
    torch.testing.assert_close(following[0], moved[0] + forces[0] / 70)
    assert state.by_row["s"][:, 0, 0].tolist() == [0.0, pytest.approx(0.1)]


def test_memory_never_holds_more_pairs_than_told() -> None:
    owner = torch.zeros(4, dtype=torch.long)
    start = Structures.from_atoms(Atoms("Ar4", [[0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]]))
    relaxer = LBFGS(memory=2)
    state: State = relaxer.start(start.positions, owner, 1)
    rows = start.positions
    for step in range(5):
        rows, state = relaxer.step(state, rows, Morse()(start.with_positions(rows)).forces, owner)
        pairs = min(step, 2)
        assert state.by_row["s"].shape == state.by_row["y"].shape == (4, pairs, 3)
        assert state.by_structure["sy"].shape == state.by_structure["yy"].shape == (1, pairs, pairs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"memory": 0}, "memory is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"maxstep": -0.1}, "maxstep is -0.1"),
        ({"damping": 0.0}, "damping is 0"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        LBFGS(**wrong)
