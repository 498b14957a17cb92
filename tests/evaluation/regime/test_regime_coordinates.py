"""Forces, valleys and landing: each coordinate against a case whose answer is known without measuring."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.evaluation.surfaces import PATH, Valleys, at, ended, pairs_at

from thalweg.evaluation.basins import Quench, Verdict
from thalweg.evaluation.regime.forces import forces_along, forces_at_starts, measure_forces
from thalweg.evaluation.regime.holding import starts_that_hold
from thalweg.evaluation.regime.landing import measure_landing
from thalweg.evaluation.regime.valleys import (
    effective_number,
    measure_valleys,
    valleys_of,
    valleys_of_parents,
)
from thalweg.evaluation.regime.walks import perturbed, walk
from thalweg.evaluation.statistics import wilson_interval
from thalweg.relaxation import LBFGS, Outcome, relax
from thalweg.structures.pairs import Pairs

PLACES = [0.3, -0.4, 1.3, -0.2, 0.6, 0.5, -1.2, 0.1, 0.2]


class Scaled(Valleys):
    """The same valleys with every force multiplied."""

    factor = 1.0

    def energy(self, structures, edges):
        return self.factor * super().energy(structures, edges)


def scaled(factor: float) -> Scaled:
    surface = Scaled()
    surface.factor = factor
    return surface


def cosine_and_error(reference) -> tuple[float, float]:
    walks = walk(Valleys(), at(PLACES), PATH)
    found = measure_forces(forces_along(walks, reference, range(0, 21, 5)), "somewhere", seed=0)
    assert found.figure is not None
    assert found.figure.count == len(PLACES)
    return found.figure.value, found.beside[0].value


def test_forces_that_are_right_have_cosine_one_and_no_error():
    assert cosine_and_error(Valleys()) == pytest.approx((1, 0), abs=1e-12)


def test_half_the_size_keeps_the_direction_and_reversed_forces_are_found():
    assert cosine_and_error(scaled(0.5)) == pytest.approx((1, 1), abs=1e-12)
    assert cosine_and_error(scaled(-1.0)) == pytest.approx((-1, 2), abs=1e-12)


def test_the_end_of_the_path_hardly_counts_although_its_forces_point_anywhere():
    walks = walk(Valleys(0.01), at([0.6]), replace(PATH, steps=200, fmax=1e-9))
    (row,) = forces_along(walks, Valleys(), range(0, 201, 10))  # 19 of 21 points lie at the minimum
    assert row is not None
    assert row.cosine > 0.99


def test_without_a_reference_forces_are_compared_at_the_starts_or_not_at_all():
    pairs = pairs_at(PLACES)
    assert measure_forces(forces_at_starts(Valleys(), pairs), "x", seed=0).figure is None
    told = replace(pairs, forces_start=Valleys()(pairs.starts).forces)
    found = measure_forces(forces_at_starts(Valleys(), told), "x", seed=0)
    assert found.figure is not None
    assert found.figure.value == pytest.approx(1)
    part = torch.where(pairs.starts.owner[:, None] == 0, torch.nan, told.forces_start)
    some = measure_forces(forces_at_starts(Valleys(), replace(pairs, forces_start=part)), "x", seed=0)
    assert some.figure is not None
    assert some.figure.count == len(PLACES) - 1
    assert "1 without forces" in some.how


def test_the_effective_number_counts_equal_valleys_and_hardly_those_seldom_seen():
    assert effective_number([4, 4, 4, 4]) == 1
    assert effective_number([0, 1] * 500) == pytest.approx(2, rel=1e-3)
    assert effective_number(list(range(4)) * 500) == pytest.approx(4, rel=1e-3)
    assert 1 < effective_number([0] * 99 + [1]) < 1.1
    # Miller's term, in closed form
    assert effective_number([0, 0, 0, 1]) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + 1 / 8)
    )
    assert effective_number([0, 1, 2]) <= 3
    with pytest.raises(ValueError, match="no labels"):
        effective_number([])


def valleys_around(places: list[float], deviation: float) -> float:
    copies = perturbed(at(places), deviation, 40, seed=1, purpose="test", first_as_is=True)
    ends = relax(Valleys(), copies, LBFGS(memory=10), fmax=1e-6, max_steps=100)
    found = measure_valleys(valleys_of(ends, 40, 0.2), "how", seed=0)
    assert found.figure is not None
    return found.figure.value


def test_on_a_ridge_there_are_two_valleys_and_at_a_floor_one():
    assert valleys_around([0.001], 0.1) == pytest.approx(2, abs=0.1)
    assert valleys_around([1.0, -1.0], 0.1) == 1
    assert valleys_around([0.001, 1.0], 0.1) == pytest.approx(1.5, abs=0.05)


def test_mirror_images_are_two_by_geometry_and_one_by_energy():
    ends = ended(at([1.0, -1.0] * 4))
    (row,) = valleys_of(ends, 8, 0.2)
    assert effective_number(row.geometric) > 1.9
    assert effective_number(row.energetic) == 1


def test_relaxations_that_do_not_converge_are_left_out_and_counted():
    ends = replace(ended(at([1.0, -1.0, 1.0, 1.0])), outcomes=(Outcome.CONVERGED, Outcome.EXPLODED) * 2)
    (row,) = valleys_of(ends, 4, 0.2)
    assert (row.geometric, row.lost) == ((0, 0), 2)
    assert "2 relaxations did not converge" in measure_valleys([row], "how", seed=0).how
    lost = replace(ends, outcomes=(Outcome.EXPLODED,) * 4)
    assert measure_valleys(valleys_of(lost, 4, 0.2), "how", seed=0).figure is None


def test_the_minima_of_one_parent_tell_where_there_is_no_reference():
    pairs = pairs_at([0.1, -0.1] * 6)
    assert valleys_of_parents(pairs, 0.2) == []  # every start has a parent of its own
    (row,) = valleys_of_parents(replace(pairs, parents=("one",) * 12), 0.2)
    found = measure_valleys([row], "how", seed=0)
    assert found.figure is not None
    assert found.figure.value == pytest.approx(2 * math.exp(1 / 24))
    assert found.figure.interval is not None
    assert found.figure.interval[0] > 1.3
    assert found.figure.count == 12


def test_perturbed_copies_leave_fixed_atoms_and_follow_the_ids():
    copies = perturbed(at(PLACES[:2]), 0.1, 3, seed=1, purpose="test", first_as_is=True)
    assert copies.ids == ("start-0",) * 3 + ("start-1",) * 3
    moved = (copies.positions - at([PLACES[0]] * 3 + [PLACES[1]] * 3).positions).reshape(6, 2, 3)
    assert torch.all(moved[:, 1] == 0)
    assert torch.all(moved[[0, 3]] == 0)
    assert torch.all(moved[[1, 2, 4, 5], 0] != 0)
    again = perturbed(at(PLACES[:2]).select([1]), 0.1, 3, seed=1, purpose="test")
    assert torch.equal(again.positions[2:], copies.positions[8:])


def test_failures_widen_the_share_that_lands_wrong_and_never_lower_it():
    sure = measure_landing([Verdict.RIGHT] * 40, None, "quench", holds=[True] * 40).figure
    failing = measure_landing([Verdict.RIGHT] * 20 + [Verdict.UNCONVERGED] * 20, None, "quench", holds=[True] * 40)
    assert sure is not None
    assert failing.figure is not None
    assert sure.interval == pytest.approx((0, 0.0876), abs=1e-4)
    assert failing.figure.interval is not None
    assert failing.figure.interval[0] == 0
    assert failing.figure.interval[1] > 0.6
    assert "20 more that did not converge" in failing.how


def test_the_share_that_lands_wrong_is_counted_with_what_stands_beside_it():
    verdicts = [Verdict.WRONG] * 30 + [Verdict.RIGHT] * 10
    found = measure_landing(verdicts, 6, "quench", holds=[True] * 40)
    assert found.figure is not None
    assert found.figure.value == 0.75
    assert {f.name: f.value for f in found.beside} == {
        "right": 0.25,
        "wrong, held or not": 0.75,
        "starts that hold": 1.0,
        "wrong, of another energy": 0.6,
    }
    assert "floor lies elsewhere" in measure_landing([Verdict.WRONG], None, "distance", holds=None).how


def test_a_wrong_end_of_a_start_whose_valley_is_chance_is_nothing_to_gain():
    verdicts = [Verdict.WRONG] * 20 + [Verdict.UNCONVERGED] * 4 + [Verdict.RIGHT] * 16
    found = measure_landing(verdicts, None, "quench", holds=[False] * 18 + [True] * 4 + [False] * 18)
    assert found.figure is not None
    assert found.figure.value == 2 / 40
    assert found.figure.interval == pytest.approx((wilson_interval(2, 40)[0], wilson_interval(4, 40)[1]))
    assert "20 of 40 starts" in found.how
    assert "2 of them hold" in found.how
    assert "2 more that did not converge" in found.how
    assert measure_landing(verdicts, None, "distance", holds=None).figure.value == 0.5


def test_a_start_on_the_ridge_does_not_hold_and_one_in_its_valley_does():
    places = [0.8, 0.01, -0.8]
    minima = [1.0, 1.0, -1.0]
    told = {"copies": 8, "seed": 0}
    pairs = Pairs(at(places), at(minima), parents=("a", "b", "c"))
    for most in (4096, 1):
        held = starts_that_hold(Valleys(0.0), pairs, PATH, Quench(), deviation=0.03, max_atoms=most, **told)
        assert held == [True, False, True]
    assert starts_that_hold(Valleys(0.0), pairs, PATH, Quench(), deviation=1e-6, **told) == [True] * 3
    hasty = replace(PATH, steps=0, max_steps=0)
    assert starts_that_hold(Valleys(0.0), pairs, hasty, Quench(), deviation=0.03, **told) == [False] * 3
