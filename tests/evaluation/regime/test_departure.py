"""The departure step: exact on paths whose course is known, and on a surface whose ridge is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.evaluation.regime.test_decision import ALPHA, PATH, SHIFT, Course, course, crossing
from tests.evaluation.surfaces import Valleys, at

from thalweg.evaluation.basins import Quench
from thalweg.evaluation.regime.decision import GRID, updates_of
from thalweg.evaluation.regime.departure import InRightBasin, departure_steps, measure_departure
from thalweg.evaluation.regime.walks import walk


@pytest.mark.parametrize("step", [0, 1, 2, 3, 17, 20, 59, 74, 75])
def test_a_path_that_leaves_once_departs_there(step):
    inside = Course(course(range(step)))
    assert departure_steps([0], GRID, inside) == {0: step}
    assert inside.asked <= len(GRID) + 15


def test_the_first_departure_counts_whether_or_not_the_path_comes_back():
    courses = (course(range(4), range(20, 76)), course(range(76)), course(range(12)))
    assert departure_steps([0, 1, 2], GRID, Course(*courses)) == {0: 4, 1: math.inf, 2: 12}


def test_an_excursion_between_two_points_of_the_grid_goes_unseen_and_only_that():
    path = course(range(11), range(14, 33))  # out from 11 to 13: no point of the grid lies there
    assert departure_steps([0], GRID, Course(path)) == {0: 33}
    assert departure_steps([0], range(76), Course(path)) == {0: 11}


def test_on_the_reference_a_path_departs_where_it_crosses_the_reference_ridge():
    starts = [
        0.45,
        0.3,
        0.05,
        0.8,
    ]  # right of the reference's ridge at 0; left of the potential's at SHIFT but the last
    walks = walk(Valleys(SHIFT), at(starts), PATH)
    inside = InRightBasin(walks, Valleys(0.0), at([1.0] * len(starts)), Quench())
    found = departure_steps(range(len(starts)), updates_of(PATH.steps), inside)
    assert [found[k] for k in range(len(starts))] == [*(crossing(x, 0.0) for x in starts[:3]), math.inf]
    assert len({*found.values()}) == 4


def test_a_relaxation_that_does_not_converge_is_outside_every_basin():
    walks = walk(Valleys(0.0), at([0.3]), PATH)
    inside = InRightBasin(walks, Valleys(0.0), at([1.0]), Quench())
    assert inside([(0, 1)]) == [True]
    hasty = replace(walks, path=replace(PATH, steps=0, max_steps=0))
    assert InRightBasin(hasty, Valleys(0.0), at([1.0]), Quench())([(0, 1)]) == [False]


def test_the_measurement_is_the_stated_quantile_with_the_decisions_beside():
    found = measure_departure([3, 8, 20, math.inf], [math.inf] * 4, 0.5)
    assert found.figure is not None
    assert (found.figure.value, found.figure.count) == (8, 4)
    assert found.figure.name == "update by which 50 % have left the right basin"
    assert math.isinf(found.beside[0].value)
    assert "of the 4 paths that land wrong 1 leave it later" in found.how


def test_without_a_path_that_lands_wrong_there_is_none_and_it_says_so():
    found = measure_departure([], [], 0.5)
    assert found.figure is None
    assert "none leaves the right basin" in str(found.why_not or found.how)


def test_closed_form_of_the_crossing_used_here_is_that_of_the_walk():
    walks = walk(Valleys(SHIFT), at([0.45]), PATH)
    step = int(crossing(0.45, 0.0))
    x = [float(walks.at(t).positions[0, 0]) for t in range(PATH.steps + 1)]
    assert x[step] < 0 <= x[step - 1]
    assert torch.isfinite(torch.tensor(x)).all()
    assert ALPHA * 40 < 2
