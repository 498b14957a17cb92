"""The decision step: exact on paths whose course is known, by either way of asking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tests.evaluation.surfaces import Valleys, at, ended

from thalweg.evaluation.basins import CrystalQuench, Distance, Quench
from thalweg.evaluation.regime.decision import (
    GRID,
    OnItself,
    OnReference,
    decision_steps,
    ended_at,
    measure_decision,
    updates_of,
)
from thalweg.evaluation.regime.walks import walk
from thalweg.relaxation import LBFGS, Descent, Path
from thalweg.relaxation.outcome import Outcome
from thalweg.testbeds.crystals import Crystals


class Course:
    """Settles where a list of flags, one an update, says so; counts how often it is asked."""

    def __init__(self, *courses: Sequence[bool]) -> None:
        self.courses, self.asked = courses, 0

    def __call__(self, where: Sequence[tuple[int, int]]) -> list[bool]:
        self.asked += len(where)
        return [self.courses[k][t] for k, t in where]


def course(*inside: range) -> list[bool]:
    return [any(t in part for part in inside) for t in range(76)]


@pytest.mark.parametrize("step", [0, 1, 2, 3, 17, 20, 59, 74, 75])
def test_a_path_that_enters_once_is_decided_there(step):
    settles = Course(course(range(step, 76)))
    assert decision_steps([0], GRID, settles) == {0: step}
    assert settles.asked <= len(GRID) + 15


def test_for_good_means_for_good_and_never_is_later():
    courses = (course(range(11), range(21, 76)), course(range(75)), course(range(30, 40), range(62, 76)))
    assert decision_steps([0, 1, 2], GRID, Course(*courses)) == {0: 21, 1: math.inf, 2: 62}


def test_an_excursion_between_two_points_of_the_grid_goes_unseen_and_only_that():
    path = course(range(22, 41), range(48, 76))  # out from 41 to 47: no point of the grid lies there
    assert decision_steps([0], GRID, Course(path)) == {0: 22}
    assert decision_steps([0], range(76), Course(path)) == {0: 48}


def test_without_refinement_the_later_point_of_the_grid_is_given():
    assert decision_steps([0], GRID, Course(course(range(22, 76))), refine=False) == {0: 30}


def test_the_grid_ends_with_the_path_whatever_its_length():
    assert updates_of(75) == GRID
    assert updates_of(12) == (0, 2, 5, 10, 12)
    assert updates_of(0) == (0,)
    assert updates_of(130)[-4:] == (75, 100, 125, 130)


ALPHA, SHIFT = 0.02, 0.5
PATH = Path(Descent(ALPHA), steps=40, finish=LBFGS(memory=10), fmax=1e-5, max_steps=60)


def crossing(x: float, ridge: float) -> float:
    """Return the first update after which the potential's path, in closed form, lies below `ridge`."""
    for t in range(PATH.steps + 1):
        if x < ridge:
            return t
        x -= ALPHA * 4 * ((x - SHIFT) ** 2 - 1) * (x - SHIFT)
    return math.inf


def test_on_the_reference_a_path_is_decided_where_it_crosses_the_reference_ridge():
    starts = [0.45, 0.4, 0.3, 0.2, 0.05, -0.3, 0.8, 1.2]
    walks = walk(Valleys(SHIFT), at(starts), PATH)
    asked = OnReference(walks, Valleys(0.0), Quench())
    found = decision_steps(asked.judged, updates_of(PATH.steps), asked)
    expected = [crossing(x, 0.0) if x < SHIFT else 0 for x in starts]
    assert [found[k] for k in range(len(starts))] == expected
    assert len(set(expected)) >= 5


def test_a_path_that_crosses_in_the_finisher_alone_is_later_than_the_last_update():
    short = Path(Descent(ALPHA), steps=5, finish=LBFGS(memory=10), fmax=1e-5, max_steps=60)
    walks = walk(Valleys(SHIFT), at([0.45, 0.05]), short)
    asked = OnReference(walks, Valleys(0.0), Quench())
    found = decision_steps(asked.judged, updates_of(5), asked)
    assert found[0] == math.inf
    assert found[1] == crossing(0.05, 0.0)


def test_by_copies_a_start_far_from_the_ridge_is_decided_and_one_on_it_is_not():
    walks = walk(Valleys(0.0), at([0.3, 0.01]), PATH)
    asked = OnItself(walks, deviation=0.02)
    found = decision_steps(asked.judged, range(0, 41, 4), asked, refine=False)
    assert found[0] == 0
    # the copies spread as normal deviates of 0.02 Å: nine in ten stay on one side from about 1.3 deviations on
    x = 0.01
    for _ in range(int(found[1])):
        x += ALPHA * 4 * (1 - x**2) * x
    assert 0.013 < x < 0.08


def test_a_relaxation_without_an_end_has_no_decision():
    walks = walk(Valleys(0.0), at([0.3, 40.0]), PATH)  # 40 Å out it cannot arrive
    assert OnItself(walks).judged == [0]
    assert OnReference(walks, Valleys(0.0), Quench()).judged == [0]


def test_the_measurement_states_its_quantile_and_says_when_there_is_none():
    found = measure_decision([1, 2, 3, math.inf], 0.5, "how")
    assert found.figure is not None
    assert (found.figure.value, found.figure.name) == (2, "update by which 50 % are decided")
    assert measure_decision([], 0.5, "how").figure is None


def test_positions_of_a_walk_are_those_of_the_updates():
    walks = walk(Valleys(SHIFT), at([0.2]), PATH)
    x = 0.2
    for t in range(4):
        assert float(walks.at(t).positions[0, 0]) == pytest.approx(x, abs=1e-12)
        x -= ALPHA * 4 * ((x - SHIFT) ** 2 - 1) * (x - SHIFT)
    assert torch.equal(walks.places([(0, 3), (0, 0)]).positions[0], walks.at(3).positions[0])


def test_an_end_is_compared_as_its_rule_compares():
    """A crystal written in another basis is where it was by the crystal rule alone; a strained one is by neither."""
    target = Crystals(elements=("Si",)).crystal()
    sheared = target.with_cell(torch.tensor([[[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]], dtype=torch.float64) @ target.cell)
    strained = target.with_positions(1.1 * target.positions).with_cell(1.1 * target.cell)
    for end, by_crystal in ((target, True), (sheared, True), (strained, False)):
        assert ended_at(ended(end), target, CrystalQuench()) == [by_crystal]
        assert ended_at(ended(end), target, Distance()) == [end is target]
        assert ended_at(ended(end, Outcome.OUT_OF_STEPS), target, CrystalQuench()) == [False]
