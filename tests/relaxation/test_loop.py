"""The loop: outcomes, compaction, what it returns and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from tests.relaxation.surfaces import Bowl, Counting, Morse, Poisoned, Wrapped, rattled_argon

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Prediction
from thalweg.relaxation import FIRE, LBFGS, Descent, Outcome, relax
from thalweg.relaxation.relaxer import largest_norm
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def crystals(names: tuple[str, ...] = ("a", "b", "c")) -> Structures:
    frames = [rattled_argon(1, 0.1 + 0.05 * k, seed) for k, seed in enumerate(range(len(names)))]
    return Structures.from_atoms(frames, ids=names)


def test_a_relaxed_start_takes_no_step_and_one_evaluation() -> None:
    start = relax(Morse(), crystals(), LBFGS(), fmax=1e-4, max_steps=200).structures
    counting = Counting(Morse())
    end = relax(counting, start, LBFGS(), fmax=1e-3, max_steps=200)
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    assert end.steps.tolist() == [0, 0, 0]
    assert len(counting.atoms) == 1
    assert torch.equal(end.structures.positions, start.positions)


def test_steps_run_out_at_the_limit_and_what_is_returned_was_evaluated_there() -> None:
    end = relax(Morse(), crystals(), FIRE(), fmax=1e-6, max_steps=7)
    assert end.outcomes == (Outcome.OUT_OF_STEPS,) * 3
    assert end.steps.tolist() == [7, 7, 7]
    there = Morse()(end.structures)
    torch.testing.assert_close(end.energy, there.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        end.fmax, largest_norm(there.forces, end.structures.owner, 3), rtol=0, atol=1e-12
    )


def test_no_steps_means_one_evaluation_and_no_move() -> None:
    counting = Counting(Morse())
    start = crystals()
    end = relax(counting, start, LBFGS(), fmax=1e-6, max_steps=0)
    assert end.outcomes == (Outcome.OUT_OF_STEPS,) * 3
    assert len(counting.atoms) == 1
    assert torch.equal(end.structures.positions, start.positions)


def test_converged_is_true_of_the_returned_positions() -> None:
    end = relax(Morse(), crystals(), LBFGS(), fmax=0.003, max_steps=200)
    forces = Morse()(end.structures).forces
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    assert (largest_norm(forces, end.structures.owner, 3) < 0.003).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["forces", "energy"])
@pytest.mark.parametrize("relaxer", [Descent(0.02), FIRE(), LBFGS()], ids=["descent", "fire", "lbfgs"])
def test_a_poisoned_structure_explodes_and_its_neighbours_do_not_notice(
    value: float, where: str, relaxer: Descent | FIRE | LBFGS
) -> None:
    starts = crystals(("left", "victim", "right"))
    clean = relax(Morse(), starts, relaxer, fmax=0.001, max_steps=1000)
    end = relax(Poisoned(Morse(), "victim", 5, value, where), starts, relaxer, fmax=0.001, max_steps=1000)
    assert end.outcomes == (Outcome.CONVERGED, Outcome.EXPLODED, Outcome.CONVERGED)
    assert end.steps.tolist() == [clean.steps[0], 5, clean.steps[2]]
    assert torch.isfinite(end.structures.positions).all()
    assert not math.isfinite(float((end.fmax if where == "forces" else end.energy)[1]))
    for k in (0, 2):
        torch.testing.assert_close(
            end.structures.select([k]).positions, clean.structures.select([k]).positions, rtol=0, atol=1e-12
        )


class Hill(Bowl):
    """Bowls turned over: every atom runs away from its centre."""

    def energy(self, structures: Structures, edges: Edges) -> torch.Tensor:
        return -super().energy(structures, edges)


def test_a_runaway_explodes_within_the_bound() -> None:
    starts = Structures.from_atoms([Atoms([3], [[9.5, 0, 0]]), Atoms([2, 5], [[6.4, 0, 0], [15.0, 0, 0]])])
    end = relax(Hill(), starts, Descent(0.1, cap=0.3), fmax=1e-3, max_steps=500, max_displacement=2.0)
    assert end.outcomes == (Outcome.EXPLODED,) * 2
    away = (end.structures.positions - starts.positions).norm(dim=1)
    assert 1.7 < away[:2].max() <= 2.0  # within one capped step of the bound, never beyond
    assert torch.isfinite(end.fmax).all()
    free = relax(Hill(), starts, Descent(0.1, cap=0.3), fmax=1e-3, max_steps=20, max_displacement=50.0)
    assert free.outcomes == (Outcome.OUT_OF_STEPS,) * 2


class Attraction(Wrapped):
    """Pairs pulled together with 1 eV/Å whatever their distance."""

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        edges = self.edges(structures) if edges is None else edges
        towards = torch.nn.functional.normalize(edges.vectors(structures), dim=1)
        forces = torch.zeros_like(structures.positions).index_add(0, edges.centre, towards)
        return Prediction(energy=structures.total(structures.positions.new_zeros(len(forces))), forces=forces)


def test_atoms_that_meet_are_too_close_also_through_the_cell_wall() -> None:
    inside = Atoms("Ar2", [[1.0, 4, 4], [3.05, 4, 4]], cell=[20, 20, 20], pbc=True)
    across = Atoms("Ar2", [[1.0, 4, 4], [18.95, 4, 4]], cell=[20, 20, 20], pbc=True)
    open_cell = Atoms("Ar2", [[1.0, 4, 4], [19.0, 4, 4]], cell=[20, 20, 20], pbc=False)
    starts = Structures.from_atoms([inside, across, open_cell])
    end = relax(Attraction(Morse()), starts, Descent(0.1), fmax=0.01, max_steps=30)
    assert end.outcomes == (Outcome.TOO_CLOSE, Outcome.TOO_CLOSE, Outcome.CONVERGED)
    first, second = end.structures.positions[:2]
    assert 0.1 <= float((second - first).norm()) < 0.3
    assert end.steps.tolist() == [9, 9, 0]  # 2.05 Å, 0.2 Å nearer each step: below 0.3 Å after nine
    unchecked = relax(Attraction(Morse()), starts, Descent(0.1), fmax=0.01, max_steps=30, min_distance=0.0)
    assert unchecked.outcomes[:2] == (Outcome.OUT_OF_STEPS,) * 2


def test_overlap_at_the_start_is_named_as_such_even_where_forces_overflow() -> None:
    apart = [Atoms("Ar2", [[0, 0, 0], [0, 0, z]]) for z in (0.01, 3.0)]
    starts = Structures.from_atoms(apart)
    potential = Poisoned(Morse(), "0", 0, math.inf)
    end = relax(potential, starts, LBFGS(), fmax=0.01, max_steps=50)
    assert end.outcomes == (Outcome.TOO_CLOSE, Outcome.CONVERGED)
    assert torch.equal(end.structures.positions[:2], starts.positions[:2])


def test_finished_structures_are_not_evaluated_again() -> None:
    counting = Counting(Morse())
    starts = Structures.from_atoms(
        [rattled_argon(1, 0.02, 1), rattled_argon(2, 0.15, 2), rattled_argon(1, 0.2, 3)], ids=["x", "y", "z"]
    )
    end = relax(counting, starts, LBFGS(), fmax=0.01, max_steps=100)
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    assert len(set(end.steps.tolist())) == 3
    assert sum(counting.atoms) == int(((end.steps + 1) * starts.counts).sum())
    assert len(counting.atoms) == int(end.steps.max()) + 1
    assert all(counting.edges_given), "the neighbour list is searched once for the check and the forces"
    for k, name in enumerate(starts.ids):
        assert sum(name in ids for ids in counting.ids) == int(end.steps[k]) + 1


def test_the_trace_is_the_whole_batch_after_each_move() -> None:
    starts = crystals()
    end = relax(Morse(), starts, LBFGS(), fmax=0.01, max_steps=100, keep_trace=True)
    assert end.trace is not None
    assert len(end.trace) == int(end.steps.max()) + 1
    assert torch.equal(end.trace[0].positions, starts.positions)
    assert torch.equal(end.trace[-1].positions, end.structures.positions)
    k = int(end.steps.argmin())
    done = int(end.steps[k])
    stands = [s.select([k]).positions for s in end.trace]
    assert not torch.equal(stands[done - 1], stands[done])
    assert all(torch.equal(stands[done], later) for later in stands[done:])
    assert relax(Morse(), starts, LBFGS(), fmax=0.01, max_steps=100).trace is None


def test_progress_reports_each_move_and_how_many_still_make_it() -> None:
    seen: list[tuple[int, int]] = []
    end = relax(
        Morse(), crystals(), LBFGS(), fmax=0.01, max_steps=100, progress=lambda *now: seen.append(now)
    )
    assert seen == [(t, int((end.steps > t).sum())) for t in range(int(end.steps.max()))]


def test_the_result_carries_no_graph_and_the_start_is_left_as_it_was() -> None:
    starts = crystals()
    positions = starts.positions.clone().requires_grad_()
    before = positions.detach().clone()
    end = relax(Morse(), starts.with_positions(positions), LBFGS(), fmax=0.01, max_steps=50, keep_trace=True)
    assert not end.structures.positions.requires_grad
    assert not end.energy.requires_grad
    assert not end.fmax.requires_grad
    assert torch.equal(positions.detach(), before)
    assert torch.is_grad_enabled()


def test_an_empty_batch_ends_at_once() -> None:
    end = relax(Morse(), crystals().select([]), LBFGS(), fmax=0.01, max_steps=50)
    assert end.outcomes == ()
    assert len(end.structures) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fmax": 0.0}, "fmax is 0.0"),
        ({"fmax": math.nan}, "fmax is nan"),
        ({"fmax": math.inf}, "fmax is inf"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"max_displacement": 0.0}, "max_displacement is 0.0"),
        ({"min_distance": -0.1}, "min_distance is -0.1"),
        ({"min_distance": 5.6}, "min_distance is 5.6"),
    ],
)
def test_limits_outside_their_range_are_refused(wrong: dict[str, float], said: str) -> None:
    limits = {"fmax": 0.01, "max_steps": 5} | wrong
    with pytest.raises(SettingsError, match=said):
        relax(Morse(), crystals(), LBFGS(), **limits)
