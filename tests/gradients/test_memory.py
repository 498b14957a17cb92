"""Saved bytes are counted exactly; the peak of the process is seen."""

from __future__ import annotations

import gc
import mmap

import pytest
import torch
from ase.build import bulk
from tests.gradients.surfaces import Morse

from thalweg.gradients import Implicit, Split, Unrolled
from thalweg.gradients.memory import PeakMemory, SavedBytes
from thalweg.gradients.planning import saved_bytes
from thalweg.gradients.route import Route
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures


def test_a_known_graph_is_counted_to_the_byte():
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    with SavedBytes() as account:
        y = x.sin()  # saves x: 800 bytes
        z = y.exp()  # saves its result: 800 bytes
        assert account.current == 1600
        z.sum().backward()
    assert (account.current, account.peak) == (0, 1600)


def test_a_tensor_saved_twice_is_counted_once_and_parameters_not_at_all():
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    w = torch.ones(100, dtype=torch.float64, requires_grad=True)
    with SavedBytes(ignore=[w]) as account:
        y = x * w + x.cos() * x.sin()
        y.sum().backward()
    # x (800, once), cos x and sin x (800 each); w is not counted
    assert account.peak == 2400


def test_a_graph_that_is_dropped_without_backward_is_let_go():
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    with SavedBytes() as account:
        y = x.exp()
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert account.current > 0
        del y, g
        gc.collect()
        assert account.current == 0


def test_derivatives_of_derivatives_are_unchanged_by_the_account():
    x = torch.linspace(0.1, 1, 10, dtype=torch.float64, requires_grad=True)

    def third(inside: bool) -> torch.Tensor:
        def run() -> torch.Tensor:
            g = x
            for _ in range(3):
                (g,) = torch.autograd.grad((g if g is not x else x.sin()).sum(), x, create_graph=True)
            return g.detach()

        if not inside:
            return run()
        with SavedBytes():
            return run()

    assert torch.equal(third(True), third(False))


def test_the_peak_of_the_process_sees_an_allocation():
    with PeakMemory(interval=0.001) as memory, mmap.mmap(-1, 64_000_000) as fresh:  # pages that no allocator kept
        block = torch.frombuffer(fresh, dtype=torch.float64)
        for _ in range(20):
            block.add_(1.0)
        del block
    assert memory.peak - memory.before > 40e6


def _saved(route, steps: int) -> int:
    frames = []
    for seed in range(2):
        frame = bulk("CdTe", "zincblende", a=6.2, cubic=True)
        frame.rattle(0.1, seed=seed)
        frames.append(frame)
    potential = Morse()
    path = Path(Descent(alpha=0.02), steps=steps, fmax=1e-3)
    with SavedBytes(potential.parameters()) as account:
        result = route.differentiate(potential, Structures.from_atoms(frames), path)
        loss = sum(s.positions.square().sum() for s in (result.guided, result.equilibrium) if s is not None)
        loss.backward()
    return account.peak


@pytest.mark.parametrize("route", [Implicit(), Split(horizon=10)])
def test_saved_bytes_do_not_depend_on_the_number_of_updates(route):
    assert _saved(route, 300) == pytest.approx(_saved(route, 30), rel=0.01)


def test_plain_unrolling_grows_with_the_updates_and_recomputed_only_by_the_states():
    short, long = _saved(Unrolled(recompute=False), 20), _saved(Unrolled(recompute=False), 40)
    assert long == pytest.approx(2 * short, rel=0.02)
    state = 16 * 3 * 8  # 16 atoms, float64
    short, long = _saved(Unrolled(states=19), 20), _saved(Unrolled(states=39), 40)
    assert long - short == pytest.approx(20 * state, rel=0.05)
    neighbours = 16 * (4 + 7 * 40)  # at most 40 within 5 Å, seven bytes each
    short, long = _saved(Unrolled(), 20), _saved(Unrolled(), 40)
    assert 20 * state < long - short < 20 * (state + neighbours)


def _crystal(dtype: torch.dtype) -> Structures:
    """64 atoms of silicon, rattled so little that no neighbour crosses a cutoff on the way."""
    frame = bulk("Si", cubic=True) * (2, 2, 2)
    frame.rattle(0.01, seed=1)
    return Structures.from_atoms(frame, dtype=dtype)


def test_ten_times_the_updates_keep_no_more_on_the_implicit_route():
    potential, starts = StillingerWeber.from_published("Si"), _crystal(torch.float64)
    kept = []
    for steps in (75, 750):
        path = Path(Descent(alpha=3e-3), steps=steps, fmax=1e-4)
        kept.append(saved_bytes(potential, starts, path, Implicit()))
        assert kept[-1] > 100_000  # something was solved
    assert kept[1] == pytest.approx(kept[0], rel=0.01)


def test_a_recomputed_split_keeps_a_tenth_of_plain_backpropagation_at_most():
    potential = PaiNN.from_settings({"species": [14], "channels": 4, "layers": 2})
    starts = _crystal(torch.float32)
    path = Path(Descent(alpha=1e-3), steps=75, fmax=10.0)  # wherever it ends, the adjoint keeps as much

    def kept(route: Route) -> int:
        return saved_bytes(potential, starts, path, route)

    plain = kept(Unrolled(recompute=False))
    assert kept(Split(20)) <= plain / 10
    assert kept(Split(20, recompute=False)) > plain / 10  # the comparison can fail
